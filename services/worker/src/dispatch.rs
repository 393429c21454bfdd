//! `task.dispatch`, read: ids are ids, times are times.

use chrono::{DateTime, Utc};
use mecapy_bus::HandlerError;
use mecapy_proto::v1::TaskDispatch;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::{FunctionId, TaskId};
use mecapy_store::tasks::NewTask;

#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub task: NewTask,
    pub inputs: Option<Inputs>,
}

impl Dispatch {
    /// What can't be read is nothing to try again.
    pub(crate) fn read(event: TaskDispatch) -> Result<Self, HandlerError> {
        let id: TaskId = event.task_id.parse().map_err(permanent)?;
        let function = FunctionId::new(event.function_id).map_err(permanent)?;
        let deadline = match &event.deadline {
            Some(deadline) => Some(
                u32::try_from(deadline.nanos)
                    .ok()
                    .and_then(|nanos| DateTime::<Utc>::from_timestamp(deadline.seconds, nanos))
                    .ok_or_else(|| permanent("deadline is not a time"))?,
            ),
            None => None,
        };
        let inputs_s3_key = match &event.inputs {
            Some(Inputs::InputsS3Key(key)) => Some(key.clone()),
            _ => None,
        };
        let image = event.docker_image;
        let task = NewTask {
            id,
            function,
            image,
            inputs_s3_key,
            timeout_ms: event.timeout_ms,
            deadline,
            traceparent: mecapy_bus::traceparent(),
        };
        Ok(Self { task, inputs: event.inputs })
    }
}

fn permanent(error: impl std::fmt::Display) -> HandlerError {
    HandlerError::permanent(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> TaskDispatch {
        TaskDispatch {
            task_id: TaskId::new().to_string(),
            function_id: 7,
            ..TaskDispatch::default()
        }
    }

    fn deadline(seconds: i64, nanos: i32) -> Option<DateTime<Utc>> {
        // Through JSON, as by hand.
        let mut event = event();
        event.deadline = Some(Default::default());
        let stamp = event.deadline.as_mut().unwrap();
        (stamp.seconds, stamp.nanos) = (seconds, nanos);
        Dispatch::read(event).ok().and_then(|dispatch| dispatch.task.deadline)
    }

    #[test]
    fn what_names_no_task_function_or_time_is_for_the_dead_letters() {
        assert!(Dispatch::read(event()).is_ok());
        for bad in [
            TaskDispatch { task_id: "7".to_owned(), ..event() },
            TaskDispatch { function_id: 0, ..event() },
        ] {
            assert!(matches!(Dispatch::read(bad), Err(HandlerError::Permanent(_))));
        }
        assert_eq!(deadline(1, 500).unwrap().timestamp_subsec_nanos(), 500);
        assert_eq!(deadline(i64::MAX, 0), None);
        assert_eq!(deadline(1, -1), None);
    }
}
