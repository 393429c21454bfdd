//! Reads a layer's stream into a [`LayerIndex`].

use std::io::{self, Read};

use super::archive::{Archive, Entry, Kind};
use super::decompress::decompress;
use super::{Facts, LayerIndex, Limits, apk, dpkg, os_release, python};
use crate::Error;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// Bookkeeping of union filesystems that engines pass over.
const BOOKKEEPING: &str = ".wh..wh.";
/// What a kept path or package costs besides its text.
const KEPT_OVERHEAD_BYTES: u64 = 64;

/// What a path is read for.
enum Interest {
    Python,
    DpkgStatus,
    DpkgList,
    DpkgSums,
    Apk,
    OsRelease,
}

impl Interest {
    fn of(path: &str) -> Option<Self> {
        if python::is_metadata(path) {
            return Some(Self::Python);
        }
        if matches!(path, "etc/os-release" | "usr/lib/os-release") {
            return Some(Self::OsRelease);
        }
        // Alpine 3.22 and later have it below usr.
        if matches!(path, "lib/apk/db/installed" | "usr/lib/apk/db/installed") {
            return Some(Self::Apk);
        }
        let dpkg = path.strip_prefix("var/lib/dpkg/")?;
        if dpkg == "status" {
            return Some(Self::DpkgStatus);
        }
        if let Some(name) = dpkg.strip_prefix("status.d/") {
            return Some(if name.ends_with(".md5sums") {
                Self::DpkgSums
            } else {
                Self::DpkgStatus
            });
        }
        dpkg.strip_prefix("info/").filter(|name| name.ends_with(".list")).map(|_| Self::DpkgList)
    }
}

/// Reads the layer to its last byte, so that whoever checks its digest on the way has seen all of it.
/// Blocks: call it where that is allowed.
pub fn index(source: &mut dyn Read, limits: &Limits) -> Result<LayerIndex, Error> {
    let mut builder = Builder { index: LayerIndex::default(), kept_bytes: 0, limits };
    {
        let mut archive = Archive::new(decompress(&mut *source)?, limits);
        while let Some(entry) = archive.next()? {
            builder.add(entry, &mut archive)?;
        }
        tracing::debug!(
            layer.entries = archive.entries(),
            layer.bytes = archive.bytes(),
            "layer read"
        );
    }
    // What comes after the archive's end is part of the blob all the same.
    let rest = io::copy(&mut source.take(limits.layer_bytes), &mut io::sink())?;
    if rest == limits.layer_bytes {
        return Err(Error::TooLarge { limit_bytes: limits.layer_bytes });
    }
    Ok(builder.index)
}

struct Builder<'a> {
    index: LayerIndex,
    kept_bytes: u64,
    limits: &'a Limits,
}

impl Builder<'_> {
    fn add(
        &mut self,
        entry: Entry,
        archive: &mut Archive<'_, impl io::BufRead>,
    ) -> Result<(), Error> {
        let (parent, name) = entry.path.rsplit_once('/').unwrap_or(("", &entry.path));
        if name == OPAQUE {
            let parent = parent.to_owned();
            self.keep(&parent)?;
            self.index.opaque.insert(parent);
            return Ok(());
        }
        if name.starts_with(BOOKKEEPING) {
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let hidden = match (parent, hidden) {
                // The directory itself, or one of another name: nothing that an engine would take away.
                (_, "" | "." | "..") => return Err(Error::UnsafePath { path: entry.path }),
                ("", hidden) => hidden.to_owned(),
                (parent, hidden) => format!("{parent}/{hidden}"),
            };
            self.keep(&hidden)?;
            self.index.whiteouts.insert(hidden);
            return Ok(());
        }
        if entry.kind != Kind::Directory {
            // It takes the place of what the same layer had there before.
            self.forget(&entry.path);
        } else if self.index.files.contains_key(&entry.path)
            || self.index.links.contains(&entry.path)
        {
            self.forget(&entry.path);
        }
        match entry.kind {
            Kind::Directory => Ok(()),
            Kind::File => self.add_file(entry, archive),
            Kind::HardLink => self.add_hard_link(entry),
            Kind::Symlink => {
                self.add_unreadable(&entry.path, "a symlink")?;
                self.keep(&entry.path)?;
                self.index.links.insert(entry.path);
                Ok(())
            }
            Kind::Other => self.add_unreadable(&entry.path, "no regular file"),
        }
    }

    fn add_file(
        &mut self,
        entry: Entry,
        archive: &mut Archive<'_, impl io::BufRead>,
    ) -> Result<(), Error> {
        let path = &entry.path;
        let Some(interest) = Interest::of(path) else { return Ok(()) };
        let mut contents = match interest {
            Interest::Python => archive.read_start(python::METADATA_BYTES)?,
            _ => archive.read(path)?,
        };
        // No name has one, and PostgreSQL's JSON can't hold it.
        contents.iter_mut().filter(|byte| **byte == 0).for_each(|byte| *byte = b' ');
        let facts = match interest {
            Interest::Python => Some(python::facts(path, &contents)),
            Interest::DpkgStatus => Some(Facts::Dpkg(dpkg::status(&contents))),
            Interest::Apk => Some(Facts::Apk(apk::installed(&contents))),
            Interest::DpkgList => dpkg::file_list(path, &contents),
            Interest::DpkgSums => dpkg::sums(path, &contents),
            Interest::OsRelease => Some(Facts::OsRelease(os_release::parse(&contents))),
        };
        if let Some(facts) = facts {
            self.keep_facts(entry.path, facts)?;
        }
        Ok(())
    }

    /// Another name of a file that came earlier in the layer.
    fn add_hard_link(&mut self, entry: Entry) -> Result<(), Error> {
        let target = entry.link.as_ref().and_then(|target| self.index.files.get(target)).cloned();
        match (target, Interest::of(&entry.path)) {
            // A Python package is where its metadata is; dpkg and os-release have one place only.
            (Some(facts @ Facts::Python { .. }), Some(Interest::Python)) => {
                self.keep_facts(entry.path, facts)
            }
            (Some(facts), Some(interest)) if !matches!(interest, Interest::Python) => {
                self.keep_facts(entry.path, facts)
            }
            _ => self.add_unreadable(&entry.path, "a hard link to a file that wasn't read"),
        }
    }

    /// A file whose contents the layer doesn't show. A Python package's name and version are also in its path.
    fn add_unreadable(&mut self, path: &str, kind: &'static str) -> Result<(), Error> {
        match Interest::of(path) {
            None | Some(Interest::OsRelease | Interest::DpkgList | Interest::DpkgSums) => Ok(()),
            Some(Interest::Python) => self.keep_facts(path.to_owned(), python::facts(path, b"")),
            Some(Interest::DpkgStatus | Interest::Apk) => {
                Err(Error::Unreadable { path: path.to_owned(), kind })
            }
        }
    }

    fn keep_facts(&mut self, path: String, facts: Facts) -> Result<(), Error> {
        self.keep(&path)?;
        match &facts {
            Facts::Dpkg(packages) => {
                packages.iter().try_for_each(|package| self.keep(&package.name))?
            }
            Facts::Apk(packages) => packages.iter().try_for_each(|package| {
                self.keep(&package.name)?;
                package.python.iter().try_for_each(|path| self.keep(path))
            })?,
            Facts::DpkgFiles { paths, .. } => paths.iter().try_for_each(|path| self.keep(path))?,
            Facts::Python { name, version } => self.keep(name).and_then(|()| self.keep(version))?,
            Facts::OsRelease(_) => {}
        }
        self.index.files.insert(path, facts);
        Ok(())
    }

    fn keep(&mut self, text: &str) -> Result<(), Error> {
        self.kept_bytes += text.len() as u64 + KEPT_OVERHEAD_BYTES;
        match self.kept_bytes > self.limits.index_bytes {
            true => Err(Error::IndexTooLarge { limit_bytes: self.limits.index_bytes }),
            false => Ok(()),
        }
    }

    fn forget(&mut self, path: &str) {
        self.index.links.remove(path);
        remove_tree(&mut self.index.files, path);
    }
}

/// Removes a path and all below it.
pub fn remove_tree<T>(files: &mut std::collections::BTreeMap<String, T>, path: &str) {
    files.remove(path);
    remove_below(files, path);
}

/// Removes all below a path.
pub fn remove_below<T>(files: &mut std::collections::BTreeMap<String, T>, path: &str) {
    if path.is_empty() {
        files.clear();
        return;
    }
    // '0' is the character after '/'.
    let below: Vec<String> = files
        .range(format!("{path}/")..format!("{path}0"))
        .map(|(below, _)| below.clone())
        .collect();
    for path in below {
        files.remove(&path);
    }
}
