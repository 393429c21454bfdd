//! The shell around the base images: `base.build` in, `build.done` or `build.failed` out. From there they go the way
//! of every build.

use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use mecapy_bus::{Delivery, Handler, HandlerError, Live, Outcome, Outgoing, topology};
use mecapy_objects::{Key, Objects};
use mecapy_proto::BuildId;
use mecapy_proto::v1::{BaseBuild, BuildDone, BuildFailed, Failure};
use mecapy_registry::Digest;
use mecapy_store::{BuildState, PgPool, StoredFailure, builds};
use tokio_util::sync::CancellationToken;

use crate::Error;
use crate::base_builder::{BaseBuilder, BuiltBase};
use crate::base_matrix::Cell;
use crate::build_log::BuildLog;
use crate::handler::{has_gone_on, milliseconds, parse, watch_for_cancel};
use crate::kept_log::KeptLog;

/// Tries before a build that could go better later has failed: one less than makes a dead letter, so that its run
/// ends.
const TRIES: u64 = topology::MAX_DELIVERIES - 1;

/// The handler of `base.build`.
#[derive(Debug)]
pub struct BaseHandler {
    pub builder: Arc<BaseBuilder>,
    pub pool: PgPool,
    pub objects: Objects,
    pub live: Live,
}

/// The build that an event is about, as the record has it.
struct Asked {
    id: BuildId,
    cell: Cell,
    requested_at: DateTime<Utc>,
    /// An earlier try has begun it.
    was_begun: bool,
}

impl Handler<BaseBuild> for BaseHandler {
    const STAGE: Option<&'static str> = Some("build");

    async fn handle(&self, event: BaseBuild, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let began = Instant::now();
        let Some(asked) = self.admit(&event).await? else { return Ok(Outcome::nothing()) };
        let log = KeptLog::begin(asked.id, self.builder.options(), &self.objects, &self.live);
        if asked.was_begun {
            log.go_on().await;
        }
        let cancel = CancellationToken::new();
        let built = tokio::select! {
            built = self.builder.build(&asked.cell, asked.id, log.log(), &cancel) => built,
            never = watch_for_cancel(&self.pool, asked.id, &cancel) => match never {},
        };
        log.is_whole();
        if matches!(built, Err(Error::Cancelled)) && has_gone_on(&self.pool, asked.id).await? {
            log.end().await;
            return Ok(Outcome::nothing());
        }
        let kept = log.keep().await;
        let outcome = match (built, kept) {
            (Err(error), _) if error.is_transient() && delivery.count < TRIES => {
                Err(HandlerError::transient(error))
            }
            (_, Err(error)) if delivery.count < TRIES => Err(HandlerError::transient(error)),
            (Ok(built), _) => Ok(done(&asked, &built, began)),
            (Err(error), _) => Ok(failed(&asked, &error, log.log(), began)),
        };
        log.end().await;
        outcome
    }
}

impl BaseHandler {
    /// Moves the build to `building`. None: it ended, or went on, without this message.
    async fn admit(&self, event: &BaseBuild) -> Result<Option<Asked>, HandlerError> {
        let id: BuildId = parse(event.build_id.parse())?;
        let cell =
            Cell::new(&event.python_version, &event.variant).map_err(HandlerError::permanent)?;
        let Some(record) = builds::get(&self.pool, id).await? else {
            return Err(HandlerError::permanent(format!("build {id} is not known")));
        };
        let base = cell.base();
        if (record.base.as_deref(), record.base_run.as_deref())
            != (Some(base.as_str()), Some(event.run_id.as_str()))
        {
            return Err(HandlerError::permanent(format!(
                "base.build does not say of build {id} what the record does"
            )));
        }
        match builds::start(&self.pool, id).await? {
            Some(BuildState::Building) => {
                let was_begun = record.state == BuildState::Building;
                Ok(Some(Asked { id, cell, requested_at: record.requested_at, was_begun }))
            }
            _ => Ok(None),
        }
    }
}

/// Of this image alone: `3.11-slim-20251004-0123abcd`.
fn own_tag(base: &str, requested_at: DateTime<Utc>, digest: &Digest) -> String {
    let short: String = digest.hex().chars().take(8).collect();
    format!("{base}-{}-{short}", requested_at.format("%Y%m%d"))
}

fn done(asked: &Asked, built: &BuiltBase, began: Instant) -> Outcome {
    let (id, base) = (asked.id, asked.cell.base());
    let done = BuildDone {
        tag: own_tag(&base, asked.requested_at, &built.digest),
        base,
        build_id: id.to_string(),
        digest: built.digest.to_string(),
        image: built.image.to_string(),
        size_bytes: built.size_bytes,
        log_key: Key::build_log(id).to_string(),
        duration_ms: milliseconds(began),
        ..BuildDone::default()
    };
    tracing::info!(build.id = %id, base = done.base, image = done.image, duration_ms = done.duration_ms, "built");
    let record = builds::Built {
        staging_image: done.image.clone(),
        digest: done.digest.clone(),
        tag: done.tag.clone(),
        size_bytes: done.size_bytes,
        // It has no image of dependencies below it.
        dependency_image: String::new(),
        lock_key: None,
        log_key: done.log_key.clone(),
        duration_ms: done.duration_ms,
    };
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let moved = builds::built(conn, id, &record).await?;
            Ok(if moved { Outgoing::event(&done) } else { Outgoing::none() })
        })
    })
}

fn failed(asked: &Asked, error: &Error, log: &BuildLog, began: Instant) -> Outcome {
    let (id, rejection) = (asked.id, error.rejection());
    // Whoever reads this is an operator: what is ours to mend is theirs to see.
    let message = match error {
        Error::Rejected(_) | Error::Cancelled => rejection.message,
        error => log.without_secrets(&mecapy_service::chain(error)),
    };
    let failure =
        Failure { code: rejection.code.as_str().to_owned(), message, log_tail: log.tail() };
    let failed = BuildFailed {
        base: asked.cell.base(),
        build_id: id.to_string(),
        function_id: 0,
        failure: Some(failure.clone()),
        log_key: Key::build_log(id).to_string(),
        duration_ms: milliseconds(began),
    };
    tracing::error!(build.id = %id, base = failed.base, code = failure.code, error = failure.message, "a base image was not built");
    Outcome::commit(move |conn| {
        Box::pin(async move {
            let why = StoredFailure::from(failure);
            let moved = builds::fail(conn, id, &why, Some(&failed.log_key)).await?;
            Ok(if moved { Outgoing::event(&failed) } else { Outgoing::none() })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_tag_of_its_own() {
        let digest = Digest::of(b"x");
        let day = "2025-10-04T23:59:00Z".parse().unwrap();
        let tag = own_tag("3.11-slim", day, &digest);
        assert_eq!(tag, format!("3.11-slim-20251004-{}", &digest.hex()[..8]));
    }
}
