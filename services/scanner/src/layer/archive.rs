//! A tar stream, read once from front to back in bounded memory.
//!
//! Only what tells entries apart is read: names, kinds, sizes and link targets, in the formats that image builders
//! write (ustar, GNU, PAX). Where readers of tar differ, this one does as Go's `archive/tar`, with which container
//! engines unpack: what is scanned has to be what runs.

use std::io::{BufRead, ErrorKind, Read as _};

use tar::{EntryType, Header};

use super::Limits;
use crate::Error;

const BLOCK: usize = 512;
/// The longest extended header: names, mostly.
const EXTENSION_LIMIT_BYTES: u64 = 1 << 20;
/// Where the kind of an entry stands in its header.
const TYPE_OFFSET: usize = 156;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    HardLink,
    /// Devices, pipes, sparse files: nothing that a package manager writes.
    Other,
}

#[derive(Debug)]
pub struct Entry {
    /// Without `.`, `..`, empty components and slashes around it. The root is "".
    pub path: String,
    pub kind: Kind,
    /// Of a hard link: the path in the image, in the same form.
    pub link: Option<String>,
}

pub struct Archive<'a, R> {
    reader: R,
    limits: &'a Limits,
    /// What is left of the current entry's data, and the padding after it.
    data: u64,
    padding: u64,
    bytes: u64,
    entries: u64,
}

/// What extended headers say of the entry after them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl<'a, R: BufRead> Archive<'a, R> {
    pub fn new(reader: R, limits: &'a Limits) -> Self {
        Self { reader, limits, data: 0, padding: 0, bytes: 0, entries: 0 }
    }

    pub fn entries(&self) -> u64 {
        self.entries
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next entry, passing over what is left of the current one. `None` at the end of the archive.
    pub fn next(&mut self) -> Result<Option<Entry>, Error> {
        self.pass_over()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            self.entries += 1;
            if self.entries > self.limits.layer_entries {
                return Err(Error::TooManyEntries { limit: self.limits.layer_entries });
            }
            let kind = header.entry_type();
            let size = header
                .entry_size()
                .map_err(|_| Error::Archive { problem: "a size is not a number" })?;
            self.expect(size)?;
            match kind {
                EntryType::GNULongName => extended.path = Some(self.text()?),
                EntryType::GNULongLink => extended.link = Some(self.text()?),
                EntryType::XHeader => self.extension(&mut extended)?,
                // Says something of all entries, such as the commit that they come from: nothing of their names.
                EntryType::XGlobalHeader => self.pass_over()?,
                _ => return self.entry(&header, kind, size, extended).map(Some),
            }
        }
    }

    /// The whole data of the current entry.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Error> {
        let limit_bytes = self.limits.file_bytes;
        if self.data > limit_bytes {
            return Err(Error::FileTooLarge { path: path.to_owned(), limit_bytes });
        }
        self.data_bytes()
    }

    /// The start of the current entry's data.
    pub fn read_start(&mut self, limit: u64) -> Result<Vec<u8>, Error> {
        let rest = self.data.saturating_sub(limit);
        self.data -= rest;
        let start = self.data_bytes()?;
        self.data = rest;
        Ok(start)
    }

    fn entry(
        &mut self,
        header: &Header,
        kind: EntryType,
        size: u64,
        extended: Extended,
    ) -> Result<Entry, Error> {
        let raw = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        // The oldest archives have no kinds: there a slash at the end makes a directory.
        let untyped = header.as_bytes()[TYPE_OFFSET] == 0;
        let directory = kind == EntryType::Directory || (untyped && raw.ends_with(b"/"));
        let has_data = match kind {
            _ if directory => false,
            EntryType::Link
            | EntryType::Symlink
            | EntryType::Char
            | EntryType::Block
            | EntryType::Fifo => false,
            _ => true,
        };
        // These have no data, whatever the header says of a size.
        let size = if has_data { extended.size.unwrap_or(size) } else { 0 };
        self.expect(size)?;
        if kind == EntryType::GNUSparse {
            self.sparse_headers(header)?;
        }
        let kind = match kind {
            _ if directory => Kind::Directory,
            _ if extended.sparse => Kind::Other,
            EntryType::Regular | EntryType::Continuous => Kind::File,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Link => Kind::HardLink,
            _ => Kind::Other,
        };
        let link = match kind {
            Kind::HardLink => {
                let target = extended
                    .link
                    .or_else(|| header.link_name_bytes().map(|name| name.into_owned()));
                Some(normalise(&target.unwrap_or_default())?)
            }
            _ => None,
        };
        Ok(Entry { path: normalise(&raw)?, kind, link })
    }

    fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            // The end is two blocks of zeros, or one and the end of the stream.
            let mut second = [0; BLOCK];
            return match self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                true => Err(Error::Archive { problem: "there is something after its end" }),
                false => Ok(None),
            };
        }
        let sum =
            header.cksum().map_err(|_| Error::Archive { problem: "a checksum is not a number" })?;
        let bytes = header.as_bytes();
        let blanked = || {
            bytes
                .iter()
                .enumerate()
                .map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte })
        };
        let unsigned: u32 = blanked().map(u32::from).sum();
        let signed: i32 = blanked().map(|byte| i32::from(byte.cast_signed())).sum();
        if sum != unsigned && i64::from(sum) != i64::from(signed) {
            return Err(Error::Archive { problem: "a checksum is wrong" });
        }
        Ok(Some(header))
    }

    /// Old GNU sparse files say where their holes are in more blocks after the header.
    fn sparse_headers(&mut self, header: &Header) -> Result<(), Error> {
        let mut more = header.as_gnu().is_some_and(tar::GnuHeader::is_extended);
        while more {
            let mut extension = tar::GnuExtSparseHeader::new();
            if !self.block(extension.as_mut_bytes())? {
                return Err(Error::Truncated { at: "a header" });
            }
            more = extension.is_extended();
        }
        Ok(())
    }

    /// Records of `<length> <key>=<value>\n`, where the length counts all of it. Values can hold anything.
    fn extension(&mut self, extended: &mut Extended) -> Result<(), Error> {
        let malformed = || Error::Archive { problem: "an extended header is malformed" };
        let data = self.text_bytes()?;
        let mut rest = data.as_slice();
        let mut real_path = None;
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let length: usize = std::str::from_utf8(&rest[..space])
                .ok()
                .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(malformed)?;
            if length <= space + 1 || length > rest.len() {
                return Err(malformed());
            }
            let (record, after) = rest.split_at(length);
            rest = after;
            let record = record[space + 1..].strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => extended.path = Some(value.to_vec()),
                b"linkpath" => extended.link = Some(value.to_vec()),
                b"size" => {
                    let size =
                        std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                    extended.size = Some(size.ok_or_else(malformed)?);
                }
                b"GNU.sparse.name" => real_path = Some(value.to_vec()),
                _ => {}
            }
            extended.sparse |= key.starts_with(b"GNU.sparse.");
        }
        extended.path = real_path.or_else(|| extended.path.take());
        Ok(())
    }

    /// The data of a GNU long name, up to its zero byte.
    fn text(&mut self) -> Result<Vec<u8>, Error> {
        let mut text = self.text_bytes()?;
        if let Some(end) = text.iter().position(|byte| *byte == 0) {
            text.truncate(end);
        }
        Ok(text)
    }

    fn text_bytes(&mut self) -> Result<Vec<u8>, Error> {
        if self.data > EXTENSION_LIMIT_BYTES {
            return Err(Error::Archive { problem: "an extended header is too long" });
        }
        let text = self.data_bytes()?;
        self.pass_over()?;
        Ok(text)
    }

    /// What the entry's data and padding will be.
    fn expect(&mut self, size: u64) -> Result<(), Error> {
        // A size near the end of the number range would wrap round to nothing.
        if size > self.limits.layer_bytes {
            return Err(Error::TooLarge { limit_bytes: self.limits.layer_bytes });
        }
        self.data = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn data_bytes(&mut self) -> Result<Vec<u8>, Error> {
        let mut data = Vec::new();
        let expected = self.data;
        self.count(expected)?;
        // Grows with what is there, not with what the header claims.
        std::io::Read::take(&mut self.reader, expected).read_to_end(&mut data)?;
        if data.len() as u64 != expected {
            return Err(Error::Truncated { at: "a file" });
        }
        self.data = 0;
        Ok(data)
    }

    fn pass_over(&mut self) -> Result<(), Error> {
        let mut left = std::mem::take(&mut self.data) + std::mem::take(&mut self.padding);
        self.count(left)?;
        while left > 0 {
            let there = match self.reader.fill_buf() {
                Ok([]) => return Err(Error::Truncated { at: "a file" }),
                Ok(buffer) => buffer.len(),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let piece = usize::try_from(left).unwrap_or(usize::MAX).min(there);
            self.reader.consume(piece);
            left -= piece as u64;
        }
        Ok(())
    }

    /// Fills the block; false at a clean end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.reader.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Error::Truncated { at: "a header" }),
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.count(BLOCK as u64)?;
        Ok(true)
    }

    fn count(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes += bytes;
        match self.bytes > self.limits.layer_bytes {
            true => Err(Error::TooLarge { limit_bytes: self.limits.layer_bytes }),
            false => Ok(()),
        }
    }
}

/// A path as the image's root sees it. One that climbs out is refused: no engine would unpack it.
pub fn normalise(raw: &[u8]) -> Result<String, Error> {
    let text = String::from_utf8_lossy(raw);
    // A name can't hold it; PAX headers can.
    if text.contains('\0') {
        return Err(Error::UnsafePath { path: text.into_owned() });
    }
    let mut path = String::with_capacity(text.len());
    for component in text.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                let parent = match path.rfind('/') {
                    Some(slash) => slash,
                    None if path.is_empty() => {
                        return Err(Error::UnsafePath { path: text.into_owned() });
                    }
                    None => 0,
                };
                path.truncate(parent);
            }
            _ => {
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(component);
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
