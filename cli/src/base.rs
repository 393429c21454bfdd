//! `mecapy base`: the base images, and the functions that stand on older ones.

mod follow;
mod rebuild;

use clap::{Args, Subcommand};
use mecapy_proto::TaskId;
use mecapy_proto::v1::BaseRequested;
use mecapy_store::bases::{self, Run};
use mecapy_store::builds::Build;
use mecapy_store::{BuildState, PgPool};
use serde_json::{Value, json};

use crate::exit::{self, Exit};
use crate::servers::Servers;
use crate::session::Session;
use crate::{table, watch};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build base images, and wait until they are published or refused
    #[command(after_help = exit::HELP)]
    Build(BuildArguments),
    /// List runs, newest first, and the images that functions are built on now
    List {
        /// At most this many runs
        #[arg(long, default_value_t = 10, value_name = "NUMBER")]
        limit: u32,
    },
    /// List functions that stand on an older image of their base
    Stale,
    /// Build functions again that stand on an older image of their base, some at a time
    #[command(after_help = exit::HELP)]
    RebuildStale(rebuild::RebuildStale),
}

#[derive(Debug, Args)]
pub struct BuildArguments {
    /// For this Python (more than one may be given) [default: the builder's]
    #[arg(long, value_name = "VERSION", value_parser = python)]
    pub python: Vec<String>,
    /// This variant (more than one may be given) [default: the builder's]
    #[arg(long, value_name = "VARIANT", value_parser = variant)]
    pub variant: Vec<String>,
    /// Don't wait for the end
    #[arg(long)]
    pub no_wait: bool,
}

/// The builder says which ones it can make; here it is seen that they can be some at all.
fn python(text: &str) -> Result<String, String> {
    let numbers = text
        .split('.')
        .map(|part| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit()));
    match numbers.collect::<Vec<_>>()[..] {
        [true, true] => Ok(text.to_owned()),
        _ => Err("must be like 3.11".to_owned()),
    }
}

fn variant(text: &str) -> Result<String, String> {
    let is_one = (1..=20).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if is_one { Ok(text.to_owned()) } else { Err("must be like slim".to_owned()) }
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let servers = Servers::read(session.config.as_deref())?;
    match command {
        Command::Build(arguments) => build(arguments, &servers, session).await,
        Command::List { limit } => list(&servers.pool().await?, limit, session).await,
        Command::Stale => rebuild::list(&servers.pool().await?, session).await,
        Command::RebuildStale(arguments) => {
            rebuild::run(arguments, &servers.pool().await?, session).await
        }
    }
}

async fn build(
    arguments: BuildArguments,
    servers: &Servers,
    session: &Session,
) -> anyhow::Result<Exit> {
    let requested = BaseRequested {
        run_id: format!("manual-{}", TaskId::new()),
        python_versions: arguments.python,
        variants: arguments.variant,
        reason: "manual".to_owned(),
    };
    let id = requested.run_id.clone();
    // Before it is asked for: without the database there is no way to tell what came of it.
    let pool = if arguments.no_wait { None } else { Some(servers.pool().await?) };
    servers.bus().await?.publish(&requested).await?;
    let Some(pool) = pool else {
        session.output.show(&json!({ "run_id": id }).to_string(), || id.clone());
        session.hint("see what comes of it: mecapy base list");
        return Ok(Exit::Done);
    };
    let go_on = || "the run goes on: mecapy base list".to_owned();
    let cells = watch::unless_interrupted(follow::run(&pool, &id, session), go_on).await?;
    let raw = json!({ "run_id": id, "images": cells.iter().map(cell_json).collect::<Vec<_>>() });
    session.output.show(&raw.to_string(), || {
        let rows: Vec<_> = cells.iter().map(cell_row).collect();
        table::render(&["base", "status", "image"], &rows)
    });
    if !session.output.is_json() {
        show_logs(&cells, session);
    }
    Ok(worst(cells.iter().map(|cell| cell.state)))
}

/// The last lines of those that failed: the one place where an operator sees why.
fn show_logs(cells: &[Build], session: &Session) {
    for cell in cells {
        let Some(failure) = cell.failure().filter(|failure| !failure.log.is_empty()) else {
            continue;
        };
        session.output.note(&format!("{}:", cell.base.as_deref().unwrap_or_default()));
        for line in &failure.log {
            session.output.note(&format!("  {line}"));
        }
        if let Some(key) = &cell.log_key {
            session.output.note(&format!("  all of it: {key} in the S3 bucket"));
        }
    }
}

async fn list(pool: &PgPool, limit: u32, session: &Session) -> anyhow::Result<Exit> {
    let (runs, current) = (bases::runs(pool, limit).await?, bases::current(pool).await?);
    let raw = json!({
        "runs": runs.iter().map(run_json).collect::<Vec<_>>(),
        "images": current.iter().map(cell_json).collect::<Vec<_>>(),
    });
    session.output.show(&raw.to_string(), || {
        let images: Vec<_> = current.iter().map(cell_row).collect();
        let runs: Vec<_> = runs.iter().map(run_row).collect();
        format!(
            "{}\n{}",
            table::render(&["base", "status", "image"], &images),
            table::render(
                &["run", "requested", "reason", "ready", "rejected", "failed", "open"],
                &runs
            )
        )
    });
    Ok(Exit::Done)
}

/// A failure is worse than a rejection, since nobody knows what the image would have been.
fn worst(states: impl IntoIterator<Item = BuildState>) -> Exit {
    let mut worst = Exit::Done;
    for state in states {
        match Exit::of_build(state.as_str()) {
            Exit::Done => {}
            Exit::Rejected if worst == Exit::Done => worst = Exit::Rejected,
            Exit::Rejected => {}
            _ => worst = Exit::Failed,
        }
    }
    worst
}

fn cell_json(cell: &Build) -> Value {
    let error = cell.failure().map(
        |failure| json!({ "code": failure.code, "message": failure.message, "log_tail": failure.log }),
    );
    json!({
        "base": cell.base,
        "build_id": cell.id(),
        "run_id": cell.base_run,
        "status": cell.state.as_str(),
        "docker_image": cell.docker_image,
        "digest": cell.digest,
        "size_bytes": cell.size_bytes,
        "log_key": cell.log_key,
        "requested_at": cell.requested_at,
        "ended_at": cell.ended_at,
        "error": error,
    })
}

/// Its image, or why there is none.
fn cell_row(cell: &Build) -> Vec<String> {
    let image = match (cell.state, cell.failure(), &cell.docker_image) {
        (BuildState::Ready, _, Some(image)) => image.clone(),
        (BuildState::Rejected, ..) => "its scan found a CRITICAL vulnerability".to_owned(),
        (_, Some(failure), _) => format!("{}: {}", failure.code, failure.message),
        _ => String::new(),
    };
    vec![cell.base.clone().unwrap_or_default(), cell.state.to_string(), image]
}

fn run_json(run: &Run) -> Value {
    json!({
        "run_id": run.id,
        "reason": run.reason,
        "requested_at": run.requested_at,
        "ended_at": run.ended_at,
        "ready": run.ready,
        "rejected": run.rejected,
        "failed": run.failed,
        "open": run.open,
    })
}

fn run_row(run: &Run) -> Vec<String> {
    let mut row = vec![
        run.id.clone(),
        run.requested_at.format("%Y-%m-%d %H:%M").to_string(),
        run.reason.clone(),
    ];
    row.extend([run.ready, run.rejected, run.failed, run.open].map(|number| number.to_string()));
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_end_of_the_images_is_the_exit_code() {
        use BuildState::{Failed, Ready, Rejected};
        assert_eq!(worst([Ready, Ready]), Exit::Done);
        assert_eq!(worst([Ready, Rejected]), Exit::Rejected);
        assert_eq!(worst([Failed, Rejected]), Exit::Failed);
        assert_eq!(worst([Rejected, Failed, Ready]), Exit::Failed);
    }

    #[test]
    fn what_can_be_no_base_is_refused_at_once() {
        assert!(python("3.11").is_ok() && variant("numpy").is_ok());
        for bad in ["", "3", "3.11.2", "3.x", "v3.11", "3.", "3.11\n"] {
            assert!(python(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "Slim", "../x", "a-b"] {
            assert!(variant(bad).is_err(), "{bad:?}");
        }
    }
}
