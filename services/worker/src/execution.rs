//! One attempt's container.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use mecapy_engine::{
    End, Engine, Error as EngineError, Limits, OutputSink, RUNNER, ReadOnlyFile, RunOutcome,
    RunRequest, Spent,
};
use mecapy_proto::{ErrorCode, TaskId};
use mecapy_store::tasks::Task;
use mecapy_store::{PgPool, tasks};
use tokio_util::sync::CancellationToken;

use crate::code_layer::Code;
use crate::error::Problem;
use crate::image_choice::Choice;
use crate::images::{Held, Images};
use crate::local_images::FUNCTION_LABEL;
use crate::pool::{PARKED_LABEL, Pool};
use crate::slot::{NotRun, Slot, Used, Wanted};
use crate::{Error, ending, metric_definitions as metrics};

/// Whose container it is. At start, a worker removes those of its own name.
pub(crate) const WORKER_LABEL: &str = "org.mecapy.worker";
pub(crate) const TASK_LABEL: &str = "org.mecapy.task.id";
const ATTEMPT_LABEL: &str = "org.mecapy.task.attempt";

/// How long an engine that is away is waited for within one attempt. A function has no network and no lasting
/// disk, so starting it anew is safe, and an attempt is not spent on it.
const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A task that runs for so long gives its parked container its name. It costs the engine more than a short task.
const NAMED_AFTER: Duration = Duration::from_millis(100);

/// What is run.
pub(crate) struct Execution<'a> {
    pub engine: &'a Engine,
    pub images: &'a Images,
    pub parked: &'a Pool,
    pub pool: &'a PgPool,
    pub task: &'a Task,
    /// What the claim makes it.
    pub attempt: i32,
    pub choice: &'a Choice,
    pub inputs: Bytes,
    pub limits: Limits,
    pub worker: &'a str,
    pub runtime: Option<String>,
    /// How many tasks one container may run, where their function asks for that.
    pub max_uses: u32,
    /// Who sees what the function writes, while it writes.
    pub live: OutputSink,
    pub cancelled: &'a CancellationToken,
}

/// Where the function is run.
pub(crate) enum Start {
    /// In a container of its own image.
    Plain(Arc<Held>),
    /// In one that waits with its dependencies.
    Parked(Box<Slot>, Arc<Code>),
}

/// How it went.
pub(crate) enum Ran {
    /// With what is left of its container.
    Ended(Box<RunOutcome>, Left),
    /// A newer attempt has its container here already.
    Overtaken,
}

/// A container whose function has ended. Dropping it removes it, beside whatever comes next.
pub(crate) enum Left {
    /// It had waited for the task.
    Parked(Box<Used>),
    Plain(Spent),
}

impl Left {
    /// Returns when the container is gone.
    pub(crate) async fn remove(self) {
        match self {
            Self::Parked(used) => used.remove().await,
            Self::Plain(spent) => spent.remove().await,
        }
    }
}

pub(crate) fn container_name(id: TaskId) -> String {
    format!("mecapy-task-{id}")
}

impl Execution<'_> {
    /// Runs the container to its end. Dropping the future is a cancel, and the container is removed.
    pub(crate) async fn run(&self, start: Start) -> Result<Ran, Problem> {
        let image = match start {
            Start::Plain(image) => image,
            Start::Parked(slot, code) => match self.run_parked(*slot, &code).await {
                Some((outcome, used)) => {
                    return Ok(Ran::Ended(Box::new(outcome), Left::Parked(Box::new(used))));
                }
                None => self.images.take(&self.choice.repository, self.choice.digest).await?.0,
            },
        };
        metrics::started("plain");
        self.run_plain(image).await
    }

    /// None: it was not run, or not seen to its end.
    async fn run_parked(&self, slot: Slot, code: &Code) -> Option<(RunOutcome, Used)> {
        // Who looks at the engine sees the task; nobody waits for it.
        let naming = tokio::spawn({
            let (engine, pool) = (self.engine.clone(), self.pool.clone());
            let (container, id) = (slot.parked.id().to_owned(), self.task.id());
            let attempt = self.attempt;
            async move {
                tokio::time::sleep(NAMED_AFTER).await;
                name_after_task(&engine, &pool, &container, id, attempt).await;
            }
        });
        if self.attempt > 1 {
            tokio::spawn(self.remove_earlier(slot.parked.id().to_owned()));
        }
        let (inputs, live) = (self.inputs.clone(), self.live.clone());
        let ran = slot.run(code, inputs, &self.limits, live, self.cancelled).await;
        naming.abort();
        match ran {
            Ok((outcome, mut used)) => {
                metrics::started(used.path);
                let uses = code.uses.min(self.max_uses);
                if outcome.end == End::Exited(0) && used.uses < uses {
                    used.wanted_by = Some(Wanted { key: code.key, image: self.choice.digest });
                }
                Some((outcome, used))
            }
            Err(error) => {
                let is_other_code = matches!(error, NotRun::Engine(EngineError::OtherCode { .. }));
                tracing::warn!(
                    error = mecapy_service::chain(&error),
                    "a parked container did not run its task; it is run in one of its own image"
                );
                if is_other_code {
                    self.parked.turn_off("a container saw other code than was laid out for it");
                }
                None
            }
        }
    }

    async fn run_plain(&self, mut image: Arc<Held>) -> Result<Ran, Problem> {
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let mut was_pulled_again = false;
        loop {
            let error = match self.engine.run(self.request(&image), self.cancelled).await {
                Ok((outcome, spent)) => {
                    return Ok(Ran::Ended(Box::new(outcome), Left::Plain(spent)));
                }
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
                    // As the OCI runtimes say it.
                    let reason = match message.contains("executable file not found") {
                        true => ending::no_runner(RUNNER[0]),
                        false => format!("the function's container can't be started: {message}"),
                    };
                    return Err(Problem::refused(ErrorCode::Internal, reason));
                }
                // The engine does not see the folder.
                EngineError::Refused { status: 400, .. } if self.lent_runner(&image).is_some() => {
                    let reason = ending::no_runner(RUNNER[3]);
                    return Err(Problem::refused(ErrorCode::Internal, reason));
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
                (ATTEMPT_LABEL.to_owned(), self.attempt.to_string()),
                (FUNCTION_LABEL.to_owned(), self.task.function_id.to_string()),
            ]),
            limits: self.limits.clone(),
            stdin: self.inputs.clone(),
            runtime: self.runtime.clone(),
            names: self.parked.name_files(),
            file: self.lent_runner(image),
            live: Some(self.live.clone()),
            ..RunRequest::default()
        }
    }

    /// The worker's own runner, for an image that has none. The image must have the rest of a base image: Python, and the
    /// links of inputs and result.
    fn lent_runner(&self, image: &Held) -> Option<ReadOnlyFile> {
        if image.has_runner() { None } else { self.parked.runner() }
    }

    /// What an earlier attempt left on this engine when its worker died. Where this one is too short to ask for its
    /// name, it would stay.
    fn remove_earlier(&self, own: String) -> impl Future<Output = ()> + Send + use<> {
        let (engine, pool) = (self.engine.clone(), self.pool.clone());
        let (id, attempt) = (self.task.id(), self.attempt);
        async move {
            if let Err(error) = newer_attempt_is_here(&engine, &pool, id, attempt, &own).await {
                let error = mecapy_service::chain(&error);
                tracing::warn!(task.id = %id, error, "containers of earlier attempts were not looked for");
            }
        }
    }

    async fn newer_attempt_is_here(&self) -> Result<bool, Error> {
        newer_attempt_is_here(self.engine, self.pool, self.task.id(), self.attempt, "").await
    }
}

/// Who has the task's name, but for a container of our `own`? An attempt not newer than this one can't record its result any more: its container
/// goes, whoever started it.
async fn newer_attempt_is_here(
    engine: &Engine,
    pool: &PgPool,
    id: TaskId,
    attempt: i32,
    own: &str,
) -> Result<bool, Error> {
    let task = format!("{TASK_LABEL}={id}");
    for container in engine.containers(&[&task]).await? {
        let found = container.labels.get(ATTEMPT_LABEL).and_then(|found| found.parse::<i32>().ok());
        if found.is_some_and(|found| found > attempt) {
            return Ok(true);
        }
        engine.remove_container(&container.id).await?;
    }
    // One that was parked does not carry its task, only its name. The row says whether it can be newer.
    let name = container_name(id);
    for container in engine.containers(&[PARKED_LABEL]).await? {
        if container.name != name || container.id == own {
            continue;
        }
        if tasks::get(pool, id).await?.is_none_or(|task| task.attempt > attempt) {
            return Ok(true);
        }
        engine.remove_container(&container.id).await?;
    }
    Ok(false)
}

/// Gives a parked container the name of the task that it runs, however often that takes: by its name it is found.
async fn name_after_task(
    engine: &Engine,
    pool: &PgPool,
    container: &str,
    id: TaskId,
    attempt: i32,
) {
    let name = container_name(id);
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match engine.rename_container(container, &name).await {
            // It has ended, and is gone.
            Ok(()) | Err(EngineError::Refused { status: 404, .. }) => return,
            Err(error) => error,
        };
        let is_taken = matches!(error, EngineError::NameTaken { .. });
        if is_taken
            && matches!(newer_attempt_is_here(engine, pool, id, attempt, container).await, Ok(true))
        {
            return;
        }
        if pause == FIRST_PAUSE {
            let error = mecapy_service::chain(&error);
            tracing::warn!(task.id = %id, error, "a parked container keeps its first name for now");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
