//! Waits for the end of builds, by their rows.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use mecapy_proto::BuildId;
use mecapy_store::builds::{self, Build};
use mecapy_store::{BuildState, Error, PgPool, bases};
use tokio::time::Instant;

use crate::progress::{Progress, TASK};
use crate::session::Session;

const LOOK_EVERY: Duration = Duration::from_millis(300);
/// What nobody has begun by then has nobody who could.
const BEGUN_WITHIN: Duration = Duration::from_secs(15);
/// A database that is away for a moment is no end.
const AWAY_LIMIT: Duration = Duration::from_secs(60);

/// The cells of a run, once all have ended.
pub async fn run(pool: &PgPool, id: &str, session: &Session) -> anyhow::Result<Vec<Build>> {
    let name = |cell: &Build| cell.base.clone().unwrap_or_default();
    until_ended(session, name, async || {
        let mut conn = pool.acquire().await?;
        bases::cells(&mut conn, id).await
    })
    .await
}

/// Builds of functions, once all have ended.
pub async fn builds(
    pool: &PgPool,
    ids: &[BuildId],
    session: &Session,
    name: impl Fn(&Build) -> String,
) -> anyhow::Result<Vec<Build>> {
    until_ended(session, name, async || {
        let mut found = Vec::with_capacity(ids.len());
        for id in ids {
            found.extend(builds::get(pool, *id).await?);
        }
        Ok(found)
    })
    .await
}

async fn until_ended<F: Future<Output = Result<Vec<Build>, Error>>>(
    session: &Session,
    name: impl Fn(&Build) -> String,
    look: impl Fn() -> F,
) -> anyhow::Result<Vec<Build>> {
    let mut progress = Progress::new(session.output, session.quiet, TASK);
    let asked = Instant::now();
    let mut heard = Instant::now();
    let mut has_warned = false;
    let mut states: HashMap<BuildId, BuildState> = HashMap::new();
    progress.stage("waiting for a builder");
    loop {
        match look().await {
            Ok(found) => {
                heard = Instant::now();
                let ended = found.iter().filter(|build| build.state.is_final()).count();
                let has_begun = found.iter().any(|build| build.state != BuildState::Queued);
                for build in &found {
                    if states.insert(build.id(), build.state) != Some(build.state) {
                        progress.note(&format!("{}: {}", name(build), build.state));
                    }
                }
                if !found.is_empty() && ended == found.len() {
                    return Ok(found);
                }
                if has_begun {
                    progress.stage(&format!("{ended} of {} have ended", found.len()));
                } else if !has_warned && asked.elapsed() > BEGUN_WITHIN {
                    progress.note("no builder has begun yet: is one running? (mecapy status)");
                    has_warned = true;
                }
            }
            Err(error) if heard.elapsed() > AWAY_LIMIT => return Err(error.into()),
            Err(_) => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
