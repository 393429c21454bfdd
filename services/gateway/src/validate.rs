//! What is cheap to see at the door. Pure. Syntax, imports and the grammar of requirements are the builder's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_proto::ErrorCode;

use crate::Error;

pub(crate) const MAX_NAME: usize = 64;
pub(crate) const MAX_CODE_BYTES: usize = 1_048_576;
pub(crate) const MAX_REQUIREMENTS: usize = 50;
/// Room for 50 requirements with all their hashes; as the builder has it.
pub(crate) const MAX_REQUIREMENTS_BYTES: usize = 512 * 1024;
pub(crate) const MAX_INPUTS_BYTES: usize = 10 * 1_048_576;
const MAX_IDEMPOTENCY_KEY: usize = 255;

/// A function as it is submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    pub name: String,
    pub code: String,
    /// The text of a requirements.txt.
    pub requirements: String,
    pub python_version: String,
    pub base_variant: String,
}

/// What a submission may ask for.
#[derive(Debug, Clone)]
pub struct Rules {
    pub python_versions: Vec<String>,
    pub variants: Vec<String>,
    pub max_task_timeout: Duration,
}

/// "3.9" to "3.14".
pub(crate) fn is_python_version(text: &str) -> bool {
    text.strip_prefix("3.")
        .is_some_and(|minor| matches!(minor, "9" | "10" | "11" | "12" | "13" | "14"))
}

/// What can stand in the tag of a base image.
pub(crate) fn is_variant(text: &str) -> bool {
    (1..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl Rules {
    pub(crate) fn check(&self, submission: &Submission) -> Result<(), Error> {
        check_name(&submission.name)?;
        check_code(&submission.code)?;
        check_requirements(&submission.requirements)?;
        self.check_python(&submission.python_version)?;
        self.check_variant(&submission.base_variant)
    }

    fn check_python(&self, python: &str) -> Result<(), Error> {
        if self.python_versions.iter().any(|known| known == python) {
            return Ok(());
        }
        let problem = if is_python_version(python) {
            format!("Python {python} is not offered here")
        } else {
            format!("{:?} is not a Python version such as \"3.11\"", shortened(python))
        };
        let detail = format!("{problem}; choose one of {}", self.python_versions.join(", "));
        Err(Error::refused(ErrorCode::UnsupportedPython, "python_version", detail))
    }

    fn check_variant(&self, variant: &str) -> Result<(), Error> {
        if self.variants.iter().any(|known| known == variant) {
            return Ok(());
        }
        let detail = format!(
            "there is no base image {:?}; choose one of {}",
            shortened(variant),
            self.variants.join(", ")
        );
        Err(Error::refused(ErrorCode::UnsupportedVariant, "base_variant", detail))
    }

    /// 0 stands for the default.
    pub(crate) fn check_timeout(&self, timeout_ms: u64) -> Result<(), Error> {
        let most = u64::try_from(self.max_task_timeout.as_millis()).unwrap_or(u64::MAX);
        if timeout_ms <= most {
            return Ok(());
        }
        Err(Error::field_is(
            "timeout_ms",
            format!("timeout_ms is {timeout_ms}; at most {most} is accepted"),
        ))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let fine = (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    if fine {
        return Ok(());
    }
    let detail =
        format!("the name is 1 to {MAX_NAME} of a-z, 0-9, '-' and '_', not {:?}", shortened(name));
    Err(Error::refused(ErrorCode::InvalidField, "name", detail))
}

fn check_code(code: &str) -> Result<(), Error> {
    if code.trim().is_empty() {
        return Err(Error::refused(ErrorCode::InvalidField, "code", "the code is empty"));
    }
    if code.len() > MAX_CODE_BYTES {
        let detail =
            format!("the code has {} bytes; at most {MAX_CODE_BYTES} are accepted", code.len());
        return Err(Error::refused(ErrorCode::CodeTooLarge, "code", detail));
    }
    Ok(())
}

fn check_requirements(text: &str) -> Result<(), Error> {
    let refused = |code, detail| Err(Error::refused(code, "requirements", detail));
    if text.len() > MAX_REQUIREMENTS_BYTES {
        let detail = format!(
            "the requirements have {} bytes; at most {MAX_REQUIREMENTS_BYTES} are accepted",
            text.len()
        );
        return refused(ErrorCode::InvalidRequirement, detail);
    }
    // The database can't keep it, and no requirement has it.
    if let Some(line) = text.lines().position(|line| line.contains('\0')) {
        return refused(
            ErrorCode::InvalidRequirement,
            format!("line {}: a null character is not accepted", line + 1),
        );
    }
    let count = count_requirements(text);
    if count > MAX_REQUIREMENTS {
        let detail =
            format!("there are {count} requirements; at most {MAX_REQUIREMENTS} are accepted");
        return refused(ErrorCode::TooManyRequirements, detail);
    }
    Ok(())
}

/// Lines that are neither empty nor a comment; a line continued with `\` counts once.
fn count_requirements(text: &str) -> usize {
    let mut count = 0;
    let mut continued = false;
    for line in text.lines() {
        let line = line.trim_end();
        let said = line.trim_start();
        if !continued && !said.is_empty() && !said.starts_with('#') {
            count += 1;
        }
        continued = line.ends_with('\\') && (continued || !said.starts_with('#'));
    }
    count
}

pub(crate) fn check_deadline(deadline: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), Error> {
    if deadline > now {
        return Ok(());
    }
    let detail = format!("the deadline {} has passed", deadline.to_rfc3339());
    Err(Error::refused(ErrorCode::DeadlineExceeded, "deadline", detail))
}

pub(crate) fn check_inputs_size(bytes: usize) -> Result<(), Error> {
    if bytes <= MAX_INPUTS_BYTES {
        return Ok(());
    }
    let detail = format!("the inputs have {bytes} bytes; at most {MAX_INPUTS_BYTES} are accepted");
    Err(Error::refused(ErrorCode::InputsTooLarge, "inputs", detail))
}

pub(crate) fn check_idempotency_key(key: &str) -> Result<(), Error> {
    if (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())
        && key.bytes().all(|b| (b' '..=b'~').contains(&b))
    {
        return Ok(());
    }
    let detail = format!("the key is 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters");
    Err(Error::refused(ErrorCode::InvalidField, "Idempotency-Key", detail))
}

/// Enough to recognise it by.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            python_versions: vec!["3.11".into(), "3.13".into()],
            variants: vec!["slim".into()],
            max_task_timeout: Duration::from_secs(300),
        }
    }

    fn submission() -> Submission {
        Submission {
            name: "stats".into(),
            code: "print(1)\n".into(),
            requirements: String::new(),
            python_version: "3.11".into(),
            base_variant: "slim".into(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Submission)) -> Option<(String, String)> {
        let mut submission = submission();
        change(&mut submission);
        let error = rules().check(&submission).err()?;
        Some((error.code().to_owned(), error.field()?.to_owned()))
    }

    fn is(code: &str, field: &str) -> Option<(String, String)> {
        Some((code.to_owned(), field.to_owned()))
    }

    #[test]
    fn each_field_is_refused_under_its_name() {
        assert_eq!(refusal(|_| {}), None);
        for bad in ["", "Stats", "a b", "a/b", "ä", &"a".repeat(65)] {
            assert_eq!(refusal(|s| s.name = bad.into()), is("invalid-field", "name"), "{bad}");
        }
        assert_eq!(refusal(|s| s.name = "a-b_9".repeat(12)), None);
        assert_eq!(refusal(|s| s.code = " \n".into()), is("invalid-field", "code"));
        assert_eq!(
            refusal(|s| s.requirements = "numpy\0".into()),
            is("invalid-requirement", "requirements")
        );
        assert_eq!(
            refusal(|s| s.base_variant = "alpine".into()),
            is("unsupported-variant", "base_variant")
        );
    }

    #[test]
    fn one_byte_of_code_over_the_limit_is_refused_and_the_limit_itself_is_not() {
        assert_eq!(refusal(|s| s.code = "#".repeat(1_048_576)), None);
        assert_eq!(refusal(|s| s.code = "#".repeat(1_048_577)), is("code-too-large", "code"));
    }

    #[test]
    fn fifty_requirements_are_accepted_and_fifty_one_are_not() {
        let lines = |n: usize| {
            (0..n).map(|i| format!("p{i}==1 \\\n  --hash=sha256:0\n# why\n\n")).collect::<String>()
        };
        assert_eq!(refusal(|s| s.requirements = lines(50)), None);
        assert_eq!(
            refusal(|s| s.requirements = lines(51)),
            is("too-many-requirements", "requirements")
        );
    }

    #[test]
    fn a_comment_continues_nothing() {
        assert_eq!(count_requirements("# a \\\nnumpy\n\\\nscipy\\\n"), 2);
    }

    #[test]
    fn a_version_is_one_of_those_that_are_offered() {
        for bad in ["3.12", "3.8", "3", "2.7", "latest", "3.11.1"] {
            assert_eq!(
                refusal(|s| s.python_version = bad.into()),
                is("unsupported-python", "python_version"),
                "{bad}"
            );
        }
        assert_eq!(refusal(|s| s.python_version = "3.13".into()), None);
    }

    #[test]
    fn a_task_may_not_ask_for_more_time_than_there_is() {
        assert!(rules().check_timeout(0).is_ok() && rules().check_timeout(300_000).is_ok());
        assert_eq!(rules().check_timeout(300_001).unwrap_err().field(), Some("timeout_ms"));
    }

    #[test]
    fn an_idempotency_key_is_printable_and_short() {
        assert!(check_idempotency_key("0f-1 a").is_ok());
        for bad in ["", "a\n", "ä", &"a".repeat(256)] {
            assert!(check_idempotency_key(bad).is_err(), "{bad:?}");
        }
    }
}
