//! Fetches export zips.

use std::path::Path;

use futures::TryStreamExt as _;
use tokio::io::AsyncWriteExt as _;

use crate::Error;

/// Where osv.dev keeps its exports.
const OSV: &str = "https://osv-vulnerabilities.storage.googleapis.com";
/// Longer than any export by five times.
const LIMIT_BYTES: u64 = 2 << 30;

/// A place with a zip for each ecosystem, laid out as osv.dev does: `PyPI/all.zip`, `Debian:12/all.zip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror(String);

impl Default for Mirror {
    fn default() -> Self {
        Self(OSV.to_owned())
    }
}

impl Mirror {
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').to_owned())
    }

    pub fn export(&self, ecosystem: &str) -> String {
        format!("{}/{}/all.zip", self.0, ecosystem.replace(' ', "%20"))
    }
}

/// Fetches the URL into the file, whole or not at all: a part of a zip is none.
pub async fn download(client: &reqwest::Client, url: &str, to: &Path) -> Result<u64, Error> {
    let failed = |source| Error::Download { url: url.to_owned(), source };
    let written = |source| Error::Write { path: to.to_owned(), source };
    let response = client.get(url).send().await.map_err(failed)?;
    let response = response.error_for_status().map_err(failed)?;
    let too_large = || Error::DownloadTooLarge { url: url.to_owned(), limit_bytes: LIMIT_BYTES };
    if response.content_length().is_some_and(|length| length > LIMIT_BYTES) {
        return Err(too_large());
    }
    let mut file = tokio::fs::File::create(to).await.map_err(written)?;
    let mut chunks = response.bytes_stream();
    let mut bytes = 0;
    while let Some(chunk) = chunks.try_next().await.map_err(failed)? {
        bytes += chunk.len() as u64;
        if bytes > LIMIT_BYTES {
            return Err(too_large());
        }
        file.write_all(&chunk).await.map_err(written)?;
    }
    file.flush().await.map_err(written)?;
    Ok(bytes)
}
