//! Waits for the end of a run, by its rows.

use std::time::Duration;

use mecapy_store::cleanup_runs::{self, Run};
use mecapy_store::{PgPool, cleanup_items};
use tokio::time::Instant;

use crate::progress::{Progress, TASK};
use crate::session::Session;

const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A run that nobody has begun by then has nobody who could, or another run is before it.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);
/// A database that is away for a moment is no end.
const AWAY_LIMIT: Duration = Duration::from_secs(60);

pub async fn until_ended(pool: &PgPool, id: &str, session: &Session) -> anyhow::Result<Run> {
    let mut progress = Progress::new(session.output, session.quiet, TASK);
    let asked = Instant::now();
    let mut heard = Instant::now();
    let mut has_warned = false;
    let mut problem = String::new();
    progress.stage("waiting for a janitor");
    loop {
        match look(pool, id).await {
            Ok(Some((run, _))) if run.has_ended() => return Ok(run),
            Ok(Some((run, counts))) => {
                heard = Instant::now();
                progress.stage(&stage(&run, &counts));
                if run.problem != problem {
                    problem = run.problem;
                    progress.note(&format!("{problem}; it is tried again"));
                }
            }
            Ok(None) => {
                heard = Instant::now();
                if !has_warned && asked.elapsed() > BEGUN_WITHIN {
                    progress.note("no janitor has begun it yet: is one running, or at another run? (mecapy status)");
                    has_warned = true;
                }
            }
            Err(error) if heard.elapsed() > AWAY_LIMIT => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(
    pool: &PgPool,
    id: &str,
) -> Result<Option<(Run, Vec<(String, i64)>)>, mecapy_store::Error> {
    let Some(run) = cleanup_runs::get(pool, id).await? else { return Ok(None) };
    let counts = if run.state == "applying" && run.kind == "cleanup" {
        cleanup_items::counts(pool, id).await?
    } else {
        Vec::new()
    };
    Ok(Some((run, counts)))
}

/// In steps of a twentieth, so that a log has twenty lines of it and not a thousand.
fn stage(run: &Run, counts: &[(String, i64)]) -> String {
    let all: i64 = counts.iter().map(|(_, number)| number).sum();
    let planned: i64 =
        counts.iter().filter(|(state, _)| state == "planned").map(|(_, number)| number).sum();
    match run.state.as_str() {
        "planning" => "reading the registry".to_owned(),
        _ if run.kind == "undo" => format!("putting back {} images", run.planned_images),
        _ if run.dry_run || all == 0 => "writing the report".to_owned(),
        _ => format!("{} % of {all} deletions", (all - planned) * 20 / all * 5),
    }
}
