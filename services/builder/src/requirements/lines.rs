//! From the text of a `requirements.txt` to its requirements, one by one.

use super::invalid;
use crate::rejection::Rejection;

/// Most hashes of one requirement: a package with wheels for every platform has about 100.
const MAX_HASHES: usize = 1_000;
/// Options that turn the installer to another source. In a comment they are someone's try at a
/// reader that joins or splits lines otherwise than we do.
const SOURCE_OPTIONS: &[&str] =
    &["--index-url", "--extra-index-url", "--find-links", "--trusted-host", "--no-index", "--pre"];

/// A requirement as it was written, without comment.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it starts, from 1.
    pub number: usize,
    pub requirement: String,
    /// `algorithm:hex`
    pub hashes: Vec<String>,
}

/// Joins continued lines, drops comments, takes the hashes off, refuses options.
pub fn split(text: &str) -> Result<Vec<Line>, Rejection> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;
    for (index, raw) in text.split('\n').enumerate() {
        let number = index + 1;
        let raw = raw.strip_suffix('\r').unwrap_or(raw);
        // Some readers take these for line ends, others for text.
        if let Some(odd) = raw
            .chars()
            .find(|c| (c.is_control() && *c != '\t') || matches!(c, '\u{2028}' | '\u{2029}'))
        {
            return Err(invalid(format!(
                "line {number}: the character U+{:04X} is not accepted",
                u32::from(odd)
            )));
        }
        let (start, mut line) = joined.take().unwrap_or((number, String::new()));
        let (kept, comment) = split_comment(raw);
        if let Some(comment) = comment {
            check_comment(number, comment)?;
        }
        match kept.strip_suffix('\\') {
            Some(begun) if comment.is_none() => {
                line.push_str(begun);
                joined = Some((start, line));
            }
            _ => {
                line.push_str(kept);
                lines.extend(read(start, &line)?);
            }
        }
    }
    match joined {
        None => Ok(lines),
        Some((start, _)) => {
            Err(invalid(format!("line {start}: the text ends in a `\\` with no line after it")))
        }
    }
}

/// A comment is a `#` at the start or after a blank.
fn split_comment(raw: &str) -> (&str, Option<&str>) {
    let hash = raw
        .match_indices('#')
        .map(|(at, _)| at)
        .find(|&at| at == 0 || raw[..at].ends_with([' ', '\t']));
    hash.map_or((raw, None), |at| (&raw[..at], Some(&raw[at..])))
}

fn check_comment(number: usize, comment: &str) -> Result<(), Rejection> {
    if comment.ends_with('\\') {
        return Err(invalid(format!("line {number}: a comment can't be continued with `\\`")));
    }
    let lower = comment.to_ascii_lowercase();
    match SOURCE_OPTIONS.iter().find(|option| lower.contains(*option)) {
        None => Ok(()),
        Some(option) => {
            Err(invalid(format!("line {number}: `{option}` is not accepted, in a comment neither")))
        }
    }
}

fn read(number: usize, line: &str) -> Result<Option<Line>, Rejection> {
    let line = line.trim();
    if line.is_empty() {
        return Ok(None);
    }
    if line.starts_with('-') {
        let option = line.split([' ', '\t', '=']).next().unwrap_or(line);
        let option: String = option.chars().take(40).collect();
        return Err(invalid(format!(
            "line {number}: the option `{option}` is not accepted, only packages of the index"
        )));
    }
    let mut parts = line.split("--hash");
    let requirement = parts.next().unwrap_or_default();
    let hashes = parts.map(|part| hash(number, part)).collect::<Result<Vec<_>, _>>()?;
    if hashes.len() > MAX_HASHES {
        return Err(invalid(format!(
            "line {number}: {} hashes; at most {MAX_HASHES} are accepted",
            hashes.len()
        )));
    }
    if !hashes.is_empty() && !requirement.ends_with([' ', '\t']) {
        return Err(invalid(format!("line {number}: there must be a blank before --hash")));
    }
    Ok(Some(Line { number, requirement: requirement.trim().to_owned(), hashes }))
}

/// `=sha256:…`, or the same after a blank.
fn hash(number: usize, part: &str) -> Result<String, Rejection> {
    let value = part.strip_prefix(['=', ' ', '\t']).unwrap_or_default().trim();
    let digits = |algorithm: &str| match algorithm {
        "sha256" => Some(64),
        "sha384" => Some(96),
        "sha512" => Some(128),
        _ => None,
    };
    let fine = value.split_once(':').is_some_and(|(algorithm, hex)| {
        digits(algorithm) == Some(hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit())
    });
    if fine {
        return Ok(value.to_ascii_lowercase());
    }
    Err(invalid(format!(
        "line {number}: a hash is `--hash=sha256:` and 64 hexadecimal digits (or sha384, sha512)"
    )))
}
