//! Takes stock: what the registry holds, one repository after the other, and when each manifest was first seen. A
//! manifest that was seen before is not read again.

use std::collections::{HashMap, HashSet};

use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_registry::{Descriptor, Digest, Holds, Inventory, StoredManifest};
use mecapy_store::{PgPool, registry_images};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::plan::{Seen, Snapshot};

/// What a manifest holds, as a row keeps it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kept {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index { children: Vec<Digest> },
}

impl From<Kept> for Holds {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Image { config, layers } => Self::Image { config, layers },
            Kept::Index { children } => Self::Index { children },
        }
    }
}

impl From<Holds> for Kept {
    fn from(holds: Holds) -> Self {
        match holds {
            Holds::Image { config, layers } => Self::Image { config, layers },
            Holds::Index { children } => Self::Index { children },
        }
    }
}

/// Reads the registry, and keeps what was seen. An inventory that isn't whole is an error, and nothing comes of it.
pub async fn take(
    inventory: &dyn Inventory,
    pool: &PgPool,
    concurrency: usize,
) -> Result<Snapshot, Error> {
    let repositories = inventory.repositories().await?;
    registry_images::keep_only(pool, &repositories).await?;
    let mut snapshot = Snapshot::default();
    let mut read = stream::iter(repositories)
        .map(|repository| read(inventory, pool, repository))
        .buffered(concurrency);
    while let Some((repository, images)) = read.try_next().await? {
        snapshot.add(&repository, &images);
    }
    Ok(snapshot)
}

/// What the last inventory saw, for a run that is gone on with.
pub async fn recall(pool: &PgPool) -> Result<Snapshot, Error> {
    let mut snapshot = Snapshot::default();
    for repository in registry_images::repositories(pool).await? {
        let rows = registry_images::of_repository(pool, &repository).await?;
        let images: Vec<Seen> = rows.into_iter().filter_map(seen).collect();
        snapshot.add(&repository, &images);
    }
    Ok(snapshot)
}

async fn read(
    inventory: &dyn Inventory,
    pool: &PgPool,
    repository: String,
) -> Result<(String, Vec<Seen>), Error> {
    let rows = registry_images::of_repository(pool, &repository).await?;
    let before: HashMap<Digest, Seen> =
        rows.into_iter().filter_map(seen).map(|seen| (seen.manifest.digest, seen)).collect();
    let known = |digest: &Digest| before.get(digest).map(|seen| seen.manifest.clone());
    let mut found = inventory.manifests(&repository, &known).await?;
    let listed: HashSet<Digest> = found.iter().map(|manifest| manifest.digest).collect();
    let mut gone = Vec::new();
    // Where no tag leads to a manifest any more, some registries don't list it; by its digest it is there.
    for (digest, seen) in before.iter().filter(|(digest, _)| !listed.contains(*digest)) {
        match inventory.raw(&repository, digest).await {
            Ok(_) => found.push(StoredManifest { tags: Vec::new(), ..seen.manifest.clone() }),
            Err(error) if error.is_not_found() => gone.push(digest.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let now = Utc::now();
    let images: Vec<Seen> = found
        .into_iter()
        .map(|manifest| {
            let first_seen = before.get(&manifest.digest).map_or(now, |seen| seen.first_seen);
            Seen { manifest, first_seen }
        })
        .collect();
    let new: Vec<registry_images::Seen> = images
        .iter()
        .filter(|seen| !before.contains_key(&seen.manifest.digest))
        .map(row)
        .collect::<Result<_, _>>()?;
    registry_images::update(pool, &repository, &new, &gone).await?;
    Ok((repository, images))
}

fn row(seen: &Seen) -> Result<registry_images::Seen, Error> {
    let manifest = &seen.manifest;
    Ok(registry_images::Seen {
        digest: manifest.digest.to_string(),
        media_type: manifest.media_type.clone(),
        size: i64::try_from(manifest.size).unwrap_or(i64::MAX),
        holds: serde_json::to_value(Kept::from(manifest.holds.clone()))?,
        subject: manifest.subject.map(|subject| subject.to_string()),
        pushed_at: manifest.pushed_at,
        first_seen_at: seen.first_seen,
        tags: manifest.tags.clone(),
    })
}

/// None: the row is of another version of this program; then the manifest is read again.
fn seen(row: registry_images::Seen) -> Option<Seen> {
    let manifest = StoredManifest {
        digest: row.digest.parse().ok()?,
        media_type: row.media_type,
        size: u64::try_from(row.size).ok()?,
        tags: row.tags,
        pushed_at: row.pushed_at,
        holds: serde_json::from_value::<Kept>(row.holds).ok()?.into(),
        subject: match row.subject {
            Some(subject) => Some(subject.parse().ok()?),
            None => None,
        },
    };
    Some(Seen { manifest, first_seen: row.first_seen_at })
}
