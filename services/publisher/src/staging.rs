//! The end of an image in staging, once it is published: its reference goes there.
//!
//! Its blobs stay where others have them: a repository's blobs are not its manifests', and the dependency image has a
//! repository of its own. What can't be removed now, the janitor's sweep of staging removes later.

use mecapy_proto::BuildId;
use mecapy_registry::{Digest, Registry};
use mecapy_service::chain;
use mecapy_store::{PgPool, staging};

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
}

impl Broom {
    /// Removes the reference of a build's image, unless another build needs it or may come to.
    pub async fn sweep(&self, build: BuildId, repository: String, digest: Digest) {
        let outcome = match self.remove(build, &repository, digest).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::info!(
                    build.id = %build,
                    repository,
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
        repository: &str,
        digest: Digest,
    ) -> Result<&'static str, Trouble> {
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
        // A build may have begun meanwhile and have found its image there. Its blobs still are.
        if staging::is_wanted(&self.pool, build).await? {
            self.staging.put_manifest(repository, &reference, &manifest).await?;
            return Ok("kept");
        }
        Ok("removed")
    }
}
