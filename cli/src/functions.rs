//! `mecapy functions`.

use std::fmt::Write as _;

use anyhow::Context as _;
use mecapy_proto::{BuildId, FunctionId};

use crate::arguments::{Functions, Submit, Target};
use crate::exit::{Exit, Stop};
use crate::gateway::{Answer, Client, Failure, Function, NewFunction};
use crate::list::List;
use crate::progress::{self, Progress};
use crate::session::{self, Session};
use crate::terminal::{clean_line, fields};
use crate::{source, table, watch};

pub async fn run(command: Functions, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    match command {
        Functions::Submit(submit) => self::submit(submit, session, &client).await,
        Functions::Get { id } => {
            let function = client.function(id).await?;
            session.output.show(&function.raw, || describe(&function.value));
            Ok(Exit::Done)
        }
        Functions::List { limit } => {
            let list = List { path: &["functions"], filter: &[], limit };
            list.show(&client, session, overview).await
        }
        Functions::Rebuild { id, no_wait } => {
            begun(&client.rebuild_function(id).await?, no_wait, session, &client).await
        }
        Functions::Delete { id, confirm } => {
            session.confirm(&format!("Delete function {id}?"), confirm)?;
            client.delete_function(id).await?;
            session.output.show(
                &serde_json::json!({ "function_id": id, "deleted": true }).to_string(),
                || format!("function {id} is deleted"),
            );
            Ok(Exit::Done)
        }
        Functions::Watch { target } | Functions::Logs { target, follow: true } => {
            follow(build(target, &client).await?, session, &client).await
        }
        Functions::Logs { target, follow: false } => {
            let log = client.build_log(build(target, &client).await?).await?;
            if session.output.is_json() {
                let log = serde_json::json!({ "log": String::from_utf8_lossy(&log) });
                session.output.show(&log.to_string(), String::new);
            } else {
                session.output.raw(&log);
            }
            Ok(Exit::Done)
        }
        Functions::Cancel { target } => {
            let function = client.cancel_build(build(target, &client).await?).await?;
            session.output.show(&function.raw, || describe(&function.value));
            Ok(Exit::Done)
        }
    }
}

/// The build that is meant: of a function, its newest.
async fn build(target: Target, client: &Client) -> anyhow::Result<BuildId> {
    match target {
        Target::Build(id) => Ok(id),
        Target::Function(id) => {
            let build = client.function(id).await?.value.build_id;
            Ok(build.ok_or_else(|| Stop::NotFound(format!("function {id} has no build")))?)
        }
    }
}

async fn submit(submit: Submit, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let source =
        source::read(&submit.path, submit.name.as_deref(), submit.requirements.as_deref())?;
    let new = NewFunction {
        name: &source.name,
        code: &source.code,
        requirements: &source.requirements,
        python_version: submit.python.as_deref(),
        base_variant: submit.base.as_deref(),
    };
    let submitted = client.submit(&new, &session::idempotency_key()).await?;
    begun(&submitted, submit.no_wait, session, client).await
}

/// Follows a build that was asked for, or tells of it.
async fn begun(
    asked: &Answer<Function>,
    no_wait: bool,
    session: &Session,
    client: &Client,
) -> anyhow::Result<Exit> {
    let function = &asked.value;
    match function.build_id {
        Some(build) if !no_wait => {
            if !session.quiet {
                session.output.note(&format!("{}: build {build}", title(function)));
            }
            follow(build, session, client).await
        }
        _ => {
            session.output.show(&asked.raw, || describe(function));
            if let Some(build) = function.build_id {
                session.hint(&format!("To watch it: mecapy functions watch {build}"));
            }
            Ok(Exit::Done)
        }
    }
}

/// Waits for the end of a build, and shows it.
async fn follow(id: BuildId, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let go_on = || format!("the build goes on; to watch it: mecapy functions watch {id}");
    let work = async {
        // Gone before anything else is printed.
        let mut progress = Progress::new(session.output, session.quiet, progress::BUILD);
        watch::build(client, id, &mut progress).await.map_err(anyhow::Error::new)
    };
    let ended = watch::unless_interrupted(work, go_on).await;
    if let Err(error) = &ended
        && Exit::of(error) == Exit::Unreachable
    {
        session.hint(&format!("If it was begun, {}", go_on()));
    }
    let Answer { value: function, raw } = ended.with_context(|| format!("build {id}"))?;
    session.output.show(&raw, || describe(&function));
    let exit = Exit::of_build(&function.status);
    match exit {
        Exit::Done => session
            .hint(&format!("To run it: mecapy tasks run {} --inputs '{{}}'", function.function_id)),
        Exit::Rejected => {
            session.hint("The image was not published: fix what the scan found, and submit again.")
        }
        _ => {}
    }
    Ok(exit)
}

fn overview(functions: &[Function]) -> String {
    if functions.is_empty() {
        return "There are no functions yet. To submit one: mecapy functions submit PATH"
            .to_owned();
    }
    let rows: Vec<Vec<String>> = functions
        .iter()
        .map(|function| {
            vec![
                function.function_id.to_string(),
                function.name.clone().unwrap_or_default(),
                function.version.map(|version| format!("v{version}")).unwrap_or_default(),
                function.status.clone(),
                function.image_size.clone().unwrap_or_default(),
                function.docker_image.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::render(&["id", "name", "version", "status", "size", "image"], &rows)
}

fn title(function: &Function) -> String {
    let mut title = format!("function {}", function.function_id);
    if let Some(name) = function.name.as_deref().filter(|name| !name.is_empty()) {
        let _ = write!(title, " ({})", clean_line(name));
    }
    if let Some(version) = function.version.filter(|version| *version > 0) {
        let _ = write!(title, ", version {version}");
    }
    title
}

/// A function for a person.
fn describe(function: &Function) -> String {
    let mut rows: Vec<(&str, String)> =
        vec![("function", id_and_name(function.function_id, function.name.as_deref()))];
    let mut row = |label, value: Option<String>| {
        rows.extend(value.filter(|value| !value.is_empty()).map(|value| (label, value)))
    };
    row("owner", function.owner.clone());
    row(
        "version",
        function.version.filter(|version| *version > 0).map(|version| version.to_string()),
    );
    row("status", Some(function.status.clone()));
    row("build", function.build_id.map(|id| id.to_string()));
    row("image", function.docker_image.clone());
    row("size", function.image_size.clone());
    row("build time", function.build_time.clone());
    let vulnerabilities = function.vulnerabilities.clone().unwrap_or_default();
    row(
        "found",
        function
            .vulnerabilities
            .as_ref()
            .map(|found| format!("{} critical, {} high", found.critical, found.high)),
    );
    let mut text = fields(&rows);
    for warning in &vulnerabilities.warnings {
        let _ = writeln!(text, "  ! {}", clean_line(warning));
    }
    if vulnerabilities.database_partial {
        text.push_str("  ! scanned with the built-in advisories alone, which are few\n");
    }
    if let Some(failure) = &function.error {
        text.push_str(&describe_failure(failure));
    }
    text
}

fn id_and_name(id: FunctionId, name: Option<&str>) -> String {
    match name {
        Some(name) if !name.is_empty() => format!("{id} ({})", clean_line(name)),
        _ => id.to_string(),
    }
}

/// A failure, with the last lines of the log.
pub fn describe_failure(failure: &Failure) -> String {
    let mut text = format!("\n{} ({})\n", failure.message, failure.code);
    for line in &failure.log_tail {
        let _ = writeln!(text, "  | {}", clean_line(line));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(json: &str) -> Function {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_ready_function_shows_its_image_and_what_the_scan_found() {
        let text = describe(&function(
            r#"{"function_id":456,"name":"stats","status":"ready","version":2,"docker_image":"r/f@sha256:0","image_size":"245MB","build_time":"42s",
                "vulnerabilities":{"critical":0,"high":2,"warnings":["numpy 1.24.0 has HIGH CVE-2023-1"]}}"#,
        ));
        assert_eq!(
            text,
            "function    456 (stats)\nversion     2\nstatus      ready\nimage       r/f@sha256:0\nsize        245MB\n\
             build time  42s\nfound       0 critical, 2 high\n  ! numpy 1.24.0 has HIGH CVE-2023-1\n"
        );
    }

    #[test]
    fn a_failed_function_shows_why_and_the_end_of_the_log() {
        let text = describe(&function(
            r#"{"function_id":1,"status":"failed","error":{"code":"requirement-not-found","message":"no such package: nunpy","log_tail":["a","\u001b[31mb"]}}"#,
        ));
        assert_eq!(
            text,
            "function  1\nstatus    failed\n\nno such package: nunpy (requirement-not-found)\n  | a\n  | b\n"
        );
    }

    #[test]
    fn the_list_is_a_table() {
        let functions =
            [function(r#"{"function_id":1,"name":"a\nb","status":"ready","version":3}"#)];
        assert_eq!(
            overview(&functions),
            "ID  NAME  VERSION  STATUS  SIZE  IMAGE\n1   b     v3       ready\n"
        );
        assert!(overview(&[]).contains("functions submit"));
    }
}
