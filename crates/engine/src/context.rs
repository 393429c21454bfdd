//! The build context: a tar in memory, the same bytes for the same files.

use std::path::{Component, Path};

use bytes::Bytes;

use crate::Error;

/// The file of every context that holds the CA certificates which a build behind a TLS-inspecting
/// proxy must trust. Empty where there are none, so that a Dockerfile can always copy it.
pub const CA_BUNDLE: &str = "ca-bundle.crt";

/// A file of the build context.
#[derive(Debug, Clone)]
pub struct ContextFile {
    /// Relative, with `/`, without `..`.
    pub path: String,
    pub bytes: Bytes,
    /// Permission bits, such as `0o644`.
    pub mode: u32,
}

impl ContextFile {
    /// A file that everyone may read.
    pub fn new(path: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self { path: path.into(), bytes: bytes.into(), mode: 0o644 }
    }
}

/// Owner root, modification time 0: nothing of this machine or this moment gets into an image. The
/// Dockerfile and a CA bundle that are given here stand for files of the same name.
pub(crate) fn archive(
    dockerfile: &str,
    ca_bundle: Option<&[u8]>,
    files: &[ContextFile],
) -> Result<Bytes, Error> {
    let mut tar = tar::Builder::new(Vec::new());
    append(&mut tar, "Dockerfile", dockerfile.as_bytes(), 0o644)?;
    let own_bundle = files.iter().any(|file| file.path == CA_BUNDLE) && ca_bundle.is_none();
    if !own_bundle {
        append(&mut tar, CA_BUNDLE, ca_bundle.unwrap_or_default(), 0o644)?;
    }
    for file in files {
        if file.path == "Dockerfile" || (file.path == CA_BUNDLE && !own_bundle) {
            continue;
        }
        append(&mut tar, &file.path, &file.bytes, file.mode)?;
    }
    tar.into_inner()
        .map(Bytes::from)
        .map_err(|source| Error::Context { path: ".".to_owned(), source })
}

fn append(
    tar: &mut tar::Builder<Vec<u8>>,
    path: &str,
    bytes: &[u8],
    mode: u32,
) -> Result<(), Error> {
    let broken = |source| Error::Context { path: path.to_owned(), source };
    let inside = !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(broken(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "the path leads out of the context",
        )));
    }
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    tar.append_data(&mut header, path, bytes).map_err(broken)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let files = [ContextFile::new("app/user_function.py", "print(1)")];
        let once = archive("FROM scratch", None, &files).unwrap();
        assert_eq!(once, archive("FROM scratch", None, &files).unwrap());
    }

    #[test]
    fn no_file_is_there_twice() {
        let files = [ContextFile::new(CA_BUNDLE, "theirs"), ContextFile::new("Dockerfile", "")];
        for (bundle, expected) in [(None, "theirs"), (Some(&b"ours"[..]), "ours")] {
            let bytes = archive("FROM scratch", bundle, &files).unwrap();
            let mut found = Vec::new();
            for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().display().to_string();
                found.push((path, std::io::read_to_string(&mut entry).unwrap()));
            }
            found.sort();
            let dockerfile = ("Dockerfile".to_owned(), "FROM scratch".to_owned());
            assert_eq!(found, [dockerfile, (CA_BUNDLE.to_owned(), expected.to_owned())]);
        }
    }

    #[test]
    fn a_path_that_leads_out_of_the_context_is_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", ""] {
            let files = [ContextFile::new(path, "")];
            assert!(matches!(archive("FROM scratch", None, &files), Err(Error::Context { .. })));
        }
    }
}
