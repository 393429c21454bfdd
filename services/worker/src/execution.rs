//! One attempt's container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mecapy_engine::{Engine, Error as EngineError, Limits, RunOutcome, RunRequest};
use mecapy_proto::{ErrorCode, TaskId};
use mecapy_store::tasks::Task;
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::error::Problem;
use crate::image_choice::Choice;
use crate::images::{Held, Images};
use crate::local_images::FUNCTION_LABEL;

/// Whose container it is. At start, a worker removes those of its own name.
pub(crate) const WORKER_LABEL: &str = "org.mecapy.worker";
pub(crate) const TASK_LABEL: &str = "org.mecapy.task.id";
const ATTEMPT_LABEL: &str = "org.mecapy.task.attempt";

/// How long an engine that is away is waited for within one attempt. A function has no network and no lasting
/// disk, so starting it anew is safe, and an attempt is not spent on it.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What is run.
pub(crate) struct Execution<'a> {
    pub engine: &'a Engine,
    pub images: &'a Images,
    pub task: &'a Task,
    pub choice: &'a Choice,
    pub inputs: Bytes,
    pub limits: Limits,
    pub worker: &'a str,
    pub runtime: Option<String>,
    pub cancelled: &'a CancellationToken,
}

/// How it went.
pub(crate) enum Ran {
    Ended(Box<RunOutcome>),
    /// A newer attempt has its container here already.
    Overtaken,
}

pub(crate) fn container_name(id: TaskId) -> String {
    format!("mecapy-task-{id}")
}

impl Execution<'_> {
    /// Runs the container to its end. Dropping the future is a cancel, and the container is removed.
    pub(crate) async fn run(&self, mut image: Arc<Held>) -> Result<Ran, Problem> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut was_pulled_again = false;
        loop {
            let error = match self.engine.run(self.request(&image), self.cancelled).await {
                Ok(outcome) => return Ok(Ran::Ended(Box::new(outcome))),
                Err(error) => error,
            };
            match error {
                // Somebody put it out between our look and the create: once is bad luck, twice is not.
                EngineError::ImageNotFound { .. } if !was_pulled_again => {
                    was_pulled_again = true;
                    image.is_gone();
                    (image, _) =
                        self.images.take(&self.choice.repository, self.choice.digest).await?;
                    continue;
                }
                EngineError::NameTaken { .. } => {
                    if self.newer_attempt_is_here().await? {
                        return Ok(Ran::Overtaken);
                    }
                }
                EngineError::Start { ref message, .. } => {
                    let shown = mecapy_service::chain(&error);
                    tracing::error!(error = shown, image = %self.choice.digest, "a container can't be started");
                    return Err(Problem::refused(
                        ErrorCode::Internal,
                        format!("the function's container can't be started: {message}"),
                    ));
                }
                ref error if error.is_transient() => {}
                error => return Err(error.into()),
            }
            if began.elapsed() > PATIENCE {
                return Err(error.into());
            }
            tracing::warn!(
                error = mecapy_service::chain(&error),
                "a container could not be run; it is tried again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The engine then says at once that it was cancelled.
                () = self.cancelled.cancelled() => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn request(&self, image: &Held) -> RunRequest {
        let id = self.task.id();
        RunRequest {
            image: image.id().to_owned(),
            name: container_name(id),
            labels: BTreeMap::from([
                (WORKER_LABEL.to_owned(), self.worker.to_owned()),
                (TASK_LABEL.to_owned(), id.to_string()),
                (ATTEMPT_LABEL.to_owned(), self.task.attempt.to_string()),
                (FUNCTION_LABEL.to_owned(), self.task.function_id.to_string()),
            ]),
            limits: self.limits.clone(),
            stdin: self.inputs.clone(),
            runtime: self.runtime.clone(),
            ..RunRequest::default()
        }
    }

    /// Who has the name? An attempt not newer than this one can't record its result any more: its container goes,
    /// whoever started it.
    async fn newer_attempt_is_here(&self) -> Result<bool, Error> {
        let label = format!("{TASK_LABEL}={}", self.task.id());
        for container in self.engine.containers(&[&label]).await? {
            let attempt =
                container.labels.get(ATTEMPT_LABEL).and_then(|attempt| attempt.parse::<i32>().ok());
            if attempt.is_some_and(|attempt| attempt > self.task.attempt) {
                return Ok(true);
            }
            self.engine.remove_container(&container.id).await?;
        }
        Ok(false)
    }
}
