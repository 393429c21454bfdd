//! Advisories, found by package.
//!
//! ```text
//! header: magic 8, form u32, length of info u32, of index u32, checksum of these two u32, length of blocks u64
//! info as JSON, index, blocks
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use chrono::{DateTime, Utc};

use crate::advisory::Advisory;
use crate::builder::Builder;
use crate::codec::{Damaged, Reader, Writer, checksum};
use crate::index::{self, Index};
use crate::range::Affected;
use crate::record::Record;
use crate::severity::Rating;
use crate::version::Installed;
use crate::{Error, Info, ecosystem};

/// Written by hand: a few well-known advisories, so that there is something to find before a database is imported.
const STARTER: &str = include_str!("../data/starter.json");
const STARTER_SOURCE: &str = "starter set";

const MAGIC: [u8; 8] = *b"MCPYADV\n";
/// Raised when the same bytes would mean something else.
const FORM: u32 = 1;
const HEADER: usize = 32;

/// What an advisory says of a package.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub rating: Rating,
    pub versions: Affected,
    pub advisory: Advisory,
}

/// An advisory that holds for an installed version.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub advisory: Advisory,
    /// For this package: an advisory about several can rate each.
    pub rating: Rating,
    pub fixed: Option<String>,
}

#[derive(Debug)]
enum Bytes {
    Memory(Vec<u8>),
    File(File),
}

impl Bytes {
    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(length);
                let part = bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(part.to_vec())
            }
            Self::File(file) => {
                let mut part = vec![0; length];
                file.read_exact_at(&mut part, offset)?;
                Ok(part)
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        match self {
            Self::Memory(bytes) => Ok(bytes.len() as u64),
            Self::File(file) => Ok(file.metadata()?.len()),
        }
    }
}

/// A database that is open. What it holds of a package is read when it is asked for.
#[derive(Debug)]
pub struct Database {
    bytes: Bytes,
    index: Index,
    blocks_at: u64,
    info: Info,
    /// For errors.
    path: String,
}

impl Database {
    /// The set that comes with the program.
    pub fn starter() -> Result<Self, Error> {
        Self::partial(STARTER)
    }

    /// A partial database, of a JSON list of OSV records.
    pub fn partial(json: &str) -> Result<Self, Error> {
        Self::of_json(json, Utc::now(), true)
    }

    /// A database of a JSON list of OSV records, in memory, as if imported at that moment.
    pub fn of_records(json: &str, now: DateTime<Utc>) -> Result<Self, Error> {
        Self::of_json(json, now, false)
    }

    fn of_json(json: &str, now: DateTime<Utc>, partial: bool) -> Result<Self, Error> {
        let records: Vec<Record> = serde_json::from_str(json)
            .map_err(|source| Error::Record { name: STARTER_SOURCE.to_owned(), source })?;
        let mut builder = Builder::default();
        records.into_iter().for_each(|record| builder.add(record));
        let bytes = builder.finish(vec![STARTER_SOURCE.to_owned()], now, partial, None)?;
        Self::of_bytes(bytes)
    }

    /// A database in memory.
    pub fn of_bytes(bytes: Vec<u8>) -> Result<Self, Error> {
        Self::over(Bytes::Memory(bytes), Path::new("in memory"))
    }

    /// Opens the file that an import left. It goes on being read when the file is replaced.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::DatabaseMissing { path: path.to_owned() },
            _ => Error::DatabaseFile { path: path.to_owned(), source },
        })?;
        Self::over(Bytes::File(file), path)
    }

    fn over(bytes: Bytes, path: &Path) -> Result<Self, Error> {
        let unreadable = |source| Error::DatabaseFile { path: path.to_owned(), source };
        let not_one = || Error::NotADatabase { path: path.to_owned() };
        let shown = path.display().to_string();
        let corrupt = |problem| Error::DatabaseCorrupt { path: shown.clone(), problem };
        let length = bytes.len().map_err(unreadable)?;
        if length < HEADER as u64 {
            return Err(not_one());
        }
        let header = bytes.read(0, HEADER).map_err(unreadable)?;
        let parts = Parts::read(&header).map_err(|_| not_one())?;
        let blocks_at = HEADER as u64 + u64::from(parts.info) + u64::from(parts.index);
        if blocks_at.checked_add(parts.blocks) != Some(length) {
            return Err(corrupt("it is not as long as it should be"));
        }
        let both =
            bytes.read(HEADER as u64, (parts.info + parts.index) as usize).map_err(unreadable)?;
        if checksum(&both) != parts.checksum {
            return Err(corrupt("its index is not what was written"));
        }
        let (info, table) = both.split_at(parts.info as usize);
        let info = serde_json::from_slice(info).map_err(|_| not_one())?;
        let index =
            Index::new(table.to_vec()).map_err(|Damaged| corrupt("its index is too short"))?;
        Ok(Self { bytes, index, blocks_at, info, path: shown })
    }

    pub fn info(&self) -> &Info {
        &self.info
    }

    /// What is known of a package, by its name in the ecosystem, whatever its version.
    pub fn entries(&self, ecosystem: &str, name: &str) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        self.each(ecosystem, name, |mut reader, scheme| {
            entries.push(Entry::read(scheme, &mut reader)?);
            Ok(())
        })?;
        Ok(entries)
    }

    /// The advisories for a package at a version. The version must be of the ecosystem's scheme.
    pub fn hits(
        &self,
        ecosystem: &str,
        name: &str,
        installed: &Installed,
    ) -> Result<Vec<Hit>, Error> {
        let mut hits = Vec::new();
        self.each(ecosystem, name, |mut reader, scheme| {
            let (rating, versions) = Entry::read_versions(scheme, &mut reader)?;
            if versions.contains(installed) {
                let advisory = read_advisory(&mut reader)?;
                hits.push(Hit { advisory, rating, fixed: versions.fixed_after(installed) });
            }
            Ok(())
        })?;
        Ok(hits)
    }

    /// Every package that something is known of: its ecosystem and its name.
    pub fn packages(&self) -> Result<Vec<(String, String)>, Error> {
        (0..self.index.len())
            .map(|at| {
                let (_, key) = self.index.row(at)?;
                let text = std::str::from_utf8(key).map_err(|_| Damaged)?;
                let (ecosystem, name) = text.split_once('\0').ok_or(Damaged)?;
                Ok((ecosystem.to_owned(), name.to_owned()))
            })
            .collect::<Result<_, Damaged>>()
            .map_err(|Damaged| self.corrupt("its index can't be read"))
    }

    fn each(
        &self,
        ecosystem: &str,
        name: &str,
        mut entry: impl FnMut(Reader<'_>, crate::Scheme) -> Result<(), Damaged>,
    ) -> Result<(), Error> {
        let Some(scheme) = ecosystem::scheme(ecosystem) else { return Ok(()) };
        let damaged = |Damaged| self.corrupt("a package's advisories can't be read");
        let found = self.index.find(&index::key(ecosystem, name)).map_err(damaged)?;
        let Some(place) = found else { return Ok(()) };
        let block = self
            .bytes
            .read(self.blocks_at + place.offset, place.length as usize)
            .map_err(|source| Error::DatabaseFile { path: self.path.clone().into(), source })?;
        if checksum(&block) != place.checksum {
            return Err(self.corrupt("a package's advisories are not what was written"));
        }
        let mut reader = Reader(&block);
        while !reader.is_empty() {
            reader.bytes().and_then(|bytes| entry(Reader(bytes), scheme)).map_err(damaged)?;
        }
        Ok(())
    }

    fn corrupt(&self, problem: &'static str) -> Error {
        Error::DatabaseCorrupt { path: self.path.clone(), problem }
    }
}

/// The fields of a header after its magic and form.
struct Parts {
    info: u32,
    index: u32,
    checksum: u32,
    blocks: u64,
}

impl Parts {
    fn read(header: &[u8]) -> Result<Self, Damaged> {
        let rest = header.strip_prefix(&MAGIC).ok_or(Damaged)?;
        let mut reader = Reader(rest);
        if reader.fixed_u32()? != FORM {
            return Err(Damaged);
        }
        Ok(Self {
            info: reader.fixed_u32()?,
            index: reader.fixed_u32()?,
            checksum: reader.fixed_u32()?,
            blocks: reader.fixed()?,
        })
    }
}

pub(crate) fn header(info: &[u8], index: &[u8], blocks: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    let both = [info, index].concat();
    for field in [FORM, info.len() as u32, index.len() as u32, checksum(&both)] {
        header.extend_from_slice(&field.to_le_bytes());
    }
    header.extend_from_slice(&blocks.to_le_bytes());
    header
}

impl Entry {
    pub(crate) fn write(&self, to: &mut Writer) {
        self.rating.write(to);
        self.versions.write(to);
        let Advisory { id, aliases, notice, summary, published } = &self.advisory;
        to.text(id);
        to.number(aliases.len() as u64);
        aliases.iter().for_each(|alias| to.text(alias));
        to.optional(notice.as_deref());
        to.text(summary);
        to.byte(published.is_some().into());
        if let Some(published) = published {
            to.fixed(published.timestamp().cast_unsigned());
        }
    }

    fn read(scheme: crate::Scheme, from: &mut Reader<'_>) -> Result<Self, Damaged> {
        let (rating, versions) = Self::read_versions(scheme, from)?;
        Ok(Self { rating, versions, advisory: read_advisory(from)? })
    }

    fn read_versions(
        scheme: crate::Scheme,
        from: &mut Reader<'_>,
    ) -> Result<(Rating, Affected), Damaged> {
        Ok((Rating::read(from)?, Affected::read(scheme, from)?))
    }
}

fn read_advisory(from: &mut Reader<'_>) -> Result<Advisory, Damaged> {
    Ok(Advisory {
        id: from.text()?.into(),
        aliases: (0..from.number()?)
            .map(|_| Ok(from.text()?.into()))
            .collect::<Result<_, Damaged>>()?,
        notice: from.optional()?.map(Into::into),
        summary: from.text()?.into(),
        published: match from.byte()? {
            0 => None,
            _ => Some(DateTime::from_timestamp(from.fixed()?.cast_signed(), 0).ok_or(Damaged)?),
        },
    })
}

#[cfg(test)]
mod tests;
