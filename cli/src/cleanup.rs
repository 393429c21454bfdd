//! `mecapy cleanup`: what the janitor would delete, deletes, and puts back. The janitor does it; here it is asked to,
//! and followed by the rows that it writes.

mod follow;
mod image;

use clap::{Args, Subcommand};
use mecapy_objects::{Key, Objects};
use mecapy_proto::TaskId;
use mecapy_proto::v1::CleanupRequested;
use mecapy_store::PgPool;
use mecapy_store::cleanup_items::{self, Item};
use mecapy_store::cleanup_runs::{self, Run};
use mecapy_store::registry_images::{self, Explained};
use serde_json::{Value, json};

use crate::exit::{self, Exit, Stop};
use crate::servers::Servers;
use crate::session::Session;
use crate::terminal::fields;
use crate::{table, watch};
use image::Image;

/// A report lists every deletion: a kilobyte each.
const MAX_REPORT: u64 = 256 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what would be deleted, by which rule and why; nothing is deleted
    #[command(after_help = exit::HELP)]
    Plan(Policies),
    /// Delete what the policies say, now
    #[command(after_help = exit::HELP)]
    Apply {
        /// Although it is more than the share that a run may delete by itself
        #[arg(long)]
        confirm: bool,
        #[command(flatten)]
        policies: Policies,
    },
    /// Put back what a run deleted, or one image
    #[command(after_help = exit::HELP)]
    Undo {
        /// A run, repository:tag, repository@digest or a digest
        #[arg(value_name = "RUN|IMAGE")]
        target: String,
    },
    /// List runs, newest first
    History {
        /// At most this many
        #[arg(long, default_value_t = 20, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..))]
        limit: i64,
    },
    /// Tell which rule keeps or deletes an image, and why, as the newest plan had it
    #[command(after_help = exit::HELP)]
    Explain {
        /// repository:tag, repository@digest, a repository or a digest
        image: Image,
    },
}

#[derive(Debug, Args)]
pub struct Policies {
    /// For this run, as TOML: functions:unused_days=30 (more than one may be given)
    #[arg(long = "policy", value_name = "NAME:KEY=VALUE", value_parser = policy)]
    pub overrides: Vec<(String, String)>,
}

fn policy(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, keys)) if !name.is_empty() && keys.contains('=') => {
            Ok((name.to_owned(), keys.to_owned()))
        }
        _ => Err("must be like functions:unused_days=30".to_owned()),
    }
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    match command {
        Command::Plan(policies) => {
            let request = CleanupRequested { dry_run: true, ..request("plan", policies) };
            cleanup(request, &servers, session).await
        }
        Command::Apply { confirm, policies } => {
            let request = CleanupRequested { confirm, ..request("manual", policies) };
            cleanup(request, &servers, session).await
        }
        Command::Undo { target } => undo(target, &servers, session).await,
        Command::History { limit } => history(&servers.pool().await?, limit, session).await,
        Command::Explain { image } => explain(&servers.pool().await?, &image, session).await,
    }
}

fn request(prefix: &str, policies: Policies) -> CleanupRequested {
    let mut request = CleanupRequested {
        run_id: format!("{prefix}-{}", TaskId::new()),
        reason: "manual".to_owned(),
        ..Default::default()
    };
    for (name, keys) in policies.overrides {
        // Several keys of one policy are lines of one text.
        let text = request.policy_overrides.entry(name).or_default();
        text.push_str(&keys);
        text.push('\n');
    }
    request
}

/// Asks for a run, and waits for its end.
async fn ask(
    request: &CleanupRequested,
    servers: &Servers,
    session: &Session,
) -> anyhow::Result<(PgPool, Run)> {
    // Before it is asked for: without the database there is no way to tell what came of it.
    let pool = servers.pool().await?;
    servers.bus().await?.publish(request).await?;
    let id = &request.run_id;
    let go_on = || format!("run {id} goes on: mecapy cleanup history");
    let run = watch::unless_interrupted(follow::until_ended(&pool, id, session), go_on).await?;
    if run.state == "failed" {
        anyhow::bail!("{}", run.problem);
    }
    Ok((pool, run))
}

/// The report tells what there is to tell; the janitor has written it for people and programs.
async fn cleanup(
    request: CleanupRequested,
    servers: &Servers,
    session: &Session,
) -> anyhow::Result<Exit> {
    let (_, run) = ask(&request, servers, session).await?;
    let objects = Objects::new(&servers.s3);
    let name = if session.output.is_json() { "report.json" } else { "report.txt" };
    let report = objects.get(&Key::cleanup_report(&run.id, name), MAX_REPORT).await?;
    let report = report
        .ok_or_else(|| Stop::NotFound(format!("the report of run {} is not there", run.id)))?;
    let report = String::from_utf8_lossy(&report).into_owned();
    session.output.show(&report, || report.clone());
    if run.stopped.is_empty() {
        if run.dry_run && run.planned_images > 0 {
            session.hint("delete it: mecapy cleanup apply");
        } else if !run.dry_run && run.freed_bytes > 0 {
            session.hint(&format!("put it back: mecapy cleanup undo {}", run.id));
        }
        return Ok(Exit::Done);
    }
    session.hint("look at what would go, then: mecapy cleanup apply --confirm");
    Ok(if run.dry_run { Exit::Done } else { Exit::Failed })
}

async fn undo(target: String, servers: &Servers, session: &Session) -> anyhow::Result<Exit> {
    let request = CleanupRequested {
        run_id: format!("undo-{}", TaskId::new()),
        reason: "manual".to_owned(),
        undo: target,
        ..Default::default()
    };
    let (pool, run) = ask(&request, servers, session).await?;
    let items = cleanup_items::undone(&pool, &run.id).await?;
    let raw = json!({ "run_id": run.id, "items": items.iter().map(item_json).collect::<Vec<_>>() });
    session.output.show(&raw.to_string(), || {
        let rows: Vec<Vec<String>> = items
            .iter()
            .map(|item| {
                vec![item.state.clone(), name_of(item), item.tags.join(", "), item.outcome.clone()]
            })
            .collect();
        table::render(&["state", "image", "tags", "outcome"], &rows)
    });
    let is_whole = items.iter().all(|item| item.state == "undone");
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

fn name_of(item: &Item) -> String {
    format!("{}@{}", item.repository, item.digest)
}

fn item_json(item: &Item) -> Value {
    json!({
        "image": name_of(item), "tags": item.tags, "deleted_by": item.run_id, "rule": item.rule,
        "state": item.state, "outcome": item.outcome,
    })
}

async fn history(pool: &PgPool, limit: i64, session: &Session) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    let mut all = Vec::new();
    for run in cleanup_runs::list(pool, limit).await? {
        let counts = if run.kind == "undo" {
            Vec::new()
        } else {
            cleanup_items::counts(pool, &run.id).await?
        };
        let of = |state: &str| {
            counts.iter().find(|(of, _)| of == state).map_or(0, |(_, number)| *number)
        };
        rows.push(vec![
            run.id.clone(),
            run.requested_at.format("%Y-%m-%d %H:%M").to_string(),
            how(&run).to_owned(),
            run.planned_images.to_string(),
            of("done").to_string(),
            (of("skipped") + of("refused")).to_string(),
            run.freed_bytes.to_string(),
            [&run.stopped, &run.problem, &run.target].map(String::as_str).concat(),
        ]);
        all.push(json!({
            "run_id": run.id, "kind": run.kind, "state": run.state, "dry_run": run.dry_run, "reason": run.reason,
            "target": run.target, "requested_at": run.requested_at, "ended_at": run.ended_at,
            "images_seen": run.images_seen, "planned_images": run.planned_images, "planned_bytes": run.planned_bytes,
            "freed_bytes": run.freed_bytes, "storage_bytes": run.storage_bytes,
            "days_until_limit": run.days_until_limit, "stopped": run.stopped, "problem": run.problem,
            "report_key": run.report_key,
            "items": counts.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        }));
    }
    session.output.show(&Value::from(all).to_string(), || {
        if rows.is_empty() {
            return "There are no cleanup runs.".to_owned();
        }
        let header = ["run", "asked", "how", "planned", "done", "skipped", "freed bytes", ""];
        table::render(&header, &rows)
    });
    Ok(Exit::Done)
}

fn how(run: &Run) -> &str {
    match run.state.as_str() {
        "done" if run.kind == "undo" => "put back",
        "done" if run.dry_run => "dry run",
        "done" if !run.stopped.is_empty() => "stopped",
        "done" => "applied",
        other => other,
    }
}

async fn explain(pool: &PgPool, image: &Image, session: &Session) -> anyhow::Result<Exit> {
    let Image { repository, tag, digest } = image;
    let found =
        registry_images::explain(pool, repository.as_deref(), tag.as_deref(), digest.as_deref())
            .await?;
    if found.is_empty() {
        let reason = "no plan has seen such an image: make one with `mecapy cleanup plan`";
        return Err(Stop::NotFound(reason.to_owned()).into());
    }
    let raw: Vec<Value> = found.iter().map(explained_json).collect();
    session.output.show(&Value::from(raw).to_string(), || {
        found.iter().map(explained).collect::<Vec<_>>().join("\n")
    });
    Ok(Exit::Done)
}

fn explained_json(image: &Explained) -> Value {
    json!({
        "repository": image.repository, "digest": image.digest, "tags": image.tags, "action": image.action,
        "rule": image.rule, "reason": image.reason, "planned_by": image.planned_by, "planned_at": image.planned_at,
        "first_seen_at": image.first_seen_at, "pushed_at": image.pushed_at,
    })
}

fn explained(image: &Explained) -> String {
    let mut rows = vec![
        ("image", format!("{}@{}", image.repository, image.digest)),
        ("tags", image.tags.join(", ")),
        ("action", image.action.clone()),
        ("rule", image.rule.clone()),
        ("reason", image.reason.clone()),
        ("first seen", image.first_seen_at.to_rfc3339()),
    ];
    rows.extend(image.pushed_at.map(|at| ("pushed", at.to_rfc3339())));
    rows.extend(image.planned_by.clone().map(|run| ("plan", run)));
    fields(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_overridden_key_by_key() {
        assert_eq!(policy("functions:unused_days=30").unwrap().1, "unused_days=30");
        for wrong in ["functions", "unused_days=30", ":a=1", "functions:a"] {
            assert!(policy(wrong).is_err(), "{wrong}");
        }
        let overrides =
            ["functions:unused_days=30", "functions:keep_versions=2", "base:unused_days=1"];
        let overrides = overrides.into_iter().map(|text| policy(text).unwrap()).collect();
        let request = request("plan", Policies { overrides });
        assert_eq!(request.policy_overrides["functions"], "unused_days=30\nkeep_versions=2\n");
        assert_eq!(request.policy_overrides["base"], "unused_days=1\n");
    }
}
