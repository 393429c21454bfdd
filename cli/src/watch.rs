//! Waiting for the end of a build or a task, and for a worker.

use std::future::Future;
use std::time::Duration;

use mecapy_proto::{BuildId, TaskId};
use tokio::time::Instant;

use crate::exit::Stop;
use crate::gateway::{Answer, BuildEvent, Client, Error, Function, Task, TaskEvent, Worker};
use crate::progress::Progress;

/// A gateway that was there and is gone is waited for this long: long enough for a restart.
const AWAY_LIMIT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long the gateway is asked to hold a question about a task.
const HOLD: Duration = Duration::from_secs(20);
/// Between two questions, where it doesn't.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Between two looks at a worker.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows a build until it ends, over as many connections as it takes. Lines of the log that come while there is
/// none are not seen: the log that is stored has them.
pub async fn build(
    client: &Client,
    id: BuildId,
    progress: &mut Progress,
) -> Result<Answer<Function>, Error> {
    let mut outage = Outage::default();
    loop {
        let reason = match follow(client, id, &mut outage, progress).await {
            Ok(function) => return Ok(function),
            Err(reason) => reason,
        };
        outage.wait(reason, progress).await?;
    }
}

/// One connection's worth of events.
async fn follow(
    client: &Client,
    id: BuildId,
    outage: &mut Outage,
    progress: &mut Progress,
) -> Result<Answer<Function>, Error> {
    let mut events = client.build_events(id).await?;
    loop {
        let event = events.next().await?;
        outage.is_over();
        match event {
            BuildEvent::Status(status) => progress.stage(&status),
            BuildEvent::Log(text) => progress.log(&text),
            BuildEvent::Ended(function) => return Ok(*function),
        }
    }
}

/// Shows what a task's function writes until it ends, from its beginning, over as many connections as it takes.
pub async fn task_log(
    client: &Client,
    id: TaskId,
    progress: &mut Progress,
    mut show: impl FnMut(&str),
) -> Result<Answer<Task>, Error> {
    let mut outage = Outage::default();
    let mut last = String::new();
    loop {
        let follow = async {
            let mut events = client.task_events(id, &last).await?;
            loop {
                let event = events.next().await?;
                outage.is_over();
                if !events.last_id().is_empty() {
                    events.last_id().clone_into(&mut last);
                }
                match event {
                    TaskEvent::Status(status) => progress.stage(&status),
                    TaskEvent::Log(text) => show(&text),
                    TaskEvent::Ended(task) => return Ok(*task),
                }
            }
        };
        let reason = match follow.await {
            Ok(task) => return Ok(task),
            Err(reason) => reason,
        };
        outage.wait(reason, progress).await?;
    }
}

/// Waits for a task's end.
pub async fn task(
    client: &Client,
    id: TaskId,
    progress: &mut Progress,
) -> Result<Answer<Task>, Error> {
    let mut outage = Outage::default();
    loop {
        let asked = Instant::now();
        match client.task(id, Some(HOLD)).await {
            Ok(task) if task.value.has_ended() => return Ok(task),
            Ok(task) => {
                outage.is_over();
                progress.stage(&task.value.status);
                tokio::time::sleep_until(asked + ASK_EVERY).await;
            }
            Err(reason) => outage.wait(reason, progress).await?,
        }
    }
}

/// Looks at a worker until it is as it should. None: there is nothing to see of it any more.
pub async fn worker(
    client: &Client,
    name: &str,
    progress: &mut Progress,
    is_as_wanted: impl Fn(&Answer<Worker>) -> bool,
) -> Result<Option<Answer<Worker>>, Error> {
    let mut outage = Outage::default();
    loop {
        match client.worker(name).await {
            Ok(None) => return Ok(None),
            Ok(Some(worker)) if is_as_wanted(&worker) => return Ok(Some(worker)),
            Ok(Some(worker)) => {
                outage.is_over();
                let Worker { state, running, .. } = &worker.value;
                progress.stage(&format!("{state}, {running} in hand"));
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(reason) => outage.wait(reason, progress).await?,
        }
    }
}

/// How long nothing has been heard, and how long to wait before the next try.
#[derive(Debug, Default)]
struct Outage {
    heard: Option<Instant>,
    pause: Duration,
}

impl Outage {
    fn is_over(&mut self) {
        self.heard = Some(Instant::now());
        self.pause = Duration::ZERO;
    }

    /// Waits before the next try, or gives the reason back: it won't pass, it has not passed for too long,
    /// or nothing has been heard at all.
    async fn wait(&mut self, reason: Error, progress: &Progress) -> Result<(), Error> {
        let Some(heard) = self.heard else { return Err(reason) };
        if !reason.is_passing() || heard.elapsed() > AWAY_LIMIT {
            return Err(reason);
        }
        if self.pause.is_zero() {
            progress.note(&format!("{reason}; trying again"));
        }
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

/// Does the work, unless it is interrupted: then `go_on` says how to come back to it.
pub async fn unless_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    go_on: impl FnOnce() -> String,
) -> anyhow::Result<T> {
    tokio::select! {
        outcome = work => outcome,
        Ok(()) = tokio::signal::ctrl_c() => Err(Stop::Interrupted(format!("interrupted; {}", go_on())).into()),
    }
}
