//! Images in the staging repositories that nobody needs: scanned and published long ago, or never.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use mecapy_registry::{Deleted, Deletion, Digest, Holds, StoredManifest};
use mecapy_store::in_use::{self, DependencyUse};

use super::options::days;
use super::{Error, Report, Sweeps};

const STAGING: &str = "mecapy/staging/";
const DEPENDENCIES: &str = "mecapy/staging/deps";
/// Of one sweep: what is left, the next one has.
const MAX_DELETIONS: u64 = 1000;
/// Of a repository, whatever the time: its listing was what took long.
const LEAST: usize = 50;

/// What the images of a repository are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Shared by all functions with one lock, and found by builds to come.
    Dependencies,
    Function(i64),
    /// Base images.
    Other,
}

/// On from the repository where the last sweep stopped, and round.
pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let bounds = Bounds { end: sweeps.options.housekeeping_end(), now };
    let mut repositories = sweeps.staging.repositories().await?;
    repositories.retain(|repository| kind(repository).is_some());
    repositories.sort();
    let stopped_at = sweeps.progress(|progress| {
        let is_there = |repository: &String| repositories.binary_search(repository).is_ok();
        progress.manifests.retain(|repository, _| is_there(repository));
        progress.staging.take()
    });
    let first = stopped_at.map_or(0, |at| repositories.partition_point(|name| *name <= at));
    repositories.rotate_left(first);
    for repository in repositories {
        if let Err(error) = sweep_repository(sweeps, &repository, &bounds, report).await {
            tracing::warn!(
                registry.repository = repository,
                error = mecapy_service::chain(&error),
                "a staging repository could not be swept"
            );
        }
        if bounds.are_reached(report) {
            sweeps.progress(|progress| progress.staging = Some(repository));
            break;
        }
    }
    Ok(())
}

struct Bounds {
    end: Instant,
    now: DateTime<Utc>,
}

impl Bounds {
    fn has_deleted_enough(report: &Report) -> bool {
        report.of("staging_images") + report.of("dependency_images") >= MAX_DELETIONS
    }

    fn are_reached(&self, report: &Report) -> bool {
        Self::has_deleted_enough(report) || Instant::now() >= self.end
    }
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
    bounds: &Bounds,
    report: &mut Report,
) -> Result<(), Error> {
    let Some(kind) = kind(repository) else { return Ok(()) };
    if is_in_flight(sweeps, kind).await? {
        return Ok(());
    }
    let known = sweeps.progress(|progress| progress.manifests.remove(repository));
    let known = |digest: &Digest| known.as_ref().and_then(|known| known.get(digest)).cloned();
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
    let stays = staying(&manifests, |found| {
        let digest = found.digest.to_string();
        may_go(recorded.get(&digest), first_seen.get(&digest), bounds.now, keep_for)
    });
    // An index goes before what it holds.
    manifests.sort_by_key(|found| matches!(found.holds, Holds::Image { .. }));
    let leads: HashMap<String, Digest> = manifests
        .iter()
        .flat_map(|found| found.tags.iter().map(|tag| (tag.clone(), found.digest)))
        .collect();
    let mut left = HashMap::with_capacity(manifests.len());
    let mut tried = 0;
    for found in manifests {
        let may_go = !stays.contains(&found.digest)
            && !Bounds::has_deleted_enough(report)
            && (tried < LEAST || Instant::now() < bounds.end);
        if may_go {
            tried += 1;
            if delete(sweeps, repository, kind, &found, &leads).await? {
                let what = match kind {
                    Kind::Dependencies => "dependency_images",
                    Kind::Function(_) | Kind::Other => "staging_images",
                };
                report.count(what, 1);
                continue;
            }
        }
        left.insert(found.digest, found);
    }
    sweeps.progress(|progress| progress.manifests.insert(repository.to_owned(), left));
    Ok(())
}

/// What may not go, what that holds, and what refers to it, at any depth.
fn staying(
    manifests: &[StoredManifest],
    may_go: impl Fn(&StoredManifest) -> bool,
) -> HashSet<Digest> {
    let kept = manifests.iter().filter(|found| !may_go(found));
    let mut stays: HashSet<Digest> = kept.map(|found| found.digest).collect();
    loop {
        let before = stays.len();
        for found in manifests {
            if found.subject.is_some_and(|subject| stays.contains(&subject)) {
                stays.insert(found.digest);
            }
            if let Holds::Index { children } = &found.holds
                && stays.contains(&found.digest)
            {
                stays.extend(children);
            }
        }
        if stays.len() == before {
            return stays;
        }
    }
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
    leads: &HashMap<String, Digest>,
) -> Result<bool, Error> {
    if is_in_flight(sweeps, kind).await? {
        return Ok(false);
    }
    let deletion = Deletion::Manifest { digest: found.digest, tags: found.tags.clone() };
    // Listed in this sweep: only tags that came since are asked where they lead, and those that led to it.
    let elsewhere = |tag: &str| leads.get(tag).is_some_and(|lead| *lead != found.digest);
    match sweeps.staging.delete_beside(repository, &deletion, &elsewhere).await? {
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
    fn what_stays_keeps_what_it_holds_and_what_refers_to_it() {
        let manifest = |number: u8, children: &[u8], subject: Option<u8>| StoredManifest {
            digest: Digest::of(&[number]),
            media_type: String::new(),
            size: 1,
            tags: Vec::new(),
            pushed_at: None,
            holds: Holds::Index { children: children.iter().map(|n| Digest::of(&[*n])).collect() },
            subject: subject.map(|subject| Digest::of(&[subject])),
        };
        // 1 holds 2, which holds 3; 4 refers to 3, and 5 to 4. 6 refers to 7.
        let all = [
            manifest(5, &[], Some(4)),
            manifest(4, &[], Some(3)),
            manifest(3, &[], None),
            manifest(2, &[3], None),
            manifest(1, &[2], None),
            manifest(6, &[], Some(7)),
            manifest(7, &[], None),
        ];
        let kept = |keeps: u8| {
            let stays = staying(&all, |found| found.digest != Digest::of(&[keeps]));
            (1..=7).filter(|n| stays.contains(&Digest::of(&[*n]))).collect::<Vec<u8>>()
        };
        assert_eq!(kept(1), [1, 2, 3, 4, 5]);
        assert_eq!(kept(7), [6, 7]);
        assert_eq!(kept(6), [6]);
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
