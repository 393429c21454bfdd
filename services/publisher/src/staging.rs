//! The end of an image in staging, once it is published: its reference goes there.
//!
//! Its blobs stay where others have them: a repository's blobs are not its manifests', and the dependency image has a
//! repository of its own. What can't be removed now, the janitor's sweep of staging removes later.

use backon::{ExponentialBuilder, Retryable as _};
use mecapy_proto::BuildId;
use mecapy_registry::{Digest, ImageRef, Manifest, Registry};
use mecapy_service::chain;
use mecapy_store::{PgPool, staging};
use tokio_util::task::TaskTracker;

use crate::metric_definitions as metrics;
use crate::trouble::Trouble;

/// The repositories that hold nothing but images on their way.
const STAGING: &str = "mecapy/staging/";
const DEPENDENCIES: &str = "mecapy/staging/deps";

/// Removes references from staging.
#[derive(Debug, Clone)]
pub struct Broom {
    pub pool: PgPool,
    pub staging: Registry,
    pub sweeping: TaskTracker,
}

impl Broom {
    /// As [`Broom::sweep`], beside what its caller does next.
    pub(crate) fn sweep_later(&self, build: BuildId, staged: ImageRef, digest: Digest) {
        let broom = self.clone();
        self.sweeping.spawn(async move { broom.sweep(build, &staged, digest).await });
    }

    /// Until nothing is half done.
    pub(crate) async fn rest(&self) {
        self.sweeping.close();
        self.sweeping.wait().await;
    }

    /// Removes the reference of a build's image, unless another build needs it or may come to.
    pub async fn sweep(&self, build: BuildId, staged: &ImageRef, digest: Digest) {
        let outcome = match self.remove(build, staged, digest).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::info!(
                    build.id = %build,
                    repository = staged.repository,
                    error = chain(&error),
                    "an image stays in staging until it is swept"
                );
                "left"
            }
        };
        metrics::staging(outcome).increment(1);
    }

    async fn remove(
        &self,
        build: BuildId,
        staged: &ImageRef,
        digest: Digest,
    ) -> Result<&'static str, Trouble> {
        let repository = staged.repository.as_str();
        if !repository.starts_with(STAGING) || repository == DEPENDENCIES {
            return Ok("kept");
        }
        if staging::is_wanted(&self.pool, build).await? {
            return Ok("kept");
        }
        let reference = digest.to_string();
        let manifest = match self.staging.manifest(repository, &reference).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_not_found() => return Ok("absent"),
            Err(error) => return Err(error.into()),
        };
        self.staging.delete_manifest(repository, &digest).await?;
        // A build may have begun meanwhile and have found its image there. Its blobs still are. Not to know is no
        // reason to leave it without.
        let is_wanted = staging::is_wanted(&self.pool, build).await;
        if matches!(is_wanted, Ok(false)) {
            return Ok("removed");
        }
        let put = || self.put_back(staged, &manifest);
        if let Err(error) = put.retry(ExponentialBuilder::default().with_jitter()).await {
            tracing::error!(
                build.id = %build,
                repository,
                %digest,
                error = chain(&error),
                "an image that another build may need went from staging and can't be put back; build again what fails for want of it"
            );
            return Err(error.into());
        }
        is_wanted?;
        Ok("kept")
    }

    /// Under its tag: what has none is in no listing, so that no sweep would ever find it. A tag that leads to another
    /// image by now is that one's.
    async fn put_back(
        &self,
        staged: &ImageRef,
        manifest: &Manifest,
    ) -> Result<(), mecapy_registry::Error> {
        let repository = staged.repository.as_str();
        let digest = manifest.digest.to_string();
        let reference = match &staged.tag {
            Some(tag) if self.staging.resolve(repository, tag).await?.is_none() => tag,
            _ => &digest,
        };
        self.staging.put_manifest(repository, reference, manifest).await
    }
}
