//! What is accepted as a function's source.
//!
//! The import and call lists are a lint: Python offers many ways round them. The sandbox in which a
//! function runs is the boundary; the lint tells a well-meaning user early.

mod depth;
mod encoding;
mod indentation;
mod lint;
mod location;
mod syntax;

use mecapy_proto::ErrorCode;
use ruff_python_ast::PythonVersion;
use serde::{Deserialize, Serialize};

use crate::rejection::Rejection;

pub use location::Location;

/// Stack of the thread that parses, walks and drops a tree. Only what is touched takes memory;
/// [`depth`] keeps real use to a few MB.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// What a source may hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rules {
    /// Largest source, in bytes.
    pub max_code_bytes: usize,
    /// Modules that may not be imported, with their submodules.
    pub forbidden_imports: Vec<String>,
    /// Builtins that may not be called.
    pub forbidden_calls: Vec<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_code_bytes: 1_048_576,
            forbidden_imports: ["os", "subprocess", "socket"].map(str::to_owned).to_vec(),
            forbidden_calls: vec!["eval".to_owned()],
        }
    }
}

/// Accepts `code` as a module of Python `python`, or says why not.
///
/// Takes CPU time in proportion to the source (about 100 ms a MB): call it where blocking is fine.
pub fn check(code: &[u8], python: PythonVersion, rules: &Rules) -> Result<(), Rejection> {
    if code.len() > rules.max_code_bytes {
        return Err(Rejection::new(
            ErrorCode::CodeTooLarge,
            format!(
                "the code has {} bytes; at most {} are accepted",
                code.len(),
                rules.max_code_bytes
            ),
        ));
    }
    let source = encoding::decode(code)?;
    let worker = std::thread::Builder::new().name("validate".into()).stack_size(STACK_BYTES);
    std::thread::scope(|scope| {
        let verdict = worker
            .spawn_scoped(scope, || {
                depth::check(&source)?;
                syntax::with_tree(&source, python, |module| lint::check(&source, module, rules))
            })
            .map_err(|error| {
                Rejection::new(
                    ErrorCode::Internal,
                    format!("no thread to validate the code on: {error}"),
                )
            })?;
        verdict.join().unwrap_or_else(|_| {
            Err(Rejection::new(
                ErrorCode::Internal,
                "the parser gave up on this code; please report it",
            ))
        })
    })
}

/// Reads "3.11" as a version that sources can be checked against: 3.9 to 3.14.
pub fn python_version(text: &str) -> Option<PythonVersion> {
    let minor = text.strip_prefix("3.")?;
    let plain = (1..=2).contains(&minor.len())
        && !minor.starts_with('0')
        && minor.bytes().all(|b| b.is_ascii_digit());
    let minor: u8 = minor.parse().ok()?;
    (plain && (9..=14).contains(&minor)).then_some(PythonVersion { major: 3, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_from_3_9_to_3_14_are_known() {
        for good in ["3.9", "3.10", "3.11", "3.14"] {
            assert!(python_version(good).is_some(), "{good}");
        }
        for bad in [
            "", "3", "3.", "3.8", "3.15", "3.011", "3.+9", "2.7", "3.11.2", "03.11", "3.11\n",
            "latest",
        ] {
            assert!(python_version(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn one_byte_over_the_limit_is_refused_and_the_limit_itself_is_not() {
        let rules = Rules { max_code_bytes: 10, ..Rules::default() };
        let version = PythonVersion::PY311;
        assert_eq!(check(b"x = 12345\n", version, &rules), Ok(()));
        assert_eq!(
            check(b"x = 123456\n", version, &rules).map_err(|r| r.code),
            Err(ErrorCode::CodeTooLarge)
        );
    }
}
