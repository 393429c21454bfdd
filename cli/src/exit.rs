//! Exit codes: what a script may rely on.

use std::process::ExitCode;

use crate::gateway;

/// Shown at the end of `--help`.
pub const HELP: &str = "\
Exit codes:
    0  done
    1  failed or refused: the build or the task failed, the server said no
    2  used in the wrong way: arguments, files, configuration
    3  the scan rejected the build
    4  there is no such function, build, task, webhook, worker or dead letter
    5  a server can't be reached
  130  interrupted; what was begun goes on";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Rejected = 3,
    NotFound = 4,
    Unreachable = 5,
    Interrupted = 130,
}

impl Exit {
    /// How a build's end is told.
    pub fn of_build(status: &str) -> Self {
        match status {
            "ready" => Self::Done,
            "rejected" => Self::Rejected,
            _ => Self::Failed,
        }
    }

    /// How a task's end is told.
    pub fn of_task(status: &str) -> Self {
        if status == "succeeded" { Self::Done } else { Self::Failed }
    }

    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            return Some(match stop {
                Stop::Usage(_) => Self::Usage,
                Stop::NotFound(_) => Self::NotFound,
                Stop::Unreachable(_) => Self::Unreachable,
                Stop::Interrupted(_) => Self::Interrupted,
            });
        }
        if let Some(error) = cause.downcast_ref::<gateway::Error>() {
            return Some(match error {
                gateway::Error::Refused(problem) if problem.status == 404 => Self::NotFound,
                error if error.is_passing() => Self::Unreachable,
                _ => Self::Failed,
            });
        }
        cause.downcast_ref::<mecapy_service::ConfigError>().map(|_| Self::Usage)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stops, where the reason decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Stop {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Interrupted(String),
}

impl Stop {
    /// The `code` of the error in JSON.
    fn code(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::NotFound(_) => "not-found",
            Self::Unreachable(_) => "unreachable",
            Self::Interrupted(_) => "interrupted",
        }
    }
}

/// An error as `--json` tells it.
pub fn as_json(error: &anyhow::Error) -> serde_json::Value {
    let mut code = "failed";
    let mut field = None;
    for cause in error.chain() {
        if let Some(stop) = cause.downcast_ref::<Stop>() {
            code = stop.code();
        } else if let Some(error) = cause.downcast_ref::<gateway::Error>() {
            code = error.code();
            field = error.field();
        } else if cause.downcast_ref::<mecapy_service::ConfigError>().is_some() {
            code = "usage";
        }
    }
    serde_json::json!({
        "error": { "code": code, "message": format!("{error:#}"), "field": field, "exit_code": Exit::of(error) as u8 }
    })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;
    use crate::gateway::Problem;

    fn refused(status: u16) -> anyhow::Error {
        gateway::Error::Refused(Problem { status, ..Problem::default() }).into()
    }

    #[test]
    fn each_reason_has_its_exit_code() {
        assert_eq!(Exit::of(&Stop::Usage(String::new()).into()), Exit::Usage);
        assert_eq!(Exit::of(&Stop::Interrupted(String::new()).into()), Exit::Interrupted);
        assert_eq!(Exit::of(&refused(404)), Exit::NotFound);
        assert_eq!(Exit::of(&refused(422)), Exit::Failed);
        assert_eq!(Exit::of(&refused(401)), Exit::Failed);
        assert_eq!(Exit::of(&refused(503)), Exit::Unreachable);
        assert_eq!(Exit::of(&anyhow::anyhow!("something else")), Exit::Failed);
    }

    #[test]
    fn words_around_an_error_do_not_change_its_exit_code() {
        let error = Err::<(), _>(refused(404)).context("watching build 1").unwrap_err();
        assert_eq!(Exit::of(&error), Exit::NotFound);
    }

    #[test]
    fn an_end_of_a_build_or_task_has_its_exit_code() {
        assert_eq!(Exit::of_build("ready"), Exit::Done);
        assert_eq!(Exit::of_build("failed"), Exit::Failed);
        assert_eq!(Exit::of_build("rejected"), Exit::Rejected);
        assert_eq!(Exit::of_task("succeeded"), Exit::Done);
        for end in ["failed", "timed_out", "oom", "cancelled", "lost"] {
            assert_eq!(Exit::of_task(end), Exit::Failed);
        }
    }

    #[test]
    fn an_error_as_json_has_the_code_and_the_field() {
        let problem = Problem {
            status: 422,
            code: "unsupported-python".into(),
            field: Some("python_version".into()),
            ..Problem::default()
        };
        let json = as_json(&gateway::Error::Refused(problem).into());
        assert_eq!(json["error"]["code"], "unsupported-python");
        assert_eq!(json["error"]["field"], "python_version");
        assert_eq!(json["error"]["exit_code"], 1);
    }
}
