//! The folder of a variant, as the context of its build.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use bytes::Bytes;
use mecapy_engine::ContextFile;
use mecapy_proto::ErrorCode;
use mecapy_registry::Digest;

use crate::Error;
use crate::rejection::Rejection;

const DOCKERFILE: &str = "Dockerfile";
const SMOKE_TEST: &str = "smoke.py";
const MAX_BYTES: u64 = 10 << 20;

/// What one variant is made of.
#[derive(Debug, Clone)]
pub struct BaseFiles {
    pub dockerfile: String,
    /// Run in the image before it goes anywhere.
    pub smoke_test: Bytes,
    /// All files, by name.
    pub files: Vec<ContextFile>,
    /// Changes with any of them.
    pub fingerprint: Digest,
}

impl BaseFiles {
    /// Reads `python-{variant}` in `folder`.
    pub async fn read(folder: &Path, variant: &str) -> Result<Self, Error> {
        let folder = folder.join(format!("python-{variant}"));
        let unreadable = |error: io::Error| {
            Error::Rejected(Rejection::new(
                ErrorCode::UnsupportedVariant,
                format!(
                    "the files of the variant can't be read: {}: {error}; builder.base.folder names where they are",
                    folder.display()
                ),
            ))
        };
        let mut files = list(&folder).await.map_err(unreadable)?;
        files.sort_by(|one, other| one.path.cmp(&other.path));
        let take = |name: &str| files.iter().find(|file| file.path == name);
        let missing =
            |name: &str| unreadable(io::Error::new(io::ErrorKind::NotFound, format!("no {name}")));
        let dockerfile = take(DOCKERFILE).ok_or_else(|| missing(DOCKERFILE))?;
        let smoke_test = take(SMOKE_TEST).ok_or_else(|| missing(SMOKE_TEST))?;
        let text = files.iter().fold(String::new(), |text, file| {
            text + &format!("{} {:o} {}\n", file.path, file.mode, Digest::of(&file.bytes))
        });
        Ok(Self {
            dockerfile: String::from_utf8_lossy(&dockerfile.bytes).into_owned(),
            smoke_test: smoke_test.bytes.clone(),
            fingerprint: Digest::of(text.as_bytes()),
            files,
        })
    }
}

/// The regular files of a folder; it has no folders in it.
async fn list(folder: &Path) -> io::Result<Vec<ContextFile>> {
    let mut entries = tokio::fs::read_dir(folder).await?;
    let (mut files, mut total) = (Vec::new(), 0);
    while let Some(entry) = entries.next_entry().await? {
        let about = entry.metadata().await?;
        let Ok(path) = entry.file_name().into_string() else { continue };
        if !about.is_file() {
            continue;
        }
        total += about.len();
        if total > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("more than {MAX_BYTES} bytes"),
            ));
        }
        let is_executable = about.permissions().mode() & 0o100 != 0;
        let bytes = Bytes::from(tokio::fs::read(entry.path()).await?);
        files.push(ContextFile { path, bytes, mode: if is_executable { 0o755 } else { 0o644 } });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[tokio::test]
    async fn every_variant_of_the_repository_is_whole() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docker/base");
        for variant in ["slim", "numpy", "scipy"] {
            let files = BaseFiles::read(&folder, variant).await.unwrap();
            assert!(files.dockerfile.contains("FROM ${"), "{variant}");
            assert!(!files.smoke_test.is_empty(), "{variant}");
        }
        let error = BaseFiles::read(&folder, "torch").await.unwrap_err().rejection();
        assert_eq!(error.code, ErrorCode::UnsupportedVariant);
        assert!(error.message.contains("builder.base.folder"), "{}", error.message);
    }
}
