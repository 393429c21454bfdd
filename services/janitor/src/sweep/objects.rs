//! Objects whose build or task is long past.
//!
//! A sweep reads some pages of each prefix and remembers where it stopped: all of the bucket is looked at in turn.

use std::collections::HashSet;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_bus::topology;
use mecapy_bus::waiting::Reading;
use mecapy_objects::{Key, Listed, PAGE};
use mecapy_proto::v1::TaskDispatch;
use mecapy_proto::v1::task_dispatch::Inputs;
use mecapy_proto::{BuildId, TaskId};
use mecapy_store::in_use;

use super::options::days;
use super::{Error, Options, Report, Sweeps};

/// Of each prefix in one sweep.
const MAX_PAGES: usize = 10;
const DELETES_AT_ONCE: usize = 16;

/// Whose objects lie under a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Builds,
    Tasks,
    /// Inputs that producers put there themselves, under names of their own.
    Producers,
    /// Of runs of mirror and cleanup.
    Reports,
}

const PREFIXES: [(&str, Of); 9] = [
    ("logs/", Of::Builds),
    ("locks/", Of::Builds),
    ("dockerfiles/", Of::Builds),
    ("scans/", Of::Builds),
    ("sources/", Of::Builds),
    ("tasks/", Of::Tasks),
    ("inputs/", Of::Producers),
    ("mirror/", Of::Reports),
    ("cleanup/", Of::Reports),
];

impl Of {
    /// None: for ever.
    fn keep_for(self, options: &Options) -> Option<TimeDelta> {
        let limit = match self {
            Self::Builds => options.build_object_days,
            Self::Tasks => options.task_object_days,
            Self::Producers => options.producer_input_days,
            Self::Reports => options.report_days,
        };
        (limit > 0).then(|| days(limit))
    }
}

pub(super) async fn sweep(
    sweeps: &Sweeps,
    now: DateTime<Utc>,
    report: &mut Report,
) -> Result<(), Error> {
    let end = sweeps.options.housekeeping_end();
    for (prefix, of) in PREFIXES {
        let Some(keep_for) = of.keep_for(&sweeps.options) else { continue };
        for _ in 0..MAX_PAGES {
            let after = sweeps.progress(|progress| progress.cursors.get(prefix).cloned());
            let page = sweeps.objects.list(prefix, after.as_ref()).await?;
            let is_last = page.len() < PAGE;
            let last = page.last().map(|listed| listed.key.clone());
            let gone = delete(sweeps, prefix, of, page, now, keep_for).await?;
            report.count("objects", gone);
            sweeps.progress(|progress| match last {
                Some(last) if !is_last => progress.cursors.insert(prefix, last),
                _ => progress.cursors.remove(prefix),
            });
            if is_last || Instant::now() >= end {
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
    let old: Vec<Key> = page
        .into_iter()
        .filter(|listed| now.signed_duration_since(listed.modified_at) > keep_for)
        .map(|listed| listed.key)
        .collect();
    if old.is_empty() {
        return Ok(0);
    }
    let unused = match of {
        Of::Builds | Of::Tasks => of_none_in_use(sweeps, prefix, of, old).await?,
        Of::Producers => given_to_none(sweeps, old).await?,
        Of::Reports => old,
    };
    let deletes: Vec<_> =
        unused.into_iter().map(|key| async move { sweeps.objects.delete(&key).await }).collect();
    let gone = deletes.len() as u64;
    stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
    Ok(gone)
}

/// Those of builds or tasks that need them no more. What we did not write stays.
async fn of_none_in_use(
    sweeps: &Sweeps,
    prefix: &str,
    of: Of,
    keys: Vec<Key>,
) -> Result<Vec<Key>, Error> {
    let owned: Vec<(uuid::Uuid, Key)> =
        keys.into_iter().filter_map(|key| Some((owner(prefix, of, &key)?, key))).collect();
    let ids: Vec<uuid::Uuid> = owned.iter().map(|(id, _)| *id).collect();
    let in_use = match of {
        Of::Builds => in_use::builds_in_use(&sweeps.pool, &ids).await?,
        _ => in_use::tasks_in_use(&sweeps.pool, &ids).await?,
    };
    let in_use: HashSet<uuid::Uuid> = in_use.into_iter().collect();
    Ok(owned.into_iter().filter(|(id, _)| !in_use.contains(id)).map(|(_, key)| key).collect())
}

/// Those that no task was given that waits or runs. The queue before the rows: what a worker takes in between is found
/// there.
async fn given_to_none(sweeps: &Sweeps, keys: Vec<Key>) -> Result<Vec<Key>, Error> {
    let inputs = |event: TaskDispatch| match event.inputs {
        Some(Inputs::InputsS3Key(key)) => Some(key),
        _ => None,
    };
    let waiting = Reading::of(topology::WORKER).on(&sweeps.bus, inputs).await?;
    let mut given: HashSet<String> = waiting.into_iter().flatten().collect();
    let names: Vec<&str> = keys.iter().map(Key::as_str).collect();
    given.extend(in_use::inputs_in_use(&sweeps.pool, &names).await?);
    Ok(keys.into_iter().filter(|key| !given.contains(key.as_str())).collect())
}

/// The build or task that an object belongs to. None: it is nothing that we wrote, and stays.
fn owner(prefix: &str, of: Of, key: &Key) -> Option<uuid::Uuid> {
    let name = key.as_str().strip_prefix(prefix)?;
    let name = name.split('/').next()?;
    let name = name.strip_prefix("build-").unwrap_or(name);
    let id = name.split('.').next()?;
    match of {
        Of::Builds => id.parse::<BuildId>().ok().map(|id| id.uuid()),
        _ => id.parse::<TaskId>().ok().map(|id| id.uuid()),
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
