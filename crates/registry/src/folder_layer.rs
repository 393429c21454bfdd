//! A layer of a whole folder, which may be larger than memory: it is packed into a file while it arrives.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::{Buf as _, Bytes};
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use futures::{Stream, StreamExt as _};
use tar::{EntryType, Header};
use tokio::sync::mpsc;

use crate::layer::{Content, Packed};
use crate::{Digest, Error, Hasher};

/// Pieces of the tar that wait to be packed.
const AHEAD: usize = 16;
/// Says that nothing of the layers below is left in its folder (image specification, whiteouts).
const OPAQUE: &str = ".wh..wh..opq";

/// A layer that is packed, and not yet in a registry.
#[derive(Debug)]
pub struct FolderLayer {
    pub(crate) packed: Packed,
    /// Of its tar.
    pub unpacked_bytes: u64,
}

impl FolderLayer {
    /// Of a tar in which everything lies in one folder (`venv/…`), which the image is to have at `path` (`opt/venv`).
    /// `replaces`: what the layers below have there is gone.
    ///
    /// Between two functions that stand on it a layer is read many times and written once; but whoever waits for it
    /// waits for its packing too, so it is packed fast.
    pub async fn pack<E>(
        mut tar: impl Stream<Item = Result<Bytes, E>> + Unpin,
        path: &str,
        replaces: bool,
    ) -> Result<Self, Error>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let path = PathBuf::from(path);
        let packing = tokio::task::spawn_blocking(move || {
            repack(Pieces { pieces, current: Bytes::new() }, &path, replaces)
        });
        while let Some(piece) = tar.next().await {
            // Nobody takes it any more: the packing has failed, and says why.
            if sender.send(piece.map_err(io::Error::other)).await.is_err() {
                break;
            }
        }
        drop(sender);
        match packing.await {
            Ok(packed) => packed.map_err(|error| unusable(&error)),
            Err(error) => Err(unusable(&error)),
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> Error {
    Error::Layer { reason: mecapy_service::chain(error) }
}

/// What arrives, for who reads it on a thread of its own. Its end is an end of the file: a tar that is cut off is known
/// by that.
struct Pieces {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.current = piece?,
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

/// Counts and digests what goes through it.
struct Measured<W> {
    to: W,
    hasher: Hasher,
    bytes: u64,
}

impl<W> Measured<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Hasher::new(), bytes: 0 }
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.to.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

type Target = Measured<GzEncoder<Measured<BufWriter<File>>>>;

fn repack(tar: impl Read, path: &Path, replaces: bool) -> io::Result<FolderLayer> {
    let file = Measured::new(BufWriter::new(tempfile::tempfile()?));
    let gzip = GzBuilder::new().mtime(0).write(file, Compression::fast());
    let mut builder = tar::Builder::new(Measured::new(gzip));
    let mut is_first = true;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let name = moved(&entry.path()?, path)?;
        let mut header = entry.header().clone();
        match header.entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target =
                    entry.link_name()?.ok_or_else(|| nonsense(&name, "a link to nothing"))?;
                // A hard link names its twin from the root of the tar; a symbolic one is the file's own business.
                let target = match header.entry_type() {
                    EntryType::Link => moved(&target, path)?,
                    _ => target.into_owned(),
                };
                builder.append_link(&mut header, &name, target)?;
            }
            EntryType::Regular | EntryType::Directory => {
                builder.append_data(&mut header, &name, &mut entry)?;
            }
            _ => return Err(nonsense(&name, "neither a file nor a folder nor a link")),
        }
        if std::mem::take(&mut is_first) && replaces {
            append_opaque(&mut builder, path)?;
        }
    }
    if is_first {
        return Err(nonsense(path, "nothing"));
    }
    let Measured { to: gzip, hasher, bytes } = builder.into_inner()?;
    let diff_id = hasher.finish();
    let Measured { to: mut file, hasher, bytes: size } = gzip.finish()?;
    file.flush()?;
    let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    let packed = Packed { content: Content::File(file), digest: hasher.finish(), size, diff_id };
    Ok(FolderLayer { packed, unpacked_bytes: bytes })
}

fn append_opaque(builder: &mut tar::Builder<Target>, path: &Path) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o444);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    builder.append_data(&mut header, path.join(OPAQUE), io::empty())
}

/// `venv/lib/x` as `opt/venv/lib/x`.
fn moved(name: &Path, path: &Path) -> io::Result<PathBuf> {
    let mut parts = name.components();
    match parts.next() {
        Some(first) if path.ends_with(first) => Ok(path.join(parts.as_path())),
        _ => Err(nonsense(name, "something that is not in the folder")),
    }
}

fn nonsense(name: &Path, what: &str) -> io::Error {
    io::Error::other(format!("`{}` is {what}", name.display()))
}

impl FolderLayer {
    /// The digest by which a registry names it.
    pub fn digest(&self) -> Digest {
        self.packed.digest
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Seek as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn entry(kind: EntryType, mode: u32, size: usize) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(9);
        header.set_size(size as u64);
        header
    }

    /// A folder as the engine hands it out.
    fn folder() -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("venv/lib/{}/x.py", "d".repeat(180));
        let mut add = |header: &mut Header, name: &str, content: &[u8]| {
            builder.append_data(header, name, content).unwrap();
        };
        add(&mut entry(EntryType::Directory, 0o755, 0), "venv/", b"");
        add(&mut entry(EntryType::Regular, 0o640, 5), "venv/pyvenv.cfg", b"home\n");
        add(&mut entry(EntryType::Regular, 0o755, 1), &long, b"x");
        let link = &mut entry(EntryType::Symlink, 0o777, 0);
        builder.append_link(link, "venv/bin/python", "/usr/local/bin/python3.11").unwrap();
        let link = &mut entry(EntryType::Link, 0o640, 0);
        builder.append_link(link, "venv/twin.cfg", "venv/pyvenv.cfg").unwrap();
        builder.into_inner().unwrap()
    }

    async fn pack(tar: &[u8], replaces: bool) -> Result<FolderLayer, Error> {
        let pieces: Vec<Result<Bytes, io::Error>> =
            tar.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        FolderLayer::pack(futures::stream::iter(pieces), "opt/venv", replaces).await
    }

    fn unpack(layer: FolderLayer) -> Vec<u8> {
        let Content::File(mut file) = layer.packed.content else { panic!("it is a file") };
        file.rewind().unwrap();
        let mut gzip = Vec::new();
        file.read_to_end(&mut gzip).unwrap();
        assert_eq!(Digest::of(&gzip), layer.packed.digest);
        assert_eq!(gzip.len() as u64, layer.packed.size);
        let mut tar = Vec::new();
        GzDecoder::new(gzip.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(Digest::of(&tar), layer.packed.diff_id);
        assert_eq!(tar.len() as u64, layer.unpacked_bytes);
        tar
    }

    #[tokio::test]
    async fn a_folder_is_the_same_at_its_place_in_the_image() {
        let layer = pack(&folder(), false).await.unwrap();
        let tar = unpack(layer);
        let mut archive = tar::Archive::new(tar.as_slice());
        let mut found = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            assert_eq!(
                (header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()),
                (7, 8, 9)
            );
            let link = entry.link_name().unwrap().map(|link| link.display().to_string());
            let name = entry.path().unwrap().display().to_string();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            found.insert(name, (header.mode().unwrap(), link, content));
        }
        let long = format!("opt/venv/lib/{}/x.py", "d".repeat(180));
        let expected = [
            ("opt/venv/", 0o755, None, ""),
            ("opt/venv/bin/python", 0o777, Some("/usr/local/bin/python3.11"), ""),
            (&long, 0o755, None, "x"),
            ("opt/venv/pyvenv.cfg", 0o640, None, "home\n"),
            ("opt/venv/twin.cfg", 0o640, Some("opt/venv/pyvenv.cfg"), ""),
        ];
        let expected: BTreeMap<String, _> = expected
            .into_iter()
            .map(|(name, mode, link, content)| {
                (name.to_owned(), (mode, link.map(str::to_owned), content.to_owned()))
            })
            .collect();
        assert_eq!(found, expected);
    }

    #[tokio::test]
    async fn a_folder_that_replaces_what_is_below_says_so_before_anything_in_it() {
        let tar = unpack(pack(&folder(), true).await.unwrap());
        let mut archive = tar::Archive::new(tar.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names[..2], ["opt/venv/", "opt/venv/.wh..wh..opq"]);
        assert_eq!(names.len(), 6);
    }

    #[tokio::test]
    async fn what_is_cut_off_or_lies_elsewhere_is_no_layer() {
        let whole = folder();
        assert!(pack(&whole[..whole.len() - 1500], false).await.is_err());
        assert!(pack(&[], false).await.is_err());
        let mut elsewhere = tar::Builder::new(Vec::new());
        let header = &mut entry(EntryType::Regular, 0o644, 1);
        elsewhere.append_data(header, "etc/passwd", b"x".as_slice()).unwrap();
        assert!(pack(&elsewhere.into_inner().unwrap(), false).await.is_err());
        let broken = [Err(io::Error::other("the engine has gone"))];
        let broken = futures::stream::iter(broken);
        let Err(error) = FolderLayer::pack(broken, "opt/venv", false).await else {
            panic!("it is a layer of nothing")
        };
        assert!(error.to_string().contains("the engine has gone"), "{error}");
    }
}
