//! What pip says when it can't resolve or install, in terms that the user can act on: where a base image has no uv.
//!
//! Its words are those of pip 22.3 to 25.

use mecapy_proto::ErrorCode;

use crate::near_names;
use crate::rejection::Rejection;
use crate::uv::{Cause, between};

/// Reads the output of a failed step, its lines in order.
pub fn explain(lines: &[String]) -> Cause {
    let text = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("\n");
    let rejected = |code, message: String| Cause::Requirements(Rejection::new(code, message));
    let line_with =
        |words: &[&str]| text.lines().find(|line| words.iter().any(|word| line.contains(word)));
    if let Some(line) =
        line_with(&["Retrying (Retry(", "Could not fetch URL", "HTTP error", "Client Error"])
    {
        return Cause::Index(line.to_owned());
    }
    if let Some(wanted) = between(&text, "satisfies the requirement ", " (from versions") {
        let name: String = wanted
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
            .collect();
        return rejected(
            ErrorCode::RequirementNotFound,
            format!(
                "the package index has no `{wanted}` that can be installed from a wheel on this Python: check name and \
                 version.{}",
                near_names::question(&name)
            ),
        );
    }
    if let Some(chain) = between(&text, "The conflict is caused by:\n", "To fix this") {
        let lines = chain.lines().filter(|line| !line.is_empty());
        let chain = lines.collect::<Vec<_>>().join("; ");
        return rejected(
            ErrorCode::DependencyConflict,
            format!("the requirements contradict each other. {chain}"),
        );
    }
    Cause::Unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(text: &str) -> Cause {
        explain(&text.lines().map(str::to_owned).collect::<Vec<_>>())
    }

    fn rejected(text: &str) -> (ErrorCode, String) {
        match cause(text) {
            Cause::Requirements(rejection) => (rejection.code, rejection.message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_index_does_not_have_is_named() {
        let (code, message) = rejected(
            "ERROR: Could not find a version that satisfies the requirement nunpy==2.0 (from versions: none)\n\
             ERROR: No matching distribution found for nunpy==2.0",
        );
        assert_eq!(code, ErrorCode::RequirementNotFound);
        assert!(
            message.contains("`nunpy==2.0`") && message.ends_with("Did you mean `numpy`?"),
            "{message}"
        );
    }

    #[test]
    fn a_conflict_shows_its_chain() {
        let (code, message) = rejected(
            "ERROR: Cannot install requests==2.31.0 and urllib3==1.20 because these package versions have conflicting dependencies.\n\
             \nThe conflict is caused by:\n    The user requested urllib3==1.20\n    requests 2.31.0 depends on urllib3<3 and >=1.21.1\n\
             \nTo fix this you could try to:\n1. loosen the range of package versions you've specified\n",
        );
        assert_eq!(code, ErrorCode::DependencyConflict);
        assert!(
            message.ends_with("The user requested urllib3==1.20; requests 2.31.0 depends on urllib3<3 and >=1.21.1"),
            "{message}"
        );
    }

    #[test]
    fn an_index_that_does_not_answer_is_not_the_users_fault() {
        let text = "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by 'ProxyError(…)': /simple/six/\n\
                    ERROR: Could not find a version that satisfies the requirement six (from versions: none)";
        assert!(matches!(cause(text), Cause::Index(_)));
        assert_eq!(cause("ERROR: something else"), Cause::Unknown);
    }
}
