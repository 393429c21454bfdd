//! A layer made of a few files, the same bytes every time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::{Compression, GzBuilder};

use crate::{Digest, Error};

/// A regular file of a layer, owned by root.
#[derive(Clone, Debug)]
pub struct LayerFile {
    /// From the root of the image, without a slash before it: `app/user_function.py`.
    pub path: String,
    /// Permission bits: `0o444`.
    pub mode: u32,
    pub bytes: Bytes,
}

/// A layer as an uncompressed tar.
#[derive(Clone, Debug)]
pub struct TarLayer(Bytes);

/// A layer as registries hold it.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) content: Content,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// The digest of the tar, by which the config names the layer.
    pub(crate) diff_id: Digest,
}

/// Where the bytes of a layer wait for their registry.
#[derive(Debug)]
pub(crate) enum Content {
    Memory(Bytes),
    /// It has no name, and is gone with this.
    File(File),
}

impl TarLayer {
    /// Files in the order of their paths, with no time and no owner names. No entries for the
    /// directories: those of the image below keep their rights, others are made by who unpacks.
    pub fn from_files(files: impl IntoIterator<Item = LayerFile>) -> Result<Self, Error> {
        let mut sorted = BTreeMap::new();
        for file in files {
            if let Some(twin) = sorted.insert(file.path.clone(), file) {
                return Err(Error::Layer { reason: format!("`{}` is in it twice", twin.path) });
            }
        }
        let mut builder = tar::Builder::new(Vec::new());
        for (path, file) in &sorted {
            let unusable =
                |e: io::Error| Error::Layer { reason: format!("`{path}` can't be in it: {e}") };
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(file.mode & 0o7777);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(file.bytes.len() as u64);
            builder.append_data(&mut header, path, file.bytes.as_ref()).map_err(unusable)?;
        }
        let tar = builder.into_inner().map_err(|e| Error::Layer { reason: e.to_string() })?;
        Ok(Self(tar.into()))
    }

    /// A tar from elsewhere, taken as it is.
    pub fn from_tar(tar: Bytes) -> Self {
        Self(tar)
    }

    pub fn tar(&self) -> &Bytes {
        &self.0
    }

    /// Compresses it without a time or a name in the header. The bytes are the same for every run
    /// of one build of this program; another version of the compressor may make others.
    pub(crate) fn pack(&self) -> Result<Packed, Error> {
        let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::default());
        let gzip = encoder.write_all(&self.0).and_then(|()| encoder.finish());
        let gzip = gzip.map_err(|e| Error::Layer { reason: e.to_string() })?;
        Ok(Packed {
            digest: Digest::of(&gzip),
            size: gzip.len() as u64,
            content: Content::Memory(gzip.into()),
            diff_id: Digest::of(&self.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn file(path: &str, content: &str) -> LayerFile {
        LayerFile { path: path.into(), mode: 0o444, bytes: Bytes::from(content.to_owned()) }
    }

    #[test]
    fn the_same_files_in_any_order_make_the_same_layer() {
        let long = format!("app/{}/x.py", "d".repeat(150));
        let one = TarLayer::from_files([file("app/a.py", "a"), file(&long, "b")]).unwrap();
        let two = TarLayer::from_files([file(&long, "b"), file("app/a.py", "a")]).unwrap();
        assert_eq!(one.tar(), two.tar());
        assert_eq!(one.pack().unwrap().digest, two.pack().unwrap().digest);
        assert_eq!(one.pack().unwrap().diff_id, Digest::of(one.tar()));
    }

    #[test]
    fn a_file_keeps_its_mode_and_belongs_to_root() {
        let layer = TarLayer::from_files([file("app/user_function.py", "print(1)")]).unwrap();
        let mut archive = tar::Archive::new(layer.tar().as_ref());
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!(header.mode().unwrap(), 0o444);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.mtime().unwrap(), 0);
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        assert_eq!(content, "print(1)");
        drop(entry);
        assert!(entries.next().is_none());
    }

    #[test]
    fn paths_that_leave_the_image_or_meet_are_refused() {
        assert!(TarLayer::from_files([file("../etc/passwd", "")]).is_err());
        assert!(TarLayer::from_files([file("/etc/passwd", "")]).is_err());
        assert!(TarLayer::from_files([file("a", "1"), file("a", "2")]).is_err());
    }
}
