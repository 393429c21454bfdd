//! What is accepted as a function's requirements.
//!
//! Of a `requirements.txt` only `name[extras] specifier ; marker` with `--hash` is taken: nothing that
//! names another index, a URL, a path, a repository or an option. What goes on to the installer is
//! written anew from the parsed form, so that no two readers can see different things in one text.

mod lines;
mod marker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::str::FromStr;

use mecapy_proto::ErrorCode;
use pep508_rs::{
    MarkerTree, MarkerWarningKind, PackageName, Pep508ErrorSource, Pep508Url, Requirement,
    VersionOrUrl,
};

use crate::rejection::Rejection;
pub(crate) use lines::{Line, split as split_lines};

/// Longest `requirements.txt`: room for 50 requirements with all their hashes.
const MAX_TEXT_BYTES: usize = 512 * 1024;
/// Longest requirement without its hashes.
const MAX_REQUIREMENT_BYTES: usize = 512;

/// The requirements of a function, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requirements {
    entries: Vec<Entry>,
}

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    name: PackageName,
    /// `name[extras] specifier ; marker`, from the parsed form.
    text: String,
    /// `algorithm:hex`; empty: any file of the index is taken.
    hashes: BTreeSet<String>,
}

impl Requirements {
    /// Reads the text of a `requirements.txt` with at most `limit` requirements.
    ///
    /// The parser recurses a little and comes from elsewhere: call it where a panic is caught.
    pub fn parse(text: &str, limit: usize) -> Result<Self, Rejection> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(invalid(format!(
                "the requirements have {} bytes; at most {MAX_TEXT_BYTES} are accepted",
                text.len()
            )));
        }
        let lines = split_lines(text)?;
        if lines.len() > limit {
            return Err(Rejection::new(
                ErrorCode::TooManyRequirements,
                format!("there are {} requirements; at most {limit} are accepted", lines.len()),
            ));
        }
        let mut seen: BTreeMap<PackageName, Vec<(usize, Entry, MarkerTree)>> = BTreeMap::new();
        for line in &lines {
            let (entry, marker) = parse_line(line)?;
            let same_name = seen.entry(entry.name.clone()).or_default();
            if let Some((first, ..)) = same_name
                .iter()
                .find(|(_, earlier, other)| *earlier != entry && !other.is_disjoint(&marker))
            {
                return Err(invalid(format!(
                    "`{}` is required twice, in lines {first} and {}: keep one of them",
                    entry.name, line.number
                )));
            }
            same_name.push((line.number, entry, marker));
        }
        let mut entries: Vec<Entry> =
            seen.into_values().flatten().map(|(_, entry, _)| entry).collect();
        entries.sort();
        entries.dedup();
        Ok(Self { entries })
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What the resolver reads: one requirement a line.
    pub fn render(&self) -> String {
        self.entries.iter().map(|entry| format!("{}\n", entry.text)).collect()
    }

    /// The hashes that the user allows for a package; none named: `None`.
    pub fn hashes(&self, name: &PackageName) -> Option<BTreeSet<&str>> {
        let named: BTreeSet<&str> = self
            .entries
            .iter()
            .filter(|e| e.name == *name)
            .flat_map(|e| &e.hashes)
            .map(String::as_str)
            .collect();
        (!named.is_empty()).then_some(named)
    }

    /// All that a resolution depends on, hashes too.
    pub fn fingerprint_text(&self) -> String {
        let hashes = |entry: &Entry| {
            entry.hashes.iter().map(|hash| format!(" --hash={hash}")).collect::<String>()
        };
        self.entries.iter().map(|entry| format!("{}{}\n", entry.text, hashes(entry))).collect()
    }
}

fn parse_line(line: &Line) -> Result<(Entry, MarkerTree), Rejection> {
    let refuse = |why: String| {
        invalid(format!("line {}: {why}: `{}`", line.number, shortened(&line.requirement)))
    };
    check_shape(&line.requirement).map_err(refuse)?;
    let requirement = parse(&line.requirement).map_err(refuse)?;
    let text = render(&requirement);
    // What is written must mean what was read.
    if parse(&text).as_ref() != Ok(&requirement) {
        return Err(refuse("this can't be written down safely; write it more simply".to_owned()));
    }
    let hashes = line.hashes.iter().cloned().collect();
    Ok((Entry { name: requirement.name, text, hashes }, requirement.marker))
}

/// Refuses, before any parser, what would make one read the disk, the environment or the network,
/// and what would make the marker's algebra grow.
fn check_shape(text: &str) -> Result<(), String> {
    if text.len() > MAX_REQUIREMENT_BYTES {
        return Err(format!("a requirement has at most {MAX_REQUIREMENT_BYTES} characters"));
    }
    if !text.bytes().all(|b| b.is_ascii_graphic() || b == b' ' || b == b'\t') {
        return Err("a requirement is plain ASCII".to_owned());
    }
    if text.contains('$') {
        return Err("`$` is not accepted: environment variables are not expanded".to_owned());
    }
    let (package, marker) =
        text.split_once(';').map_or((text, ""), |(package, marker)| (package, marker));
    let lower = package.to_ascii_lowercase();
    if package.contains("://")
        || ["git+", "hg+", "svn+", "bzr+", "file:"].iter().any(|vcs| lower.contains(vcs))
        || package.contains('@')
    {
        return Err("URLs and repositories are not accepted, only packages of the index".to_owned());
    }
    if package.contains(['/', '\\']) || package.starts_with(['.', '~']) {
        return Err("paths are not accepted, only packages of the index".to_owned());
    }
    if [".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]
        .iter()
        .any(|end| lower.trim_end().ends_with(end))
    {
        return Err("files are not accepted, only packages of the index".to_owned());
    }
    if package.contains(" -") || package.contains("\t-") {
        return Err("options are not accepted, except --hash".to_owned());
    }
    check_names(package)?;
    marker::check_shape(marker)
}

/// `pep508_rs` panics on a name or an extra that ends in a mark.
fn check_names(package: &str) -> Result<(), String> {
    let is_mark = |c: char| matches!(c, '-' | '_' | '.');
    let in_name = |c: char| c.is_ascii_alphanumeric() || is_mark(c);
    // It takes a name as far as it goes, whatever comes then.
    let name_of = |text: &str| {
        let text = text.trim_start();
        text[..text.find(|c| !in_name(c)).unwrap_or(text.len())].to_owned()
    };
    let extras = package
        .split_once('[')
        .map_or("", |(_, rest)| rest.split_once(']').map_or(rest, |(inside, _)| inside));
    match std::iter::once(package)
        .chain(extras.split(','))
        .map(name_of)
        .find(|name| name.ends_with(is_mark))
    {
        Some(name) => Err(format!("`{name}` is no name: it ends in a mark")),
        None => Ok(()),
    }
}

fn parse(text: &str) -> Result<Requirement<NoUrl>, String> {
    let mut ignored = None;
    let mut reporter = |_: MarkerWarningKind, warning: String| {
        ignored.get_or_insert(warning);
    };
    // The folder would be that of relative paths, of which there are none.
    let mut requirement =
        Requirement::<NoUrl>::parse_reporter(text, "/", &mut reporter).map_err(|e| {
            match e.message {
                Pep508ErrorSource::String(message)
                | Pep508ErrorSource::UnsupportedRequirement(message) => tidy(&message),
                Pep508ErrorSource::UrlError(refused) => refused.to_string(),
            }
        })?;
    requirement.extras.sort();
    requirement.extras.dedup();
    match ignored {
        None => Ok(requirement),
        Some(warning) => Err(tidy(&warning)),
    }
}

fn tidy(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn render(requirement: &Requirement<NoUrl>) -> String {
    let mut text = requirement.name.to_string();
    if !requirement.extras.is_empty() {
        let extras: Vec<&str> = requirement.extras.iter().map(AsRef::as_ref).collect();
        text.push_str(&format!("[{}]", extras.join(",")));
    }
    if let Some(VersionOrUrl::VersionSpecifier(specifiers)) = &requirement.version_or_url {
        text.push_str(&specifiers.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
    }
    if let Some(marker) = requirement.marker.contents() {
        text.push_str(&format!(" ; {marker}"));
    }
    text
}

fn shortened(text: &str) -> String {
    let clean: String =
        text.chars().map(|c| if c.is_control() { '?' } else { c }).take(80).collect();
    if clean.len() < text.len() { format!("{clean}…") } else { clean }
}

fn invalid(message: String) -> Rejection {
    Rejection::new(ErrorCode::InvalidRequirement, message)
}

/// The type of a requirement's URL: there is none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum NoUrl {}

#[derive(Debug, Clone, thiserror::Error)]
#[error("URLs are not accepted, only packages of the index")]
struct UrlRefused;

impl std::fmt::Display for NoUrl {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {}
    }
}

impl Pep508Url for NoUrl {
    type Err = UrlRefused;

    fn parse_url(_: &str, _: Option<&Path>) -> Result<Self, UrlRefused> {
        Err(UrlRefused)
    }
}

/// A package's name, normalised.
pub fn package_name(text: &str) -> Option<PackageName> {
    PackageName::from_str(text).ok()
}

#[cfg(test)]
mod tests;
