//! Scanning again: every live image against a new database, from what is known of its layers. Nothing is pulled.
//!
//! Images with the same packages are matched once. What changes is recorded, and `scan.revoked` written, in one
//! transaction; who dies in between does it again, and finds that part of it is no news any more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_advisories::Database;
use mecapy_bus::{Outbox, Outgoing};
use mecapy_proto::v1::{self, ScanRevoked};
use mecapy_registry::Digest;
use mecapy_store::rematches::{self, Changed, Matched, Summary};
use mecapy_store::{PgPool, Turn, layers};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::image::{self, Layer};
use crate::layer::ANALYSER_VERSION;
use crate::policy::{Policies, Policy};
use crate::scanner::events;
use crate::verdict::{Decision, Verdict, decide};
use crate::{Error, LayerCache, finding, metric_definitions as metrics};

/// Sets of packages that are matched at once.
const AT_ONCE: usize = 2;
/// Images of one transaction.
const BATCH: usize = 500;
const DIGESTS_IN_QUERY: usize = 5_000;

/// What becomes of an image that had passed, and that a newer database rejects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnRevoked {
    /// Workers run it no more.
    Refuse,
    /// It is recorded and told, and runs on.
    Flag,
}

#[derive(Clone)]
pub struct Rematch {
    pub pool: PgPool,
    pub outbox: Outbox,
    pub policies: Policies,
    pub on_revoked: OnRevoked,
}

impl Rematch {
    /// Does it unless this database was matched already by the policy in force, today: an ignore may have expired, an
    /// advisory's grace be over. One replica does it for all.
    pub async fn if_due(
        &self,
        database: &Arc<Database>,
        now: DateTime<Utc>,
    ) -> Result<Option<Summary>, Error> {
        let policy = self.policies.current();
        let info = database.info();
        let newest = info.newest.unwrap_or_default();
        let key = format!(
            "{}/{}-{:?}/{}",
            info.version,
            policy.fingerprint(now)?,
            self.on_revoked,
            now.date_naive()
        );
        if rematches::is_done(&self.pool, &key, newest).await? {
            return Ok(None);
        }
        let _turn = Turn::at(&self.pool, "rematch").await?;
        if rematches::is_done(&self.pool, &key, newest).await? {
            return Ok(None);
        }
        let summary = self.run(database, &policy, now).await?;
        rematches::done(&self.pool, &key, &info.version, newest, &summary).await?;
        Ok(Some(summary))
    }

    async fn run(
        &self,
        database: &Arc<Database>,
        policy: &Arc<Policy>,
        now: DateTime<Utc>,
    ) -> Result<Summary, Error> {
        let began = Instant::now();
        let live = rematches::live(&self.pool).await?;
        let mut total = Summary { images: count(live.len()), ..Summary::default() };
        let groups = self.groups(live, &mut total).await?;
        // Not the one of the scans: what is read from the store is noted as used, and stays there.
        let cache = LayerCache::new(self.pool.clone());
        let sets = groups.len();
        let matched: Vec<Summary> = stream::iter(groups)
            .map(|(layers, builds)| self.group(database, policy, now, &cache, layers, builds))
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await?;
        for of_group in matched {
            total.unindexed += of_group.unindexed;
            total.revoked += of_group.revoked;
            total.restored += of_group.restored;
        }
        total.duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        metrics::rematched(began.elapsed());
        metrics::unindexed_images().set(f64::from(total.unindexed));
        tracing::info!(
            database.version = database.info().version,
            images = total.images,
            sets,
            unindexed = total.unindexed,
            revoked = total.revoked,
            restored = total.restored,
            duration_ms = total.duration_ms,
            "live images were matched with the advisories"
        );
        if total.unindexed > 0 {
            tracing::warn!(
                images = total.unindexed,
                "what these images hold is not known any more: their verdicts stand until they are built again"
            );
        }
        Ok(total)
    }

    /// Images by their layers, less those layers that say nothing of packages: of the functions on one set of
    /// dependencies one is left.
    async fn groups(
        &self,
        live: Vec<rematches::Live>,
        total: &mut Summary,
    ) -> Result<HashMap<Vec<String>, Vec<Uuid>>, Error> {
        let digests: HashSet<&String> = live.iter().flat_map(|image| &image.layers).collect();
        let digests: Vec<String> = digests.into_iter().cloned().collect();
        let mut empty = HashSet::new();
        for digests in digests.chunks(DIGESTS_IN_QUERY) {
            empty.extend(layers::empty(&self.pool, digests, ANALYSER_VERSION).await?);
        }
        let mut groups: HashMap<Vec<String>, Vec<Uuid>> = HashMap::new();
        for image in live {
            if image.layers.is_empty() {
                total.unindexed += 1;
                continue;
            }
            let layers: Vec<String> =
                image.layers.into_iter().filter(|layer| !empty.contains(layer)).collect();
            groups.entry(layers).or_default().push(image.build_id);
        }
        Ok(groups)
    }

    async fn group(
        &self,
        database: &Arc<Database>,
        policy: &Arc<Policy>,
        now: DateTime<Utc>,
        cache: &LayerCache,
        layers: Vec<String>,
        builds: Vec<Uuid>,
    ) -> Result<Summary, Error> {
        let mut summary = Summary::default();
        let Some(layers) = known(cache, &layers).await? else {
            summary.unindexed = count(builds.len());
            return Ok(summary);
        };
        let (of_database, of_policy) = (Arc::clone(database), Arc::clone(policy));
        let matching = tokio::task::spawn_blocking(move || {
            let found = finding::find(&of_database, &image::merge(&layers))?;
            let decision = decide(&found.findings, &of_policy, now);
            Ok::<_, Error>((events(&found.findings, &decision), decision))
        });
        let (findings, decision) = matching.await.map_err(std::io::Error::other)??;
        let matched = self.matched(database, &findings, &decision)?;
        for builds in builds.chunks(BATCH) {
            let mut transaction = self.pool.begin().await.map_err(mecapy_store::Error::from)?;
            let changed = rematches::record(&mut transaction, builds, &matched).await?;
            let mut outgoing = Outgoing::none();
            for image in &changed {
                match (image.was_revoked, matched.revoked) {
                    (false, true) => {
                        summary.revoked += 1;
                        outgoing = outgoing.and(&self.event(image, &matched, &findings, &decision));
                    }
                    (true, false) => summary.restored += 1,
                    _ => {}
                }
            }
            let written = self.outbox.write(&mut transaction, outgoing).await?;
            transaction.commit().await.map_err(mecapy_store::Error::from)?;
            self.outbox.send(written).await;
            told(&changed, &matched, &decision);
        }
        Ok(summary)
    }

    fn matched(
        &self,
        database: &Database,
        findings: &[v1::Finding],
        decision: &Decision,
    ) -> Result<Matched, Error> {
        let counts = decision.counts;
        Ok(Matched {
            database_version: database.info().version.clone(),
            critical: counts.critical,
            high: counts.high,
            medium: counts.medium,
            low: counts.low,
            unknown: counts.unknown,
            findings: serde_json::to_value(findings)?,
            revoked: decision.verdict == Verdict::Rejected,
            refused: self.on_revoked == OnRevoked::Refuse,
        })
    }

    fn event(
        &self,
        image: &Changed,
        matched: &Matched,
        findings: &[v1::Finding],
        decision: &Decision,
    ) -> ScanRevoked {
        ScanRevoked {
            build_id: image.build().to_string(),
            function_id: image.function_id.unwrap_or_default(),
            owner: image.owner.clone().unwrap_or_default(),
            version: image.version.unwrap_or_default().unsigned_abs(),
            image: image.docker_image.clone().unwrap_or_default(),
            digest: image.digest.clone(),
            database_version: matched.database_version.clone(),
            counts: Some(decision.counts.into()),
            findings: findings.to_vec(),
            refused: matched.refused,
            base: image.base.clone().unwrap_or_default(),
        }
    }
}

/// The layers with their indexes; `None`: of one there is none.
async fn known(cache: &LayerCache, layers: &[String]) -> Result<Option<Vec<Layer>>, Error> {
    let digests: Option<Vec<Digest>> = layers.iter().map(|layer| layer.parse().ok()).collect();
    let Some(digests) = digests else { return Ok(None) };
    let known = cache.get(&digests).await?;
    let layer = |digest| known.get(&digest).map(|index| Layer { digest, index: Arc::clone(index) });
    Ok(digests.into_iter().map(layer).collect())
}

fn told(changed: &[Changed], matched: &Matched, decision: &Decision) {
    for image in changed.iter().filter(|image| image.was_revoked != matched.revoked) {
        metrics::revoked(if matched.revoked { "revoked" } else { "restored" }).increment(1);
        if matched.revoked {
            tracing::warn!(
                build.id = %image.build(),
                image.digest = image.digest,
                function.id = image.function_id,
                refused = matched.refused,
                reasons = decision.reasons.join("; "),
                "an image that had passed is revoked"
            );
        } else {
            tracing::info!(build.id = %image.build(), image.digest = image.digest, "a revoked image passes again");
        }
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
