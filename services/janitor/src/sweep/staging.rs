//! Images in the staging repositories that nobody needs: scanned and published long ago, or never.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_registry::{Deleted, Deletion, Digest, Holds, StoredManifest};
use mecapy_store::in_use::{self, DependencyUse};

use super::options::days;
use super::{Error, Report, Sweeps};

const STAGING: &str = "mecapy/staging/";
const DEPENDENCIES: &str = "mecapy/staging/deps";
/// Of one sweep: what is left, the next one has.
const MAX_DELETIONS: u64 = 1000;

/// What the images of a repository are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Shared by all functions with one lock, and found by builds to come.
    Dependencies,
    Function(i64),
    /// Base images.
    Other,
}

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let known = sweeps.progress(|progress| std::mem::take(&mut progress.manifests));
    let mut seen = HashMap::new();
    for repository in sweeps.staging.repositories().await? {
        if report.of("staging_images") + report.of("dependency_images") >= MAX_DELETIONS {
            break;
        }
        let Some(kind) = kind(&repository) else { continue };
        let swept =
            sweep_repository(sweeps, &repository, kind, &known, &mut seen, now, report).await;
        if let Err(error) = swept {
            tracing::warn!(
                registry.repository = repository,
                error = mecapy_service::chain(&error),
                "a staging repository could not be swept"
            );
        }
    }
    sweeps.progress(|progress| progress.manifests = seen);
    Ok(())
}

fn kind(repository: &str) -> Option<Kind> {
    let name = repository.strip_prefix(STAGING)?;
    if repository == DEPENDENCIES {
        return Some(Kind::Dependencies);
    }
    let function = name.strip_prefix("user-").and_then(|name| name.rsplit_once("-func-"));
    match function {
        Some((_, function)) => function.parse().ok().map(Kind::Function),
        None => Some(Kind::Other),
    }
}

async fn sweep_repository(
    sweeps: &Sweeps,
    repository: &str,
    kind: Kind,
    known: &HashMap<Digest, StoredManifest>,
    seen: &mut HashMap<Digest, StoredManifest>,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    if is_in_flight(sweeps, kind).await? {
        return Ok(());
    }
    let known = |digest: &Digest| known.get(digest).cloned();
    let mut manifests = sweeps.staging.manifests(repository, &known).await?;
    let digests: Vec<String> = manifests.iter().map(|found| found.digest.to_string()).collect();
    let first_seen = in_use::seen(&sweeps.pool, repository, &digests).await?;
    let keep_for = match kind {
        Kind::Dependencies => days(sweeps.options.dependency_image_days),
        Kind::Function(_) | Kind::Other => sweeps.options.staging_age(),
    };
    let recorded: HashMap<String, DependencyUse> = match kind {
        Kind::Dependencies => in_use::dependencies(&sweeps.pool).await?,
        Kind::Function(_) | Kind::Other => {
            let last_used = in_use::last_used(&sweeps.pool, &digests).await?;
            let not_in_use =
                |(digest, last_used_at)| (digest, DependencyUse { last_used_at, in_use: false });
            last_used.into_iter().map(not_in_use).collect()
        }
    };
    // An index goes before what it holds.
    manifests.sort_by_key(|found| matches!(found.holds, Holds::Image { .. }));
    for found in manifests {
        let digest = found.digest.to_string();
        if may_go(recorded.get(&digest), first_seen.get(&digest), now, keep_for)
            && delete(sweeps, repository, kind, &found).await?
        {
            let what = match kind {
                Kind::Dependencies => "dependency_images",
                Kind::Function(_) | Kind::Other => "staging_images",
            };
            report.count(what, 1);
        } else {
            seen.insert(found.digest, found);
        }
    }
    Ok(())
}

/// A build that has not ended has its image here, or is about to: the record does not know which.
async fn is_in_flight(sweeps: &Sweeps, kind: Kind) -> Result<bool, Error> {
    Ok(match kind {
        Kind::Dependencies => false,
        Kind::Function(function) => in_use::in_flight(&sweeps.pool, Some(function)).await?,
        Kind::Other => in_use::in_flight(&sweeps.pool, None).await?,
    })
}

/// Whether an image has had its use. One that no build's record has counts from when it was first seen.
fn may_go(
    recorded: Option<&DependencyUse>,
    first_seen_at: Option<&DateTime<Utc>>,
    now: DateTime<Utc>,
    keep_for: TimeDelta,
) -> bool {
    let last_used_at = match recorded {
        Some(recorded) if recorded.in_use => return false,
        Some(recorded) => Some(recorded.last_used_at),
        None => first_seen_at.copied(),
    };
    last_used_at.is_some_and(|at| now.signed_duration_since(at) > keep_for)
}

/// Deletes it if it still is what it was, and no build has begun meanwhile. Whether it is gone.
async fn delete(
    sweeps: &Sweeps,
    repository: &str,
    kind: Kind,
    found: &StoredManifest,
) -> Result<bool, Error> {
    if is_in_flight(sweeps, kind).await? {
        return Ok(false);
    }
    let deletion = Deletion::Manifest { digest: found.digest, tags: found.tags.clone() };
    match sweeps.staging.delete(repository, &deletion).await? {
        Deleted::Done | Deleted::Absent => Ok(true),
        Deleted::Changed { reason } => {
            tracing::debug!(registry.repository = repository, digest = %found.digest, reason, "a staging image stays");
            Ok(false)
        }
        Deleted::Refused { reason } => {
            tracing::warn!(registry.repository = repository, digest = %found.digest, reason, "a staging image can't be deleted");
            Ok(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_staging_repositories_are_swept() {
        assert_eq!(kind("mecapy/staging/user-acme-func-7"), Some(Kind::Function(7)));
        assert_eq!(kind("mecapy/staging/user-a-func-b-func-12"), Some(Kind::Function(12)));
        assert_eq!(kind("mecapy/staging/deps"), Some(Kind::Dependencies));
        assert_eq!(kind("mecapy/staging/base/python"), Some(Kind::Other));
        assert_eq!(kind("mecapy/staging/user-acme-func-x"), None, "not ours to judge");
        assert_eq!(kind("mecapy/functions/user-acme-func-7"), None);
        assert_eq!(kind("mecapy/stagings"), None);
    }

    #[test]
    fn what_is_in_use_young_or_unknown_stays() {
        let now = Utc::now();
        let day = TimeDelta::days(1);
        let ago = |hours| now - TimeDelta::hours(hours);
        let used = |hours, in_use| DependencyUse { last_used_at: ago(hours), in_use };
        assert!(may_go(Some(&used(25, false)), None, now, day));
        assert!(!may_go(Some(&used(23, false)), Some(&ago(1000)), now, day));
        assert!(!may_go(Some(&used(1000, true)), None, now, day));
        assert!(may_go(None, Some(&ago(25)), now, day));
        assert!(!may_go(None, Some(&ago(1)), now, day));
        assert!(!may_go(None, None, now, day));
    }
}
