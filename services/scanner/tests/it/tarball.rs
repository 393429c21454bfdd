//! Layers made by hand.

use std::io::Write as _;

use tar::{Builder, EntryType, Header};

/// A tar archive in the making. Paths are written as they are given, however bad.
pub struct Tarball(Builder<Vec<u8>>);

impl Tarball {
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    pub fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        self.entry(EntryType::Regular, path, "", contents.as_ref())
    }

    pub fn folder(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    /// A Python package's metadata, in `site-packages` of the image's environment.
    pub fn python(self, name: &str, version: &str) -> Self {
        let metadata =
            format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nText.\n");
        self.file(&dist_info(name, version), metadata)
    }

    fn entry(mut self, kind: EntryType, path: &str, link: &str, contents: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(contents.len() as u64);
        if path.len() > 100 {
            let mut long = Header::new_gnu();
            long.set_entry_type(EntryType::GNULongName);
            long.set_size(path.len() as u64 + 1);
            long.set_cksum();
            self.0.append(&long, format!("{path}\0").as_bytes()).unwrap();
        }
        let name = &path.as_bytes()[..path.len().min(100)];
        header.as_mut_bytes()[..name.len()].copy_from_slice(name);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, contents).unwrap();
        self
    }

    pub fn tar(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    pub fn gzip(self) -> Vec<u8> {
        gzip(&self.tar())
    }

    pub fn zstd(self) -> Vec<u8> {
        zstd::encode_all(self.tar().as_slice(), 3).unwrap()
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn dist_info(name: &str, version: &str) -> String {
    format!("opt/venv/lib/python3.11/site-packages/{name}-{version}.dist-info/METADATA")
}
