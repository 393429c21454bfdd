//! `mecapy mirror drill`: the recovery, tried out. The primary registry is not asked for anything.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use mecapy_engine::{Credentials, End, Engine, Limits, RunRequest};
use mecapy_proto::TaskId;
use mecapy_registry::{Digest, ImageRef, Registries};
use mecapy_service::ConfigError;
use mecapy_store::{mirror_choice, mirror_drills};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::shown::short;
use crate::exit::{Exit, Stop};
use crate::progress::{Progress, TASK};
use crate::servers::Servers;
use crate::session::Session;
use crate::{duration, table, watch};

/// What a recovered image must be able to do: start its Python, and read the function's code.
const SMOKE_TEST: &str = "import sys; open('/app/user_function.py', 'rb').read()";
const SMOKE_LIMIT: Duration = Duration::from_secs(60);
const LAST_WORDS: usize = 300;

#[derive(Debug, Args)]
pub struct Drill {
    /// How many images, the most used first
    #[arg(long, default_value_t = 3, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub images: u32,
    /// How long one image may take to arrive
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration::parse_positive)]
    pub pull_limit: Duration,
}

/// The sections of the services' configuration that it reads.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Sections {
    registries: Registries,
    docker: mecapy_engine::Options,
}

/// What became of one image.
#[derive(Debug, Serialize)]
struct Tried {
    image: String,
    /// Layers that were here before make the pull faster than a recovery would be.
    was_here: bool,
    pull_ms: Option<u64>,
    smoke_test_ms: Option<u64>,
    /// None: it works.
    problem: Option<String>,
}

pub async fn run(arguments: Drill, servers: &Servers, session: &Session) -> anyhow::Result<Exit> {
    let sections: Sections = mecapy_service::check(session.config.as_deref())?;
    let Some(fallback) = sections.registries.fallback()? else {
        return Err(ConfigError::key(
            "registries.fallback",
            "must be set: the registry to recover from",
        )
        .into());
    };
    let credentials = fallback.credentials().map(Credentials::from);
    let pool = servers.pool().await?;
    let chosen = mirror_choice::recoverable(&pool, arguments.images).await?;
    if chosen.is_empty() {
        let reason = "no image of a live function was mirrored yet: run `mecapy mirror run`";
        return Err(Stop::NotFound(reason.to_owned()).into());
    }
    let engine = Engine::connect(&sections.docker)
        .await
        .map_err(|error| Stop::Unreachable(format!("Docker: {}", mecapy_service::chain(&error))))?;

    let began = Instant::now();
    let work = async {
        let mut progress = Progress::new(session.output, session.quiet, TASK);
        let mut tried = Vec::new();
        for (index, (repository, digest)) in chosen.iter().enumerate() {
            progress.stage(&format!("{} of {}: {repository}", index + 1, chosen.len()));
            let digest: Digest = digest.parse().context("the record has no digest")?;
            let image = ImageRef::new(fallback.host(), repository.clone()).with_digest(digest);
            tried.push(attempt(&engine, &image, credentials.as_ref(), arguments.pull_limit).await);
        }
        Ok(tried)
    };
    let go_on = || "images that were pulled may still be here".to_owned();
    let tried = watch::unless_interrupted(work, go_on).await?;
    let took = began.elapsed();

    let is_well = tried.iter().all(|image| image.problem.is_none());
    let json = serde_json::json!({ "fallback": fallback.host(), "duration_ms": ms(took), "recovered": is_well, "images": tried });
    session.output.show(&json.to_string(), || text(&tried, fallback.host(), took));
    // For the console. What was found counts also where it can't be kept.
    let kept =
        mirror_drills::record(&pool, fallback.host(), is_well, ms(took), &json["images"]).await;
    if let Err(error) = kept {
        session.output.note(&format!("error: the drill is not on record: {error}"));
    }
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

async fn attempt(
    engine: &Engine,
    image: &ImageRef,
    credentials: Option<&Credentials>,
    limit: Duration,
) -> Tried {
    let reference = image.to_string();
    let mut tried = Tried {
        image: reference.clone(),
        was_here: matches!(engine.image(&reference).await, Ok(Some(_))),
        pull_ms: None,
        smoke_test_ms: None,
        problem: None,
    };
    let began = Instant::now();
    if let Err(error) = engine.pull(image, credentials, limit).await {
        tried.problem = Some(format!("pull: {}", mecapy_service::chain(&error)));
        return tried;
    }
    tried.pull_ms = Some(ms(began.elapsed()));
    let began = Instant::now();
    tried.problem = smoke_test(engine, &reference).await.err();
    tried.smoke_test_ms = Some(ms(began.elapsed()));
    if !tried.was_here
        && let Err(error) = engine.remove_image(&reference).await
    {
        // Nothing of the recovery: what is in use stays.
        tried.problem.get_or_insert(format!("removing: {}", mecapy_service::chain(&error)));
    }
    tried
}

/// As hardened as a task: no network, nothing to write to.
async fn smoke_test(engine: &Engine, image: &str) -> Result<(), String> {
    let request = RunRequest {
        image: image.to_owned(),
        name: format!("mecapy-drill-{}", TaskId::new()),
        cmd: ["python", "-I", "-c", SMOKE_TEST].map(str::to_owned).to_vec(),
        limits: Limits { timeout: SMOKE_LIMIT, ..Limits::default() },
        ..RunRequest::default()
    };
    let (outcome, spent) = engine
        .run(request, &CancellationToken::new())
        .await
        .map_err(|error| format!("smoke test: {}", mecapy_service::chain(&error)))?;
    // Its image is removed next.
    spent.remove().await;
    if outcome.end == End::Exited(0) {
        return Ok(());
    }
    let said = [outcome.stderr.head, outcome.stderr.tail].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let from = said.char_indices().rev().nth(LAST_WORDS).map_or(0, |(at, _)| at);
    Err(format!("smoke test: {:?}: {}", outcome.end, said[from..].trim()))
}

fn ms(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

fn text(tried: &[Tried], host: &str, took: Duration) -> String {
    let seconds =
        |ms: Option<u64>| ms.map_or("-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0));
    let rows: Vec<Vec<String>> = tried
        .iter()
        .map(|image| {
            let (name, digest) = image.image.split_once('@').unwrap_or((&image.image, ""));
            vec![
                name.to_owned(),
                short(digest),
                seconds(image.pull_ms),
                seconds(image.smoke_test_ms),
                image.problem.clone().unwrap_or_else(|| "works".to_owned()),
            ]
        })
        .collect();
    let works = tried.iter().filter(|image| image.problem.is_none()).count();
    let mut text = table::render(&["image", "digest", "pull", "smoke test", "result"], &rows);
    text.push_str(&format!(
        "\n{works} of {} images recovered from {host} alone in {:.1} s",
        tried.len(),
        took.as_secs_f64()
    ));
    if tried.iter().any(|image| image.was_here) {
        text.push_str(" (some were on this machine already: a recovery takes longer)");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_tells_the_time_to_recover_and_what_does_not_work() {
        let tried = [
            Tried {
                image: "f.example/a@sha256:0123456789abcdef".into(),
                was_here: false,
                pull_ms: Some(1_200),
                smoke_test_ms: Some(300),
                problem: None,
            },
            Tried {
                image: "f.example/b@sha256:1".into(),
                was_here: true,
                pull_ms: None,
                smoke_test_ms: None,
                problem: Some("pull: not there".into()),
            },
        ];
        let text = text(&tried, "f.example", Duration::from_millis(1_500));
        for part in [
            "0123456789ab",
            "1.2 s",
            "works",
            "pull: not there",
            "1 of 2 images",
            "in 1.5 s",
            "longer",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
    }
}
