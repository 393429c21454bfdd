//! Tasks: run, get, result, logs, cancel.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use mecapy_bus::Outgoing;
use mecapy_objects::Key;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::{ErrorCode, FunctionId, TaskId, failure, v1};
use mecapy_store::tasks::{NewTask, Task};
use mecapy_store::{TaskState, stalled, tasks};
use serde_json::value::RawValue;

use super::{Api, IdempotencyKey, note};
use crate::validate::{check_deadline, check_inputs_size};
use crate::{Caller, Error, metric_definitions as metrics, view};

/// Inputs travel in the event up to this size.
const MAX_INLINE_INPUTS: usize = 256 * 1024;
/// Above what a worker stores.
const MAX_RESULT_BYTES: u64 = 64 * 1024 * 1024;
const MAX_LOG_BYTES: u64 = 32 * 1024 * 1024;

/// A task to run.
#[derive(Debug, Default)]
pub(crate) struct TaskRequest {
    /// Any JSON value, as the caller wrote it: Python sees the same numbers and the same order of keys.
    pub inputs: Option<Box<RawValue>>,
    /// 0: the worker's limit.
    pub timeout_ms: u64,
    /// Not started after this moment.
    pub deadline: Option<DateTime<Utc>>,
}

/// What a function wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogStream {
    Stdout,
    Stderr,
    /// Standard output, then standard error.
    Both,
}

impl Api {
    /// Queues a task of the function's current version, and waits for its end for at most `wait`.
    pub(crate) async fn run_task(
        &self,
        caller: &Caller,
        function: FunctionId,
        request: TaskRequest,
        key: Option<IdempotencyKey>,
        wait: Duration,
        inline: u64,
    ) -> Result<view::Task, Error> {
        caller.must_act()?;
        let stored = self.visible(caller, function).await?;
        self.0.rules.check_timeout(request.timeout_ms)?;
        let inputs = request.inputs.as_deref().map_or("null", RawValue::get);
        check_inputs_size(inputs.len())?;
        let id = match &key {
            Some(key) => key.task(&caller.owner),
            None => TaskId::new(),
        };
        let before = match key {
            Some(_) => tasks::get(&self.0.pool, id).await?,
            None => None,
        };
        if before.is_none() {
            if let Some(deadline) = request.deadline {
                check_deadline(deadline, Utc::now())?;
            }
            // The image of now: a version that is published while the task is queued is not what was asked for.
            let image = stored.docker_image.ok_or(Error::NotReady(function.get()))?;
            self.create_task(id, function, image, inputs, &request).await?;
        } else if before.is_some_and(|task| task.function_id != function.get()) {
            let detail = "the key was used for a task of another function: use a new one";
            return Err(Error::refused(ErrorCode::InvalidField, "Idempotency-Key", detail));
        }
        self.task(caller, id, wait, inline).await
    }

    async fn create_task(
        &self,
        id: TaskId,
        function: FunctionId,
        image: String,
        inputs: &str,
        request: &TaskRequest,
    ) -> Result<(), Error> {
        self.0.backlog.admit()?;
        let stored_at = (inputs.len() > MAX_INLINE_INPUTS).then(|| Key::task_inputs(id));
        if let Some(key) = &stored_at {
            self.0.objects.put(key, Bytes::copy_from_slice(inputs.as_bytes())).await?;
        }
        let stored_at = stored_at.map(|key| key.to_string());
        let new = NewTask {
            id,
            function,
            image: image.clone(),
            inputs_s3_key: stored_at.clone(),
            timeout_ms: request.timeout_ms,
            deadline: request.deadline,
            traceparent: mecapy_bus::traceparent(),
        };
        let event = v1::TaskDispatch {
            task_id: id.to_string(),
            function_id: function.get(),
            docker_image: image,
            inputs: Some(match stored_at {
                Some(key) => Inputs::InputsS3Key(key),
                None => Inputs::InputsJson(inputs.to_owned()),
            }),
            timeout_ms: request.timeout_ms,
            deadline: request.deadline.map(Into::into),
        };
        let mut transaction = self.begin().await?;
        // False: the same key came twice at once, and the other call has made it.
        if tasks::create(&mut transaction, &new).await? {
            if new.inputs_s3_key.is_none() {
                stalled::keep_dispatch(&mut transaction, id, &event).await?;
            }
            self.commit(transaction, Outgoing::event(&event)).await?;
            metrics::accepted("task");
            tracing::info!(task.id = %id, function.id = %function, "task {id} is queued");
        }
        Ok(())
    }

    /// A task; its result too, if it has at most `inline` bytes.
    pub(crate) async fn task(
        &self,
        caller: &Caller,
        id: TaskId,
        wait: Duration,
        inline: u64,
    ) -> Result<view::Task, Error> {
        let mut task = self.visible_task(caller, id).await?;
        if !wait.is_zero() && !task.state.is_final() {
            self.wait_for_task(id, wait).await?;
            task = self.visible_task(caller, id).await?;
        }
        let result = match self.stored_result(&task, inline).await {
            Ok(result) => result.and_then(raw),
            // The task itself is worth an answer without it.
            Err(error) => {
                error.log();
                None
            }
        };
        Ok(view::Task::of(task, result))
    }

    /// The result of a task that succeeded, whatever its size.
    pub(crate) async fn task_result(
        &self,
        caller: &Caller,
        id: TaskId,
        wait: Duration,
    ) -> Result<Bytes, Error> {
        let mut task = self.visible_task(caller, id).await?;
        if !wait.is_zero() && !task.state.is_final() {
            self.wait_for_task(id, wait).await?;
            task = self.visible_task(caller, id).await?;
        }
        let result = self.stored_result(&task, MAX_RESULT_BYTES).await?;
        result.ok_or_else(|| {
            let failure = view::no_result(&task);
            Error::NoResult { code: failure.code, detail: failure.message }
        })
    }

    pub(super) async fn stored_result(
        &self,
        task: &Task,
        limit: u64,
    ) -> Result<Option<Bytes>, Error> {
        if task.state != TaskState::Succeeded {
            return Ok(None);
        }
        // The bucket of results is quicker, and may be away: S3 has all of them.
        if let Ok(Some(result)) = self.0.results.get(task.id()).await {
            return Ok(Some(result).filter(|result| result.len() as u64 <= limit));
        }
        let Some(key) = &task.result_key else { return Ok(None) };
        match self.0.objects.get(&Key::given(key), limit).await {
            Err(mecapy_objects::Error::TooLarge { .. }) if limit < MAX_RESULT_BYTES => Ok(None),
            result => Ok(result?),
        }
    }

    /// What the function wrote in its newest attempt.
    pub(crate) async fn task_log(
        &self,
        caller: &Caller,
        id: TaskId,
        stream: LogStream,
    ) -> Result<Bytes, Error> {
        let task = self.visible_task(caller, id).await?;
        let mut keys = Vec::new();
        if stream != LogStream::Stderr {
            keys.push(Key::task_stdout(id, task.attempt));
        }
        if stream != LogStream::Stdout {
            keys.push(Key::task_stderr(id, task.attempt));
        }
        let mut log = BytesMut::new();
        let mut found = false;
        for key in keys {
            if let Some(part) = self.0.objects.get(&key, MAX_LOG_BYTES).await? {
                found = true;
                log.extend_from_slice(&part);
            }
        }
        // A stream that nothing was written to has no object.
        let has_run = task.attempt > 0
            && task.state.is_final()
            && !matches!(task.state, TaskState::Lost | TaskState::Cancelled);
        if found || has_run {
            return Ok(log.freeze());
        }
        Err(Error::NotFound(format!("log of task {id}: it is {}", task.state)))
    }

    /// Asks for a task's end: a queued one has ended when this returns, a running one soon after.
    pub(crate) async fn cancel(
        &self,
        caller: &Caller,
        id: TaskId,
        wait: Duration,
    ) -> Result<view::Task, Error> {
        caller.must_act()?;
        let task = self.visible_task(caller, id).await?;
        let mut transaction = self.begin().await?;
        let was_queued = tasks::is_queued(&mut transaction, id).await?;
        let outgoing = match tasks::cancel(&mut transaction, id).await? {
            Some(TaskState::Running) => {
                Outgoing::event(&v1::TaskCancel { task_id: id.to_string() })
            }
            // No worker has it, to tell of its end.
            Some(TaskState::Cancelled) if was_queued => Outgoing::event(&v1::TaskDone {
                task_id: id.to_string(),
                function_id: task.function_id,
                attempt: task.attempt.unsigned_abs(),
                status: v1::TaskStatus::Cancelled.into(),
                failure: Some(failure(ErrorCode::TaskCancelled, "cancelled before it started")),
                ..Default::default()
            }),
            _ => Outgoing::none(),
        };
        let detail = serde_json::json!({ "function_id": task.function_id });
        note(&mut transaction, caller, "cancel-task", &id.to_string(), detail).await?;
        self.commit(transaction, outgoing).await?;
        tracing::info!(task.id = %id, owner = %caller.owner, "task {id} is to be cancelled");
        // The event of a queued one's end is for others: who waits here knows at once.
        self.0.hub.wake(id.uuid());
        self.task(caller, id, wait, 0).await
    }

    pub(super) async fn visible_task(&self, caller: &Caller, id: TaskId) -> Result<Task, Error> {
        let not_found = || Error::NotFound(format!("task {id}"));
        let task = tasks::get(&self.0.pool, id).await?.ok_or_else(not_found)?;
        let function =
            FunctionId::new(task.function_id).map_err(|error| Error::Internal(error.into()))?;
        match self.visible(caller, function).await {
            Ok(_) => Ok(task),
            Err(Error::UnknownFunction(_)) => Err(not_found()),
            Err(error) => Err(error),
        }
    }
}

/// None for what is not JSON: a worker stores no such result.
fn raw(result: Bytes) -> Option<Box<RawValue>> {
    RawValue::from_string(String::from_utf8(result.into()).ok()?).ok()
}
