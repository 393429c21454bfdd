//! From requirements to a lock: known for an hour, here or to another replica, else resolved in a step of the engine.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mecapy_engine::ContextFile;
use mecapy_registry::Digest;
use pep508_rs::PackageName;

use crate::bases::BaseImage;
use crate::dockerfile::RESOLVE_SCRIPT;
use crate::lock::Lock;
use crate::once::Once;
use crate::replicas::Replicas;
use crate::requirements::Requirements;
use crate::resolutions::Resolutions;
use crate::steps::{Script, Steps};
use crate::work::Work;
use crate::{Error, metric_definitions};

#[derive(Debug)]
pub struct Resolver {
    steps: Arc<Steps>,
    source_packages: BTreeSet<PackageName>,
    resolutions: Resolutions,
    replicas: Option<Replicas>,
    once: Once<Lock>,
}

impl Resolver {
    /// `source_packages`: which ones may be built from their sources.
    pub fn new(
        steps: Arc<Steps>,
        source_packages: BTreeSet<PackageName>,
        replicas: Option<Replicas>,
    ) -> Self {
        let ttl = Duration::from_secs(steps.options.resolution_ttl_seconds);
        Self {
            steps,
            source_packages,
            resolutions: Resolutions::new(ttl),
            once: Once::new(replicas.clone()),
            replicas,
        }
    }

    pub async fn lock(
        &self,
        base: &BaseImage,
        requirements: &Requirements,
        work: &mut Work<'_>,
    ) -> Result<Lock, Error> {
        let key = self.key(base, requirements);
        let (cancel, slots) = (work.cancel, &self.steps.slots);
        let resolve = async {
            let lock = self.resolve(base, requirements, work).await?;
            self.resolutions.put(key.clone(), lock.clone(), Duration::ZERO);
            if let Some(replicas) = &self.replicas {
                replicas.keep_resolution(&key, &lock).await?;
            }
            Ok(lock)
        };
        let lock = self.once.get(&key, slots, cancel, || self.known(&key), resolve);
        let (lock, is_new) = lock.await?;
        metric_definitions::lock(if is_new { "resolved" } else { "cached" });
        Ok(lock)
    }

    fn key(&self, base: &BaseImage, requirements: &Requirements) -> String {
        // Another index may resolve the same to something else.
        let index = self.steps.options.index_url.as_ref().map_or("", |url| url.expose());
        let mut asked = vec![
            base.manifest.digest.to_string(),
            index.to_owned(),
            requirements.fingerprint_text(),
        ];
        asked.extend(self.source_packages.iter().map(ToString::to_string));
        format!("resolution:{}", Digest::of(asked.join("\0").as_bytes()).hex())
    }

    /// What was resolved a short while ago, here or by another replica.
    async fn known(&self, key: &str) -> Result<Option<Lock>, Error> {
        if let Some(lock) = self.resolutions.get(key) {
            return Ok(Some(lock));
        }
        let Some(replicas) = &self.replicas else { return Ok(None) };
        let Some((lock, age)) = replicas.resolution(key, self.resolutions.ttl()).await? else {
            return Ok(None);
        };
        self.resolutions.put(key.to_owned(), lock.clone(), age);
        Ok(Some(lock))
    }

    async fn resolve(
        &self,
        base: &BaseImage,
        requirements: &Requirements,
        work: &mut Work<'_>,
    ) -> Result<Lock, Error> {
        work.log.write(&format!(
            "resolving {} requirements for Python {}",
            requirements.len(),
            base.python
        ));
        // Which of them it comes to, nobody knows yet.
        let from_source: Vec<_> = self.source_packages.iter().map(ToString::to_string).collect();
        let script = Script {
            name: "resolve",
            text: RESOLVE_SCRIPT,
            input: ContextFile::new("requirements.in", requirements.render()),
        };
        let (_, output) = self.steps.run(base, script, &from_source, work).await?;
        let lock = Lock::parse(output.lock())?.restrict(requirements)?;
        work.log.write(&format!("resolved to {} packages", lock.len()));
        Ok(lock)
    }
}
