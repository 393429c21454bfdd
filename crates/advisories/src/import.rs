//! Reads OSV records from files: one at a time, with one buffer.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use crate::Error;
use crate::record::Record;

/// Longer than any real record by a hundred times.
const RECORD_LIMIT_BYTES: u64 = 8 << 20;
/// osv.dev's folders: one an ecosystem, with an `all.zip` in it.
const FOLDER_DEPTH: usize = 2;

/// Calls `each` with every record in a zip, a `.json` file, or the zips and `.json` files of a folder.
/// A record that can't be read ends it: a database with a hole in it passes what it should reject.
pub fn read(path: &Path, each: &mut dyn FnMut(Record)) -> Result<(), Error> {
    read_path(path, FOLDER_DEPTH, each)
}

fn read_path(path: &Path, depth: usize, each: &mut dyn FnMut(Record)) -> Result<(), Error> {
    let kind = fs::metadata(path).map_err(file_error(path))?;
    if kind.is_dir() {
        let mut children: Vec<PathBuf> = Vec::new();
        for child in fs::read_dir(path).map_err(file_error(path))? {
            children.push(child.map_err(file_error(path))?.path());
        }
        children.sort();
        for child in children {
            let wanted = child
                .extension()
                .is_some_and(|extension| extension == "zip" || extension == "json");
            if wanted || (depth > 0 && child.is_dir()) {
                read_path(&child, depth.saturating_sub(1), each)?;
            }
        }
        return Ok(());
    }
    let file = File::open(path).map_err(file_error(path))?;
    if path.extension().is_some_and(|extension| extension == "json") {
        let mut buffer = Vec::new();
        let record = parse(file, &path.display().to_string(), path, &mut buffer)?;
        each(record);
        return Ok(());
    }
    let broken = |source| Error::Archive { path: path.to_owned(), source };
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(broken)?;
    let mut buffer = Vec::new();
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(broken)?;
        let name = entry.name().map_err(broken)?.into_owned();
        if name.ends_with(".json") {
            each(parse(entry, &name, path, &mut buffer)?);
        }
    }
    Ok(())
}

fn parse(
    reader: impl Read,
    name: &str,
    path: &Path,
    buffer: &mut Vec<u8>,
) -> Result<Record, Error> {
    buffer.clear();
    reader.take(RECORD_LIMIT_BYTES + 1).read_to_end(buffer).map_err(file_error(path))?;
    if buffer.len() as u64 > RECORD_LIMIT_BYTES {
        return Err(Error::RecordTooLarge {
            name: name.to_owned(),
            limit_bytes: RECORD_LIMIT_BYTES,
        });
    }
    serde_json::from_slice(buffer).map_err(|source| Error::Record { name: name.to_owned(), source })
}

fn file_error(path: &Path) -> impl Fn(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::DatabaseFile { path: path.clone(), source }
}
