//! `mecapy tasks`.

use std::path::Path;
use std::time::Duration;

use mecapy_proto::TaskId;
use serde::de::IgnoredAny;

use crate::arguments::{Run, Tasks};
use crate::exit::{Exit, Stop};
use crate::functions::describe_failure;
use crate::gateway::{Answer, Client, Error, Task};
use crate::progress::{self, Progress};
use crate::session::{self, Session};
use crate::terminal::fields;
use crate::{json, source, watch};

pub async fn run(command: Tasks, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    match command {
        Tasks::Run(run) => start(run, session, &client).await,
        Tasks::Get { id, wait: true } => follow(id, session, &client).await,
        Tasks::Get { id, wait: false } => {
            let task = client.task(id, None).await?;
            show(&task, session, &client).await?;
            Ok(Exit::Done)
        }
        Tasks::Logs { id, follow: true } => follow_log(id, session, &client).await,
        Tasks::Logs { id, follow: false } => logs(id, session, &client).await,
        Tasks::Cancel { id } => {
            let task = client.cancel_task(id).await?;
            session.output.show(&task.raw, || {
                if task.value.has_ended() {
                    format!("task {id}: {}", task.value.status)
                } else {
                    format!("task {id} is told to stop (now {})", task.value.status)
                }
            });
            Ok(Exit::Done)
        }
    }
}

async fn logs(id: TaskId, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let (stdout, stderr) =
        (client.task_log(id, "stdout").await, client.task_log(id, "stderr").await);
    let (stdout, stderr) = match (stdout, stderr) {
        // A stream that was not written to may have no log.
        (Ok(stdout), Err(error)) if is_not_found(&error) => (stdout, Vec::new()),
        (Err(error), Ok(stderr)) if is_not_found(&error) => (Vec::new(), stderr),
        (stdout, stderr) => (stdout?, stderr?),
    };
    if session.output.is_json() {
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        session.output.show(
            &serde_json::json!({ "stdout": stdout, "stderr": stderr }).to_string(),
            String::new,
        );
    } else {
        session.output.raw(&stdout);
        session.output.raw_error(&stderr);
    }
    Ok(Exit::Done)
}

/// Shows what the function writes as it writes it, and what it wrote before.
async fn follow_log(id: TaskId, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    if client.task(id, None).await?.value.has_ended() {
        return logs(id, session, client).await;
    }
    let go_on = || format!("the task goes on; to follow it: mecapy tasks logs --follow {id}");
    let mut has_shown = false;
    let work = async {
        let mut progress = Progress::new(session.output, true, progress::TASK);
        let show = |text: &str| {
            has_shown = true;
            // With --json the one document is that of the end.
            if !session.output.is_json() {
                session.output.raw(text.as_bytes());
            }
        };
        watch::task_log(client, id, &mut progress, show).await.map_err(anyhow::Error::new)
    };
    let task = watch::unless_interrupted(work, go_on).await?;
    if session.output.is_json() || !has_shown {
        return logs(id, session, client).await;
    }
    session.hint(&format!("{}; all that it wrote: mecapy tasks logs {id}", task.value.status));
    Ok(Exit::Done)
}

fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Refused(problem) if problem.status == 404)
}

async fn start(run: Run, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let inputs = inputs(run.inputs.as_deref(), run.inputs_file.as_deref())?;
    // Not held: so the task's id is known, whatever happens while waiting.
    let task = client
        .run_task(run.id, &body(inputs.as_deref(), run.timeout), &session::idempotency_key())
        .await?;
    let id = task.value.task_id;
    if run.no_wait {
        session.output.show(&task.raw, || fields(&rows(&task.value)));
        session.hint(&format!("To wait for it: mecapy tasks get {id} --wait"));
        return Ok(Exit::Done);
    }
    follow(id, session, client).await
}

/// Waits for a task's end, and shows it.
async fn follow(id: TaskId, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let go_on = || {
        format!(
            "the task goes on; to wait for it: mecapy tasks get {id} --wait, to stop it: mecapy tasks cancel {id}"
        )
    };
    let work = async {
        let mut progress = Progress::new(session.output, session.quiet, progress::TASK);
        watch::task(client, id, &mut progress).await.map_err(anyhow::Error::new)
    };
    let ended = watch::unless_interrupted(work, go_on).await;
    if let Err(error) = &ended
        && Exit::of(error) == Exit::Unreachable
    {
        session.hint(&format!("If it was begun, {}", go_on()));
    }
    let task = ended?;
    let exit = Exit::of_task(&task.value.status);
    if exit == Exit::Done && !session.output.is_json() {
        // The result alone is what the caller came for; the rest is beside it.
        let result = result(&task.value, client).await?.unwrap_or_else(|| "null".to_owned());
        session.output.show("", || json::pretty(&result));
        session.hint(&summary(&task.value));
    } else {
        show(&task, session, client).await?;
    }
    if exit != Exit::Done {
        session.hint(&format!("What it wrote: mecapy tasks logs {id}"));
    }
    Ok(exit)
}

async fn show(task: &Answer<Task>, session: &Session, client: &Client) -> anyhow::Result<()> {
    if session.output.is_json() {
        session.output.show(&task.raw, String::new);
        return Ok(());
    }
    let result = result(&task.value, client).await?;
    session.output.show("", || describe(&task.value, result.as_deref()));
    Ok(())
}

/// The result as the function wrote it: a large one is not part of the task's own answer.
async fn result(task: &Task, client: &Client) -> anyhow::Result<Option<String>> {
    match &task.result {
        Some(result) => Ok(Some(result.get().to_owned())),
        None if task.status == "succeeded" => Ok(Some(client.task_result(task.task_id).await?)),
        None => Ok(None),
    }
}

fn describe(task: &Task, result: Option<&str>) -> String {
    let mut text = fields(&rows(task));
    if let Some(failure) = &task.error {
        text.push_str(&describe_failure(failure));
    }
    if let Some(result) = result {
        text.push('\n');
        text.push_str(&json::pretty(result));
    }
    text
}

fn rows(task: &Task) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("task", task.task_id.to_string()),
        ("function", task.function_id.to_string()),
        ("status", task.status.clone()),
    ];
    rows.extend(
        task.attempt.filter(|attempt| *attempt > 0).map(|attempt| ("attempt", attempt.to_string())),
    );
    rows.extend(task.exit_code.map(|code| ("exit code", code.to_string())));
    rows.extend(cache(task).map(|cache| ("image", cache.to_owned())));
    if task.has_ended() {
        rows.extend(times(task).map(|times| ("time", times)));
    }
    rows
}

/// One line: how it ended, and where its time went.
fn summary(task: &Task) -> String {
    let mut parts = vec![task.status.clone()];
    parts.extend(times(task));
    parts.extend(cache(task).map(|cache| format!("image: {cache}")));
    parts.push(format!("task {}", task.task_id));
    parts.join(" · ")
}

fn times(task: &Task) -> Option<String> {
    task.timings.as_ref().map(|t| {
        format!(
            "{} ms to start (queue {}, image {}, container {}), {} ms to run, {} ms to store",
            t.queued_ms + t.fetch_ms + t.start_ms,
            t.queued_ms,
            t.fetch_ms,
            t.start_ms,
            t.run_ms,
            t.store_ms
        )
    })
}

fn cache(task: &Task) -> Option<&'static str> {
    match task.cache.as_deref()? {
        "HIT" => Some("was on the worker"),
        "MISS" => Some("from the primary registry"),
        "FAILOVER" => Some("from the fallback registry"),
        _ => None,
    }
}

/// The inputs as JSON text, as they were written; none: the server's default.
fn inputs(given: Option<&str>, file: Option<&Path>) -> Result<Option<String>, Stop> {
    let text = match (given, file) {
        (Some("-"), _) => source::standard_input()?,
        (None, Some(file)) if file == Path::new("-") => source::standard_input()?,
        (Some(text), _) => text.to_owned(),
        (None, Some(file)) => source::text(file)?,
        (None, None) => return Ok(None),
    };
    serde_json::from_str::<IgnoredAny>(&text)
        .map_err(|error| Stop::Usage(format!("the inputs are not JSON: {error}")))?;
    Ok(Some(text))
}

/// Put together as text: reading the inputs and writing them again could change their numbers.
fn body(inputs: Option<&str>, timeout: Option<Duration>) -> String {
    let mut members = Vec::new();
    members.extend(inputs.map(|inputs| format!("\"inputs\":{inputs}")));
    members.extend(timeout.map(|timeout| format!("\"timeout_ms\":{}", timeout.as_millis())));
    format!("{{{}}}", members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f4e3e-0000-7000-8000-000000000000";

    fn task(rest: &str) -> Task {
        serde_json::from_str(&format!(r#"{{"task_id":"{ID}","function_id":7,{rest}}}"#)).unwrap()
    }

    #[test]
    fn inputs_are_sent_as_they_were_written() {
        let given = inputs(Some("{\"n\": 12345678901234567890123}"), None).unwrap();
        assert_eq!(
            body(given.as_deref(), Some(Duration::from_secs(30))),
            "{\"inputs\":{\"n\": 12345678901234567890123},\"timeout_ms\":30000}"
        );
        assert_eq!(body(None, None), "{}");
    }

    #[test]
    fn inputs_that_are_not_json_are_refused_before_they_are_sent() {
        for text in ["", "{", "{} {}", "nope", "1},\"timeout_ms\":{"] {
            assert!(matches!(inputs(Some(text), None), Err(Stop::Usage(_))), "{text:?}");
        }
    }

    #[test]
    fn a_task_shows_how_it_ended_and_where_its_time_went() {
        let task = task(
            r#""status":"succeeded","attempt":1,"cache":"HIT","result":{"mean":2.5},"exit_code":0,
               "timings":{"queued_ms":3,"fetch_ms":0,"start_ms":40,"run_ms":70,"store_ms":5}"#,
        );
        assert_eq!(
            describe(&task, Some(r#"{"mean":2.5}"#)),
            format!(
                "task       {ID}\nfunction   7\nstatus     succeeded\nattempt    1\nexit code  0\nimage      was on the worker\n\
                 time       43 ms to start (queue 3, image 0, container 40), 70 ms to run, 5 ms to store\n\n{{\n  \"mean\": 2.5\n}}"
            )
        );
        assert!(summary(&task).starts_with("succeeded · 43 ms to start"));
    }

    #[test]
    fn a_failed_task_shows_the_end_of_what_it_wrote() {
        let task = task(
            r#""status":"failed","exit_code":1,"error":{"code":"function-failed","message":"it ended with 1","log_tail":["ValueError: x"]}"#,
        );
        let text = describe(&task, None);
        assert!(
            text.ends_with("\nit ended with 1 (function-failed)\n  | ValueError: x\n"),
            "{text}"
        );
    }
}
