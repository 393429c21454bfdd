//! Objects whose build or task is long past.
//!
//! A sweep reads some pages of each prefix and remembers where it stopped: all of the bucket is looked at in turn.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_objects::{Key, Listed, PAGE};
use mecapy_proto::{BuildId, TaskId};
use mecapy_store::in_use;

use super::options::days;
use super::{Error, Report, Sweeps};

/// Of each prefix in one sweep.
const MAX_PAGES: usize = 10;
const DELETES_AT_ONCE: usize = 16;

/// Whose objects lie under a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Builds,
    Tasks,
}

/// Producers' own inputs (`inputs/`) are theirs to delete; reports of mirror and cleanup are few and stay.
const PREFIXES: [(&str, Of); 6] = [
    ("logs/", Of::Builds),
    ("locks/", Of::Builds),
    ("dockerfiles/", Of::Builds),
    ("scans/", Of::Builds),
    ("sources/", Of::Builds),
    ("tasks/", Of::Tasks),
];

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    for (prefix, of) in PREFIXES {
        let keep_for = match of {
            Of::Builds => days(sweeps.options.build_object_days),
            Of::Tasks => days(sweeps.options.task_object_days),
        };
        for _ in 0..MAX_PAGES {
            let after = sweeps.progress(|progress| progress.cursors.get(prefix).cloned());
            let page = sweeps.objects.list(prefix, after.as_ref()).await?;
            let is_last = page.len() < PAGE;
            let end = page.last().map(|listed| listed.key.clone());
            let gone = delete(sweeps, prefix, of, page, now, keep_for).await?;
            report.count("objects", gone);
            sweeps.progress(|progress| match end {
                Some(end) if !is_last => progress.cursors.insert(prefix, end),
                _ => progress.cursors.remove(prefix),
            });
            if is_last {
                break;
            }
        }
    }
    Ok(())
}

async fn delete(
    sweeps: &Sweeps,
    prefix: &str,
    of: Of,
    page: Vec<Listed>,
    now: DateTime<Utc>,
    keep_for: TimeDelta,
) -> Result<u64, Error> {
    let old: Vec<(uuid::Uuid, Key)> = page
        .into_iter()
        .filter(|listed| now.signed_duration_since(listed.modified_at) > keep_for)
        .filter_map(|listed| Some((owner(prefix, of, &listed.key)?, listed.key)))
        .collect();
    let ids: Vec<uuid::Uuid> = old.iter().map(|(id, _)| *id).collect();
    let in_use: HashSet<uuid::Uuid> = match of {
        Of::Builds => in_use::builds_in_use(&sweeps.pool, &ids).await?,
        Of::Tasks => in_use::tasks_in_use(&sweeps.pool, &ids).await?,
    }
    .into_iter()
    .collect();
    let deletes: Vec<_> = old
        .into_iter()
        .filter(|(id, _)| !in_use.contains(id))
        .map(|(_, key)| async move { sweeps.objects.delete(&key).await })
        .collect();
    let gone = deletes.len() as u64;
    stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
    Ok(gone)
}

/// The build or task that an object belongs to. None: it is nothing that we wrote, and stays.
fn owner(prefix: &str, of: Of, key: &Key) -> Option<uuid::Uuid> {
    let name = key.as_str().strip_prefix(prefix)?;
    let name = name.split('/').next()?;
    let name = name.strip_prefix("build-").unwrap_or(name);
    let id = name.split('.').next()?;
    match of {
        Of::Builds => id.parse::<BuildId>().ok().map(|id| id.uuid()),
        Of::Tasks => id.parse::<TaskId>().ok().map(|id| id.uuid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_object_of_ours_has_an_owner_and_others_have_none() {
        let build = BuildId::new();
        for (prefix, key) in [
            ("logs/", Key::build_log(build)),
            ("locks/", Key::lock(build)),
            ("dockerfiles/", Key::dockerfile(build)),
            ("scans/", Key::sbom(build)),
            ("sources/", Key::source(build)),
        ] {
            assert_eq!(owner(prefix, Of::Builds, &key), Some(build.uuid()), "{key}");
        }
        let task = TaskId::new();
        for key in [Key::task_inputs(task), Key::task_result(task, 2)] {
            assert_eq!(owner("tasks/", Of::Tasks, &key), Some(task.uuid()));
        }
        assert_eq!(owner("logs/", Of::Builds, &Key::given("logs/mine.log")), None);
    }
}
