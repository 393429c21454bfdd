//! Tasks that stand still: dispatched again, or ended as LOST.
//!
//! A worker that dies leaves its message unacknowledged, and another worker has it in half a minute: no work for the
//! sweep. It is for messages that are gone. The attempt is the fence here too: a task that runs after all is recorded
//! once.

use chrono::{DateTime, Utc};
use mecapy_bus::{Outgoing, topology};
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::v1::{TaskDispatch, TaskDone, TaskStatus, TaskTimings};
use mecapy_proto::{ErrorCode, failure};
use mecapy_store::stalled::{self, StalledTask};
use mecapy_store::tasks::{self, Completion};
use mecapy_store::{StoredFailure, TaskState};

use super::queues::Queues;
use super::{Error, Report, Sweeps};

const AT_ONCE: u32 = 1000;

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let grace = sweeps.options.stalled_after();
    let mut queues = Queues::new(&sweeps.bus, grace);
    let limit = sweeps.options.task_limit();
    for stalled in stalled::tasks(&sweeps.pool, grace, limit, AT_ONCE).await? {
        if !queues.is_lost(topology::WORKER, stalled.sent_at).await? {
            continue;
        }
        if stalled.resent >= sweeps.options.max_resends {
            let message = format!(
                "it was dispatched again {} times and no worker took it to its end: run it again",
                stalled.resent
            );
            end(sweeps, &stalled, message, report).await?;
            continue;
        }
        match dispatch(&stalled) {
            Some(event) => {
                resend(sweeps, &stalled, Outgoing::again(&event, now), report).await?;
            }
            None => {
                let message = "its inputs are nowhere to be found any more: run it again";
                end(sweeps, &stalled, message.to_owned(), report).await?;
            }
        }
    }
    Ok(())
}

/// As it was first dispatched. None: its inputs were inside a message that nobody kept.
fn dispatch(stalled: &StalledTask) -> Option<TaskDispatch> {
    if let Some(dispatch) = &stalled.dispatch {
        return Some(dispatch.clone());
    }
    let task = &stalled.task;
    let inputs = task.inputs_s3_key.clone()?;
    Some(TaskDispatch {
        task_id: task.id().to_string(),
        function_id: task.function_id,
        docker_image: task.image.clone(),
        inputs: Some(Inputs::InputsS3Key(inputs)),
        timeout_ms: task.timeout_ms.unsigned_abs(),
        deadline: task.deadline.map(Into::into),
    })
}

async fn resend(
    sweeps: &Sweeps,
    stalled: &StalledTask,
    outgoing: Outgoing,
    report: &mut Report,
) -> Result<(), Error> {
    let mut transaction = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    if !stalled::resend_task(&mut transaction, stalled).await? {
        return Ok(());
    }
    let outgoing = outgoing.in_trace(stalled.traceparent.clone());
    let written = sweeps.outbox.write(&mut transaction, outgoing).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    sweeps.outbox.send(written).await;
    tracing::warn!(
        task.id = %stalled.task.id(),
        state = %stalled.task.state,
        since = %stalled.since,
        resent = stalled.resent + 1,
        "a task stood still and is dispatched again"
    );
    report.count("tasks_resent", 1);
    Ok(())
}

async fn end(
    sweeps: &Sweeps,
    stalled: &StalledTask,
    message: String,
    report: &mut Report,
) -> Result<(), Error> {
    let task = &stalled.task;
    let failure = failure(ErrorCode::TaskLost, message);
    let timings = TaskTimings::default();
    let completion = Completion {
        state: TaskState::Lost,
        digest: None,
        cache: None,
        timings: serde_json::to_value(timings).unwrap_or_default(),
        result_key: None,
        exit_code: None,
        failure: Some(StoredFailure::from(failure.clone())),
    };
    let event = TaskDone {
        task_id: task.id().to_string(),
        function_id: task.function_id,
        attempt: task.attempt.unsigned_abs(),
        status: TaskStatus::Lost.into(),
        timings: Some(timings),
        failure: Some(failure),
        ..TaskDone::default()
    };
    let mut transaction = sweeps.pool.begin().await.map_err(mecapy_store::Error::from)?;
    if !tasks::complete(&mut transaction, task.id(), task.attempt, &completion).await? {
        return Ok(());
    }
    let outgoing = Outgoing::event(&event).in_trace(stalled.traceparent.clone());
    let written = sweeps.outbox.write(&mut transaction, outgoing).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    sweeps.outbox.send(written).await;
    tracing::error!(task.id = %task.id(), state = %task.state, "a task that stood still is ended");
    report.count("tasks_lost", 1);
    Ok(())
}
