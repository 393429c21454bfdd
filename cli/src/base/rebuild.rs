//! Functions that stand on an older image of their base: which they are, and building them again.
//!
//! A rebuild is a build of the same version. So it never comes before what its owner submits meanwhile, and until it is
//! ready the function runs as it does now.

use clap::Args;
use mecapy_objects::Key;
use mecapy_proto::BuildId;
use mecapy_store::bases::{self, Stale};
use mecapy_store::builds::Build;
use mecapy_store::{BuildState, PgPool};
use serde_json::{Value, json};

use super::{follow, worst};
use crate::exit::Exit;
use crate::session::Session;
use crate::{table, watch};

#[derive(Debug, Args)]
pub struct RebuildStale {
    /// So many at once; the next ones when these have ended, and one of them is ready
    #[arg(long, default_value_t = 10, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub batch: u32,
    /// Only tell which ones
    #[arg(long)]
    pub dry_run: bool,
}

pub async fn list(pool: &PgPool, session: &Session) -> anyhow::Result<Exit> {
    show(&bases::stale(pool).await?, session);
    Ok(Exit::Done)
}

pub async fn run(
    arguments: RebuildStale,
    pool: &PgPool,
    session: &Session,
) -> anyhow::Result<Exit> {
    let mut stale = bases::stale(pool).await?;
    stale.retain(|function| !function.in_work);
    if arguments.dry_run {
        show(&stale, session);
        return Ok(Exit::Done);
    }
    let go_on = || "what was begun goes on; for the rest: mecapy base rebuild-stale".to_owned();
    let work = in_batches(&stale, arguments.batch as usize, pool, session);
    let Rebuilt { builds, not_begun } = watch::unless_interrupted(work, go_on).await?;
    let raw = json!({
        "rebuilt": builds.iter().map(build_json).collect::<Vec<_>>(),
        "not_begun": not_begun,
    });
    session.output.show(&raw.to_string(), || {
        let rows: Vec<_> = builds.iter().map(build_row).collect();
        table::render(&["function", "version", "build", "status", "why"], &rows)
    });
    if not_begun > 0 {
        session.output.note(&format!(
            "none of the last batch is ready, so {not_begun} functions were left as they are: see why, then run this again"
        ));
    }
    Ok(worst(builds.iter().map(|(_, build)| build.state)))
}

struct Rebuilt<'a> {
    builds: Vec<(&'a Stale, Build)>,
    /// Functions that were left after a batch of which nothing came.
    not_begun: usize,
}

async fn in_batches<'a>(
    stale: &'a [Stale],
    size: usize,
    pool: &PgPool,
    session: &Session,
) -> anyhow::Result<Rebuilt<'a>> {
    let mut rebuilt = Rebuilt { builds: Vec::new(), not_begun: 0 };
    let mut left = stale.len();
    for batch in stale.chunks(size) {
        left -= batch.len();
        let mut asked: Vec<(BuildId, &Stale)> = Vec::new();
        for function in batch {
            if let Some(id) = ask(pool, function).await? {
                asked.push((id, function));
            }
        }
        if asked.is_empty() {
            continue;
        }
        let ids: Vec<BuildId> = asked.iter().map(|(id, _)| *id).collect();
        let function = |id: BuildId| asked.iter().find(|(asked, _)| *asked == id).map(|(_, f)| *f);
        let name = |build: &Build| function(build.id()).map(named).unwrap_or_default();
        let ended = follow::builds(pool, &ids, session, name).await?;
        let is_in_vain = ended.iter().all(|build| build.state != BuildState::Ready);
        rebuilt
            .builds
            .extend(ended.into_iter().filter_map(|build| Some((function(build.id())?, build))));
        // Most likely it is the base, and would be so for all.
        if is_in_vain {
            rebuilt.not_begun = left;
            break;
        }
    }
    Ok(rebuilt)
}

/// None: it has moved on by itself.
async fn ask(pool: &PgPool, stale: &Stale) -> Result<Option<BuildId>, mecapy_store::Error> {
    let mut transaction = pool.begin().await?;
    let source = Key::source(stale.current.build());
    let id = bases::rebuild(&mut transaction, stale, source.as_str()).await?;
    transaction.commit().await?;
    Ok(id)
}

fn named(stale: &Stale) -> String {
    format!("{}/{}", stale.current.owner, stale.current.name)
}

fn show(stale: &[Stale], session: &Session) {
    let raw: Vec<Value> = stale.iter().map(stale_json).collect();
    session.output.show(&json!({ "functions": raw }).to_string(), || {
        let rows: Vec<_> = stale.iter().map(stale_row).collect();
        let header = ["id", "function", "version", "base", "stands on", "newest", "in work"];
        table::render(&header, &rows)
    });
    if stale.iter().any(|function| !function.in_work) {
        session.hint("build them again: mecapy base rebuild-stale");
    }
}

fn stale_json(stale: &Stale) -> Value {
    json!({
        "function_id": stale.current.function_id().map(|id| id.get()).ok(),
        "owner": stale.current.owner,
        "name": stale.current.name,
        "version": stale.current.version,
        "build_id": stale.current.build(),
        "base": base(stale),
        "base_digest": stale.base_digest,
        "newest_digest": stale.newest_digest,
        "in_work": stale.in_work,
    })
}

fn stale_row(stale: &Stale) -> Vec<String> {
    vec![
        stale.current.function_id().map(|id| id.to_string()).unwrap_or_default(),
        named(stale),
        stale.current.version.to_string(),
        base(stale),
        stale.base_digest.as_deref().map_or("not known".to_owned(), short),
        short(&stale.newest_digest),
        if stale.in_work { "yes".to_owned() } else { String::new() },
    ]
}

fn base(stale: &Stale) -> String {
    format!("{}-{}", stale.current.python_version, stale.current.base_variant)
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

fn build_json((stale, build): &(&Stale, Build)) -> Value {
    let error =
        build.failure().map(|failure| json!({ "code": failure.code, "message": failure.message }));
    json!({
        "function_id": stale.current.function_id().map(|id| id.get()).ok(),
        "version": build.version,
        "build_id": build.id(),
        "status": build.state.as_str(),
        "docker_image": build.docker_image,
        "error": error,
    })
}

fn build_row((stale, build): &(&Stale, Build)) -> Vec<String> {
    let why = build.failure().map(|failure| format!("{}: {}", failure.code, failure.message));
    vec![
        named(stale),
        build.version.to_string(),
        build.id().to_string(),
        build.state.to_string(),
        why.unwrap_or_default(),
    ]
}
