//! Imports exports, and puts the database in its place.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::builder::Builder;
use crate::{Database, Error, Info, import as files};

/// Fewer advisories than this share of what an ecosystem had are taken for an export that was cut off.
const LEAST_SHARE_PERCENT: usize = 90;

/// A database that is made and not yet in its place.
#[derive(Debug)]
pub struct Import {
    bytes: Vec<u8>,
    info: Info,
}

impl Import {
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The database itself, in memory.
    pub fn open(self) -> Result<Database, Error> {
        Database::of_bytes(self.bytes)
    }
}

/// Reads exports: zips, records, or folders of these. `sources` is what the database says that it was made from.
/// Where a record has no severity and the starter set knows the flaw, the starter set's is taken.
pub fn import(
    paths: &[PathBuf],
    sources: Vec<String>,
    now: DateTime<Utc>,
) -> Result<Import, Error> {
    let mut builder = Builder::default();
    for path in paths {
        files::read(path, &mut |record| builder.add(record))?;
    }
    let bytes = builder.finish(sources, now, false, Some(&Database::starter()?))?;
    let info = Database::of_bytes(bytes.clone())?.info().clone();
    Ok(Import { bytes, info })
}

/// What was there before, if anything that can be read was.
#[derive(Debug)]
pub struct Replaced {
    pub before: Option<Info>,
}

/// Puts the database in the place of the file, by rename: who reads sees the old one or the new one, whole.
///
/// Unless forced, one that knows much less than the one before, or is older, is refused.
pub fn replace(path: &Path, import: &Import, force: bool) -> Result<Replaced, Error> {
    let before = match Database::open(path) {
        Ok(database) => Some(database.info().clone()),
        // What can't be read is no reason to keep it.
        Err(_) => None,
    };
    if let Some(before) = before.as_ref().filter(|_| !force) {
        compare(before, &import.info).map_err(|problem| Error::Suspicious { problem })?;
    }
    let failed = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".advisories-")
        .permissions(world_readable())
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(&import.bytes).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    Ok(Replaced { before })
}

/// Scanners run as other users than who imports.
fn world_readable() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::Permissions::from_mode(0o644)
}

fn compare(before: &Info, after: &Info) -> Result<(), String> {
    if after.newest < before.newest {
        return Err("its newest advisory is older than that of the one in place".to_owned());
    }
    for (name, had) in &before.ecosystems {
        let has = after.ecosystems.get(name).map_or(0, |ecosystem| ecosystem.advisories);
        if has * 100 < had.advisories * LEAST_SHARE_PERCENT {
            return Err(format!("{name} had {} advisories and has {has} now", had.advisories));
        }
    }
    Ok(())
}
