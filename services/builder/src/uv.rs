//! What uv says when it can't resolve or install, in terms that the user can act on.
//!
//! Its words are those of uv 0.4 to 0.13; what is not recognised stays a plain `build-failed` with the log.

use mecapy_proto::ErrorCode;

use crate::near_names;
use crate::rejection::Rejection;

/// Why a step with uv failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The requirements can't be had as they are.
    Requirements(Rejection),
    /// The index did not answer as it should: not the user's doing.
    Index(String),
    /// The machine that builds is short of something: not the user's doing either.
    Machine(String),
    /// Something else.
    Unknown,
}

/// Longest chain of reasons that is shown, in bytes.
const MAX_CHAIN: usize = 2_000;

/// Reads the output of a failed step, its lines in order.
pub fn explain(lines: &[String]) -> Cause {
    let text = plain(lines);
    if let Some(line) = text.lines().find(|line| line.contains("No space left on device")) {
        return Cause::Machine(line.to_owned());
    }
    let not_built = || {
        let package = between(&text, "Failed to build `", "`")?;
        Some(Cause::Requirements(not_built(&package, &text)))
    };
    // What it says after that is the package's own.
    if ["The build backend returned an error", "Build backend failed"]
        .iter()
        .any(|w| text.contains(w))
        && let Some(cause) = not_built()
    {
        return cause;
    }
    if let Some(index) = index_trouble(&text) {
        return Cause::Index(index);
    }
    if let Some(cause) = not_built() {
        return cause;
    }
    let Some(chain) = chain(&text) else { return Cause::Unknown };
    let rejected = |code, message: String| Cause::Requirements(Rejection::new(code, message));
    if let Some(name) = word_before(&chain, " was not found in the package registry") {
        return rejected(
            ErrorCode::RequirementNotFound,
            format!(
                "there is no package `{name}` in the package index: check its name.{}",
                near_names::question(&name)
            ),
        );
    }
    let no_wheel =
        [" has no usable wheels", " has no wheels with a matching", " has no compatible wheels"];
    if let Some(package) = no_wheel.iter().find_map(|words| word_before(&chain, words)) {
        let found = hint(&text).map_or_else(String::new, |hint| format!(" {hint}"));
        return rejected(
            ErrorCode::NoMatchingWheel,
            format!(
                "`{package}` has no wheel for this Python; packages are installed from wheels only, since building one \
                 would run its code: choose another version of it, or of Python; operators can allow it with \
                 builder.source_packages.{found}"
            ),
        );
    }
    if !chain.contains(" depends on ") {
        if let Some(wanted) = between(&chain, "there is no version of ", " and ") {
            return rejected(
                ErrorCode::RequirementNotFound,
                format!("the package index has no version `{wanted}`: check the version"),
            );
        }
        if chain.starts_with("Because only ") {
            return rejected(
                ErrorCode::RequirementNotFound,
                format!("the version asked for is not in the package index. {chain}"),
            );
        }
    }
    rejected(
        ErrorCode::DependencyConflict,
        format!("the requirements contradict each other. {chain}"),
    )
}

/// A package that operators allow to be built from its source.
fn not_built(package: &str, text: &str) -> Rejection {
    let why = if lacks_processes(text) {
        "it needs more processes than builder.max_processes allows"
    } else {
        "the log says more"
    };
    let message = format!("`{package}` could not be built from its source: {why}");
    Rejection::new(ErrorCode::BuildFailed, message)
}

/// What programs say that were not given another process or thread.
pub fn lacks_processes(text: &str) -> bool {
    const NO_PROCESS: [&str; 3] =
        ["Resource temporarily unavailable", "can't start new thread", "Cannot fork"];
    NO_PROCESS.iter().any(|words| text.contains(words))
}

/// One text without the frames and marks that some versions draw.
fn plain(lines: &[String]) -> String {
    let strip = |line: &String| {
        let line = line.trim_start_matches(|c: char| c.is_whitespace() || "×╰─▶│├·".contains(c));
        line.strip_prefix("cause: ").unwrap_or(line).trim_end().to_owned()
    };
    lines.iter().map(strip).collect::<Vec<_>>().join("\n")
}

/// From `Because` to the end of its paragraph, on one line.
fn chain(text: &str) -> Option<String> {
    let from = text.find("No solution found when resolving dependencies")?;
    let chain = &text[from..];
    let chain = &chain[chain.find("Because ")?..];
    let end = chain.find("\n\n").or_else(|| chain.find("\nhint: ")).unwrap_or(chain.len());
    let mut chain = chain[..end].split_whitespace().collect::<Vec<_>>().join(" ");
    if chain.len() > MAX_CHAIN {
        chain.truncate(chain.floor_char_boundary(MAX_CHAIN));
        chain.push('…');
    }
    Some(chain)
}

/// What uv adds about the wheels that there are.
fn hint(text: &str) -> Option<String> {
    let (_, hint) = text.split_once("hint: ")?;
    let hint = hint.split("\n\n").next()?.split_whitespace().collect::<Vec<_>>().join(" ");
    hint.contains("we only found wheels").then_some(hint)
}

fn index_trouble(text: &str) -> Option<String> {
    let line_with =
        |words: &[&str]| text.lines().find(|line| words.iter().any(|word| line.contains(word)));
    if let Some(line) = line_with(&["401 Unauthorized", "403 Forbidden"]) {
        return Some(line.trim_start_matches("hint: ").to_owned());
    }
    let failed = text.lines().position(|line| {
        ["Failed to fetch", "Failed to download", "Request failed after", "error sending request"]
            .iter()
            .any(|word| line.contains(word))
    })?;
    // What came is wrong, and comes wrong again: that is no trouble of the index.
    const BROKEN: &[&str] =
        &["Hash mismatch", "Failed to extract", "Failed to read metadata", "is invalid"];
    if text.lines().skip(failed).any(|line| BROKEN.iter().any(|words| line.contains(words))) {
        return None;
    }
    // The last cause says most.
    let causes: Vec<&str> = text.lines().skip(failed).take_while(|line| !line.is_empty()).collect();
    let (first, last) = (causes.first()?, causes.last()?);
    Some(if first == last { (*first).to_owned() } else { format!("{first}: {last}") })
}

/// The name or `name==version` that stands right before some words.
fn word_before(text: &str, words: &str) -> Option<String> {
    let before = &text[..text.find(words)?];
    let word = before.rsplit([' ', '(']).next()?;
    (!word.is_empty()).then(|| word.to_owned())
}

pub fn between(text: &str, start: &str, end: &str) -> Option<String> {
    let rest = &text[text.find(start)? + start.len()..];
    rest.find(end).map(|at| rest[..at].to_owned())
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
    fn a_package_that_is_not_there_is_named() {
        let now = "error: No solution found when resolving dependencies\n  cause: Because no-such-pkg was not found in the package registry and you require no-such-pkg>=1, we can conclude that your requirements are unsatisfiable.\n";
        let before = "  × No solution found when resolving dependencies:\n  ╰─▶ Because no-such-pkg was not found in the package registry and you\n      require no-such-pkg>=1, we can conclude that your requirements are\n      unsatisfiable.\n";
        for text in [now, before] {
            let (code, message) = rejected(text);
            assert_eq!(code, ErrorCode::RequirementNotFound);
            assert!(message.contains("`no-such-pkg`"), "{message}");
        }
        let (_, message) = rejected(&now.replace("no-such-pkg", "nunpy"));
        assert!(message.ends_with("check its name. Did you mean `numpy`?"), "{message}");
    }

    #[test]
    fn a_version_that_is_not_there_is_named() {
        let (code, message) = rejected(
            "error: No solution found when resolving dependencies\n  cause: Because there is no version of numpy==99.0 and you require numpy==99.0, we can conclude that your requirements are unsatisfiable.",
        );
        assert_eq!(code, ErrorCode::RequirementNotFound);
        assert!(message.contains("`numpy==99.0`"), "{message}");
        let (code, _) = rejected(
            "error: No solution found when resolving dependencies\n  cause: Because only numpy<=2.4.6 is available and you require numpy>99, we can conclude that your requirements are unsatisfiable.",
        );
        assert_eq!(code, ErrorCode::RequirementNotFound);
    }

    #[test]
    fn a_package_without_a_wheel_is_named_with_what_there_is() {
        let (code, message) = rejected(
            "error: No solution found when resolving dependencies\n  cause: Because docopt==0.6.2 has no usable wheels and you require docopt==0.6.2, we can conclude that your requirements are unsatisfiable.\n\nhint: Wheels are required for `docopt` because building from source is disabled for all packages (i.e., with `--no-build`)",
        );
        assert_eq!(code, ErrorCode::NoMatchingWheel);
        assert!(message.starts_with("`docopt==0.6.2` has no wheel"), "{message}");
        let (code, message) = rejected(
            "error: No solution found when resolving dependencies\n  cause: Because tensorflow==2.3.0 has no wheels with a matching Python ABI tag (e.g., `cp311`) and you require tensorflow==2.3.0, we can conclude that your requirements are unsatisfiable.\n\nhint: You require CPython 3.11 (`cp311`), but we only found wheels for `tensorflow` (v2.3.0) with the following Python ABI tags: `cp37m`, `cp38`",
        );
        assert_eq!(code, ErrorCode::NoMatchingWheel);
        assert!(message.contains("`cp37m`, `cp38`"), "{message}");
    }

    #[test]
    fn a_conflict_shows_its_chain() {
        let (code, message) = rejected(
            "error: No solution found when resolving dependencies\n  cause: Because requests==2.31.0 depends on urllib3>=1.21.1,<3 and you require requests==2.31.0, we can conclude that you require urllib3>=1.21.1,<3.\n         And because you require urllib3==1.20, we can conclude that your requirements are unsatisfiable.\n",
        );
        assert_eq!(code, ErrorCode::DependencyConflict);
        assert!(
            message.contains("requests==2.31.0 depends on urllib3>=1.21.1,<3")
                && message.contains("And because you require urllib3==1.20"),
            "{message}"
        );
    }

    #[test]
    fn an_index_that_does_not_answer_is_not_the_users_fault() {
        for text in [
            "error: Failed to fetch: https://index.example/simple/six/\n  cause: error sending request for url (https://index.example/simple/six/)\n  cause: client error (Connect)\n  cause: invalid peer certificate: UnknownIssuer",
            "error: Failed to fetch: https://index.example/simple/six/\n  cause: HTTP status server error (500 Internal Server Error) for url (https://index.example/simple/six/)",
            "error: No solution found when resolving dependencies\n  cause: Because six was not found in the package registry and you require six, we can conclude that your requirements are unsatisfiable.\n\nhint: An index URL (https://index.example/simple) could not be queried due to a lack of valid authentication credentials (401 Unauthorized)",
        ] {
            let Cause::Index(message) = cause(text) else { panic!("{text}") };
            assert!(message.contains("index.example"), "{message}");
        }
    }

    #[test]
    fn a_package_whose_source_does_not_build_is_named_with_the_reason() {
        let text = "error: Failed to build `bomb==1.0`\n  cause: The build backend returned an error\n  cause: Call to `backend.build_wheel` failed (exit status: 1)\n\n[stderr]\nBlockingIOError: [Errno 11] Resource temporarily unavailable";
        let (code, message) = rejected(text);
        assert_eq!(code, ErrorCode::BuildFailed);
        assert!(
            message.contains("`bomb==1.0`") && message.contains("builder.max_processes"),
            "{message}"
        );
        let (_, message) = rejected(&text.replace("BlockingIOError: [Errno 11] Resource", ""));
        assert!(message.ends_with("the log says more"), "{message}");
    }

    #[test]
    fn what_is_not_recognised_stays_unknown() {
        for text in ["", "error: something else\n", "No solution found when resolving dependencies"]
        {
            assert_eq!(cause(text), Cause::Unknown, "{text}");
        }
    }
}
