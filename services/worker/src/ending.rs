//! How a run counts as a task's end. Pure.

use bytes::Bytes;
use mecapy_engine::{Capped, End, Limits, OutputProblem, RUNNER, RunOutcome};
use mecapy_proto::ErrorCode;
use mecapy_proto::v1::{Failure, TaskStatus};

use crate::json;

/// How much of stderr a failure shows.
const TAIL_LINES: usize = 20;
const LINE_CHARACTERS: usize = 500;

/// A task's end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub status: TaskStatus,
    /// The function's own, 128 + n for signal n. None: it did not get to end.
    pub exit_code: Option<i32>,
    /// There exactly when it did not succeed.
    pub failure: Option<Failure>,
    /// There exactly when it succeeded: JSON.
    pub result: Option<Bytes>,
}

pub(crate) fn of(outcome: &RunOutcome, limits: &Limits) -> Ending {
    let tail = tail(&outcome.stderr);
    let exit_code = match outcome.end {
        End::Exited(_) if has_no_runner(outcome) => None,
        End::Exited(code) => Some(code),
        End::Signaled(signal) => Some(128 + signal),
        End::TimedOut | End::OutOfMemory | End::Cancelled => None,
    };
    let (status, code, message) = match outcome.end {
        End::Exited(0) => match output(outcome) {
            Ok(result) => {
                return Ending {
                    status: TaskStatus::Succeeded,
                    exit_code,
                    failure: None,
                    result: Some(result),
                };
            }
            Err((code, message)) => (TaskStatus::Failed, code, message),
        },
        End::Exited(_) if has_no_runner(outcome) => {
            (TaskStatus::Failed, ErrorCode::Internal, no_runner(RUNNER_PATH))
        }
        End::Exited(code) => {
            let said = tail.last().map(|line| format!(": {line}")).unwrap_or_default();
            let message = format!("the function ended with exit code {code}{said}");
            (TaskStatus::Failed, ErrorCode::FunctionFailed, message)
        }
        End::Signaled(signal) => {
            let message = format!("the function was ended by {}", signal_name(signal));
            (TaskStatus::Failed, ErrorCode::FunctionFailed, message)
        }
        End::TimedOut => {
            let message = format!(
                "the function was ended after {} s, its limit",
                limits.timeout.as_secs_f64()
            );
            (TaskStatus::TimedOut, ErrorCode::TaskTimedOut, message)
        }
        End::OutOfMemory => {
            let message = format!(
                "the function needed more than its {} MiB of memory; what it writes to /tmp counts",
                limits.memory_bytes >> 20
            );
            (TaskStatus::Oom, ErrorCode::TaskOutOfMemory, message)
        }
        End::Cancelled => {
            (TaskStatus::Cancelled, ErrorCode::TaskCancelled, "cancelled while it ran".to_owned())
        }
    };
    let failure = Failure { code: code.as_str().to_owned(), message, log_tail: tail };
    Ending { status, exit_code, failure: Some(failure), result: None }
}

const RUNNER_PATH: &str = RUNNER[3];

/// Why a function whose image lacks what the worker talks to can't be run, and what to do about it.
pub(crate) fn no_runner(lacks: &str) -> String {
    format!(
        "the function was not run: its image has no {lacks}, so it is not built on a base image of `mecapy base build`, and \
         this worker could not lend it one (worker.pool.directory). Submit the function again, which builds it anew; if \
         that is the same, the base image is to be replaced"
    )
}

/// By Python's words: a function that says the same was run, and its runner tells of its end.
fn has_no_runner(outcome: &RunOutcome) -> bool {
    outcome.output == Err(OutputProblem::Unreported) && {
        let said = outcome.stderr.text();
        said.contains(&format!("can't open file '{RUNNER_PATH}'"))
    }
}

fn output(outcome: &RunOutcome) -> Result<Bytes, (ErrorCode, String)> {
    match &outcome.output {
        Ok(output) => match json::problem(output) {
            None => Ok(output.clone()),
            Some(problem) => {
                Err((ErrorCode::OutputInvalid, format!("/output.json is not JSON: {problem}")))
            }
        },
        Err(problem) => {
            let code = match problem {
                OutputProblem::Missing | OutputProblem::Unreported => ErrorCode::OutputMissing,
                OutputProblem::TooLarge { .. } => ErrorCode::OutputTooLarge,
                OutputProblem::NotAFile | OutputProblem::Garbled => ErrorCode::OutputInvalid,
            };
            Err((code, problem.to_string()))
        }
    }
}

/// The last lines of a stream, as a row can hold them.
fn tail(stream: &Capped) -> Vec<String> {
    let text = stream.text();
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..]
        .iter()
        // PostgreSQL's text holds everything but NUL.
        .map(|line| {
            line.chars()
                .take(LINE_CHARACTERS)
                .map(|c| if c == '\0' { '\u{fffd}' } else { c })
                .collect()
        })
        .collect()
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}

#[cfg(test)]
mod tests {
    use mecapy_engine::Timings;
    use proptest::prelude::*;

    use super::*;

    fn said(text: impl Into<Bytes>) -> Capped {
        let head: Bytes = text.into();
        Capped { total_bytes: head.len() as u64, head, tail: Bytes::new() }
    }

    fn outcome(
        end: End,
        output: Result<Bytes, OutputProblem>,
        stderr: impl Into<Bytes>,
    ) -> RunOutcome {
        RunOutcome {
            end,
            output,
            stdout: said(""),
            stderr: said(stderr),
            timings: Timings::default(),
        }
    }

    fn told(
        end: End,
        output: Result<&'static str, OutputProblem>,
    ) -> (TaskStatus, Option<String>, Option<i32>) {
        let ending = of(&outcome(end, output.map(Bytes::from), ""), &Limits::default());
        (ending.status, ending.failure.map(|failure| failure.code), ending.exit_code)
    }

    #[test]
    fn every_end_has_its_status_and_code() {
        use OutputProblem::*;
        use TaskStatus::{Cancelled, Failed, Oom, Succeeded, TimedOut};
        for (end, output, status, code, exit_code) in [
            (End::Exited(0), Ok("{}"), Succeeded, None, Some(0)),
            (End::Exited(0), Ok("nope"), Failed, Some("output-invalid"), Some(0)),
            (End::Exited(0), Err(Missing), Failed, Some("output-missing"), Some(0)),
            (
                End::Exited(0),
                Err(TooLarge { limit_bytes: 9 }),
                Failed,
                Some("output-too-large"),
                Some(0),
            ),
            (End::Exited(0), Err(NotAFile), Failed, Some("output-invalid"), Some(0)),
            (End::Exited(0), Err(Unreported), Failed, Some("output-missing"), Some(0)),
            (End::Exited(0), Err(Garbled), Failed, Some("output-invalid"), Some(0)),
            (End::Exited(137), Ok("{}"), Failed, Some("function-failed"), Some(137)),
            (End::Signaled(9), Err(Missing), Failed, Some("function-failed"), Some(137)),
            (End::TimedOut, Ok("{}"), TimedOut, Some("task-timed-out"), None),
            (End::OutOfMemory, Err(Unreported), Oom, Some("task-out-of-memory"), None),
            (End::Cancelled, Err(Unreported), Cancelled, Some("task-cancelled"), None),
        ] {
            assert_eq!(told(end, output), (status, code.map(str::to_owned), exit_code), "{end:?}");
        }
    }

    #[test]
    fn a_failure_ends_with_what_went_wrong() {
        let stderr = "Traceback (most recent call last):\n  File \"x\"\nZeroDivisionError: division by zero\n\n";
        let ending =
            of(&outcome(End::Exited(1), Err(OutputProblem::Missing), stderr), &Limits::default());
        let failure = ending.failure.unwrap();
        assert_eq!(
            failure.message,
            "the function ended with exit code 1: ZeroDivisionError: division by zero"
        );
        assert_eq!(failure.log_tail.len(), 3);
    }

    #[test]
    fn an_image_without_the_runner_is_not_the_functions_fault_and_the_failure_says_what_to_do() {
        let said = "python: can't open file '/opt/mecapy/runner.py': [Errno 2] No such file or directory\n";
        let end = |output| of(&outcome(End::Exited(2), output, said), &Limits::default());
        let ending = end(Err(OutputProblem::Unreported));
        let failure = ending.failure.unwrap();
        assert_eq!(
            (ending.status, failure.code.as_str(), ending.exit_code),
            (TaskStatus::Failed, "internal", None)
        );
        assert!(failure.message.contains("Submit the function again"), "{failure:?}");
        assert_eq!(failure.log_tail.len(), 1);
        // What a function says is its own.
        let ending = end(Err(OutputProblem::Missing));
        assert_eq!(ending.failure.unwrap().code, "function-failed");
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![
            (0i32..256).prop_map(End::Exited),
            Just(End::Exited(0)),
            (1i32..65).prop_map(End::Signaled),
            Just(End::TimedOut),
            Just(End::OutOfMemory),
            Just(End::Cancelled),
        ]
    }

    proptest! {
        #[test]
        fn whatever_a_function_leaves_there_is_either_a_result_or_a_failure(
            end in end(),
            output in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Ok(Bytes::from(bytes))),
                Just(Ok(Bytes::from_static(b"[1]"))),
                Just(Err(OutputProblem::Missing)),
                Just(Err(OutputProblem::Garbled)),
            ],
            stderr in proptest::collection::vec(prop_oneof![Just(0u8), Just(b'\n'), any::<u8>()], 0..2000),
        ) {
            let ending = of(&outcome(end, output.clone(), stderr), &Limits::default());
            let succeeded = ending.status == TaskStatus::Succeeded;
            prop_assert_eq!(ending.result.is_some(), succeeded);
            prop_assert_eq!(ending.failure.is_none(), succeeded);
            if let Some(result) = &ending.result {
                prop_assert_eq!(end, End::Exited(0));
                prop_assert!(json::problem(result).is_none());
            }
            if let Some(failure) = &ending.failure {
                prop_assert!(failure.log_tail.len() <= TAIL_LINES);
                prop_assert!(!failure.message.contains('\0'));
                prop_assert!(failure.log_tail.iter().all(|line| !line.contains('\0')));
            }
        }
    }
}
