//! Begins a run: chooses its images, and asks for each of them.

use std::collections::BTreeSet;

use futures::{StreamExt as _, TryStreamExt as _};
use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::v1::{MirrorImage, MirrorRequested};
use mecapy_proto::{ErrorCode, failure};
use mecapy_registry::{Copier, Digest, Error, Registry};
use mecapy_service::chain;
use mecapy_store::PgPool;
use mecapy_store::mirror_choice::{self, Candidate};
use mecapy_store::mirror_runs::{self, Ended, NewImage, NewRun};

use crate::choice::{self, BASE_REPOSITORY};
use crate::{metric_definitions as metrics, report};

/// More is a slip of the pen: a run holds its images in one transaction.
const MAX_LIMIT: u32 = 10_000;
const LOOKS: usize = 8;

/// The handler of `mirror.requested`.
#[derive(Debug)]
pub struct Plan {
    pub pool: PgPool,
    pub primary: Registry,
    pub copier: Copier,
    /// For requests that don't say.
    pub window_days: u32,
    pub limit: u32,
    pub max_deliveries: u64,
}

impl Handler<MirrorRequested> for Plan {
    async fn handle(
        &self,
        event: MirrorRequested,
        delivery: &Delivery,
    ) -> Result<Outcome, HandlerError> {
        let run = check(&event).map_err(HandlerError::permanent)?;
        if mirror_runs::get(&self.pool, &run.id).await?.is_some() {
            return Ok(Outcome::nothing());
        }
        let mut images = if event.digests.is_empty() {
            let days = if event.window_days == 0 { self.window_days } else { event.window_days };
            let limit = if event.limit == 0 { self.limit } else { event.limit };
            let candidates = mirror_choice::most_used(&self.pool, days, limit).await?;
            let mut images = choice::function_images(&candidates);
            images.extend(self.bases(&candidates, delivery).await?);
            images
        } else {
            self.named(&event.digests, delivery).await?
        };
        if run.dry_run {
            self.foresee(&mut images, delivery).await?;
        } else if run.by_usage {
            self.audit(&run, &mut images).await;
        }
        let open = images.iter().filter(|image| image.ended.is_none()).count();
        tracing::info!(
            mirror.run = run.id,
            reason = run.reason,
            images = images.len(),
            images.open = open,
            dry_run = run.dry_run,
            "a mirror run begins"
        );
        Ok(begin(run, images))
    }
}

impl Plan {
    /// Base images of these functions.
    async fn bases(
        &self,
        candidates: &[Candidate],
        delivery: &Delivery,
    ) -> Result<Vec<NewImage>, HandlerError> {
        let bases = choice::bases(candidates);
        if bases.is_empty() {
            return Ok(Vec::new());
        }
        match self.tags_of(&bases).await {
            Ok(tags) => Ok(choice::base_images(tags)),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) if error.is_transient() && delivery.count < self.max_deliveries => {
                Err(HandlerError::transient(error))
            }
            // The functions' images are tried all the same, and the run tells what is missing.
            Err(error) => {
                let reason = format!("the base images can't be listed: {}", chain(&error));
                let ended = failed(&reason);
                Ok(vec![unknown(BASE_REPOSITORY.to_owned(), String::new(), ended)])
            }
        }
    }

    async fn tags_of(&self, bases: &BTreeSet<String>) -> Result<Vec<(String, Digest)>, Error> {
        let tags = self.primary.tags(BASE_REPOSITORY).await?;
        let looks: Vec<_> = tags
            .into_iter()
            .filter(|tag| choice::is_of_base(tag, bases))
            .map(|tag| async move {
                let there = self.primary.resolve(BASE_REPOSITORY, &tag).await?;
                Ok::<_, Error>(there.map(|there| (tag, there.digest)))
            })
            .collect();
        futures::stream::iter(looks)
            .buffer_unordered(LOOKS)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// Digests that somebody named: of published functions, or of base images.
    async fn named(
        &self,
        digests: &[String],
        delivery: &Delivery,
    ) -> Result<Vec<NewImage>, HandlerError> {
        let digests: BTreeSet<Digest> = digests
            .iter()
            .map(|digest| digest.parse())
            .collect::<Result<_, Error>>()
            .map_err(|error| HandlerError::permanent(error.to_string()))?;
        let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
        let candidates = mirror_choice::of_digests(&self.pool, &texts).await?;
        let mut images = choice::function_images(&candidates);
        let known: BTreeSet<String> = images.iter().map(|image| image.digest.clone()).collect();
        let others = texts.into_iter().filter(|digest| !known.contains(digest)).collect();
        images.extend(self.others(others, delivery).await?);
        Ok(images)
    }

    /// Digests that no function has: of base images, or of nothing.
    async fn others(
        &self,
        digests: Vec<String>,
        delivery: &Delivery,
    ) -> Result<Vec<NewImage>, HandlerError> {
        let looks: Vec<_> =
            digests
                .iter()
                .map(|digest| async move {
                    (digest, self.primary.resolve(BASE_REPOSITORY, digest).await)
                })
                .collect();
        let mut looks = futures::stream::iter(looks).buffered(LOOKS);
        let mut images = Vec::with_capacity(digests.len());
        while let Some((digest, there)) = looks.next().await {
            let digest = digest.clone();
            let image =
                match there {
                    Ok(Some(_)) => NewImage {
                        repository: BASE_REPOSITORY.to_owned(),
                        digest,
                        tags: Vec::new(),
                        tasks: 0,
                        size_bytes: 0,
                        ended: None,
                    },
                    Ok(None) => {
                        let reason = "no published image has this digest";
                        let ended = Ended::without_bytes(
                            mirror_runs::Outcome::NotFound,
                            Some(failure(ErrorCode::ImageNotFound, reason)),
                        );
                        unknown(String::new(), digest, ended)
                    }
                    Err(error) if error.is_transient() && delivery.count < self.max_deliveries => {
                        return Err(HandlerError::transient(error));
                    }
                    // Whoever asked waits for an end.
                    Err(error) => {
                        let ended = failed(&format!("it can't be looked for: {}", chain(&error)));
                        if error.is_transient() {
                            // The registry is away. To find that out again takes seconds for each of the others.
                            let left = digests.iter().skip(images.len());
                            images.extend(left.map(|digest| {
                                unknown(String::new(), digest.clone(), ended.clone())
                            }));
                            return Ok(images);
                        }
                        unknown(String::new(), digest, ended)
                    }
                };
            images.push(image);
        }
        Ok(images)
    }
}

fn unknown(repository: String, digest: String, ended: Ended) -> NewImage {
    NewImage { repository, digest, tags: Vec::new(), tasks: 0, size_bytes: 0, ended: Some(ended) }
}

pub(crate) fn failed(reason: &str) -> Ended {
    Ended::without_bytes(mirror_runs::Outcome::Failed, Some(failure(ErrorCode::PushFailed, reason)))
}

/// The request as a run, or what is wrong with it.
fn check(event: &MirrorRequested) -> Result<NewRun, String> {
    // It becomes part of the reports' keys.
    let is_name = (1..=128).contains(&event.run_id.len())
        && event
            .run_id
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !event.run_id.starts_with('.');
    if !is_name {
        return Err(format!(
            "run_id must be 1 to 128 of A-Z a-z 0-9 - _ ., not {:?}",
            event.run_id
        ));
    }
    if event.verify_percent > 100 {
        return Err(format!("verify_percent must be 0 to 100, not {}", event.verify_percent));
    }
    if event.limit > MAX_LIMIT || event.digests.len() > MAX_LIMIT as usize {
        return Err(format!("a run copies at most {MAX_LIMIT} images"));
    }
    Ok(NewRun {
        id: event.run_id.clone(),
        reason: if event.reason.is_empty() { "manual".to_owned() } else { event.reason.clone() },
        by_usage: event.digests.is_empty(),
        dry_run: event.dry_run,
        verify_percent: event.verify_percent,
    })
}

/// The run, its images, and a message for each: one transaction. A run that has nothing left to do ends with it.
fn begin(run: NewRun, images: Vec<NewImage>) -> Outcome {
    Outcome::commit(move |conn| {
        Box::pin(async move {
            if !mirror_runs::create(conn, &run, &images).await? {
                return Ok(Outgoing::none());
            }
            for ended in images.iter().filter(|_| !run.dry_run).filter_map(|it| it.ended.as_ref()) {
                metrics::images(ended.outcome.as_str()).increment(1);
                metrics::bytes("saved").increment(ended.bytes_saved);
            }
            if images.iter().all(|image| image.ended.is_some()) {
                return Ok(Outgoing::event(&report::done(conn, &run.id).await?));
            }
            let open = images.into_iter().filter(|image| image.ended.is_none());
            Ok(open.fold(Outgoing::none(), |outgoing, image| {
                outgoing.and(&MirrorImage {
                    run_id: run.id.clone(),
                    repository: image.repository,
                    digest: image.digest,
                    tags: image.tags,
                })
            }))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(run_id: &str) -> MirrorRequested {
        MirrorRequested { run_id: run_id.to_owned(), ..MirrorRequested::default() }
    }

    #[test]
    fn a_run_is_named_so_that_its_reports_stay_in_their_folder() {
        for good in ["mirror-2025-10-04", "mirror-2025-10-04T02-00", "x"] {
            assert!(check(&request(good)).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/b", "a b", "ä", &"x".repeat(129)] {
            assert!(check(&request(bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_no_run_can_do_is_refused() {
        assert!(check(&MirrorRequested { verify_percent: 101, ..request("x") }).is_err());
        assert!(check(&MirrorRequested { limit: MAX_LIMIT + 1, ..request("x") }).is_err());
    }
}
