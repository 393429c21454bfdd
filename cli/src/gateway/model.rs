//! The answers, as far as they are shown. What this version does not know is left out here,
//! and is in the output of `--json` all the same.

use mecapy_proto::{BuildId, FunctionId, TaskId};
use mecapy_store::TaskState;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Debug, Serialize)]
pub struct NewFunction<'a> {
    pub name: &'a str,
    pub code: &'a str,
    pub requirements: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_variant: Option<&'a str>,
}

/// A function as its newest build left it.
#[derive(Debug, Clone, Deserialize)]
pub struct Function {
    pub function_id: FunctionId,
    pub status: String,
    pub name: Option<String>,
    pub owner: Option<String>,
    pub version: Option<u32>,
    pub build_id: Option<BuildId>,
    pub docker_image: Option<String>,
    pub image_size: Option<String>,
    pub build_time: Option<String>,
    pub vulnerabilities: Option<Vulnerabilities>,
    pub error: Option<Failure>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Vulnerabilities {
    pub critical: u32,
    pub high: u32,
    pub warnings: Vec<String>,
    /// The advisory database was the built-in starter set.
    pub database_partial: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub log_tail: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Task {
    pub task_id: TaskId,
    pub function_id: FunctionId,
    pub status: String,
    pub attempt: Option<u32>,
    pub cache: Option<String>,
    pub timings: Option<Timings>,
    /// As the function wrote it.
    pub result: Option<Box<RawValue>>,
    pub error: Option<Failure>,
    pub exit_code: Option<i32>,
}

impl Task {
    pub fn has_ended(&self) -> bool {
        TaskState::try_from(self.status.clone()).is_ok_and(TaskState::is_final)
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Timings {
    pub queued_ms: u64,
    pub fetch_ms: u64,
    pub start_ms: u64,
    pub run_ms: u64,
    pub store_ms: u64,
}

/// How a build or a task went.
#[derive(Debug, Deserialize)]
pub struct Waterfall {
    pub kind: String,
    pub id: String,
    pub status: String,
    pub trace_id: Option<String>,
    /// None: it goes on.
    pub ended_at: Option<String>,
    pub duration_ms: f64,
    pub spans: Vec<Span>,
}

/// A stage, or a step of the stage before it.
#[derive(Debug, Deserialize)]
pub struct Span {
    pub name: String,
    #[serde(default)]
    pub service: String,
    #[serde(default)]
    pub depth: u8,
    pub offset_ms: f64,
    pub duration_ms: f64,
    pub status: String,
    #[serde(default)]
    pub attempt: u32,
    pub worker: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_read_whatever_is_missing_or_new() {
        let function: Function =
            serde_json::from_str(r#"{"function_id":456,"status":"queued","of_tomorrow":1}"#)
                .unwrap();
        assert_eq!((function.status.as_str(), function.name), ("queued", None));
        let function: Function = serde_json::from_str(
            r#"{"function_id":456,"status":"rejected","docker_image":null,"error":null,"vulnerabilities":{"critical":1}}"#,
        )
        .unwrap();
        assert_eq!(function.vulnerabilities.unwrap().critical, 1);
    }

    #[test]
    fn a_state_of_tomorrow_is_not_taken_for_an_end() {
        for (status, ended) in
            [("running", false), ("suspended", false), ("timed_out", true), ("succeeded", true)]
        {
            let json = format!(
                r#"{{"task_id":"018f4e3e-0000-7000-8000-000000000000","function_id":1,"status":"{status}"}}"#
            );
            assert_eq!(serde_json::from_str::<Task>(&json).unwrap().has_ended(), ended, "{status}");
        }
    }

    #[test]
    fn a_result_keeps_its_digits() {
        let task: Task = serde_json::from_str(
            r#"{"task_id":"018f4e3e-0000-7000-8000-000000000000","function_id":1,"status":"succeeded","result":{"b":10000000000000000000000001,"a":1}}"#,
        )
        .unwrap();
        assert_eq!(task.result.unwrap().get(), r#"{"b":10000000000000000000000001,"a":1}"#);
    }
}
