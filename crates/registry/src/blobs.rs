//! Reading blobs.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use reqwest::header::{CONTENT_RANGE, HeaderMap};
use reqwest::{Method, Response, StatusCode};

use crate::challenge::Scope;
use crate::exchange::Call;
use crate::manifests::content_length;
use crate::registry::Registry;
use crate::{BlobStream, Descriptor, Digest, Error, retry};

impl Registry {
    pub async fn blob_exists(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let call = self.blob_call("blob_head", Method::HEAD, repository, digest)?;
        Ok(found(self.call(&call).await)?.is_some())
    }

    /// Whether the whole blob is there. One of another size can't be put right from here: the registry takes it for what
    /// it is named by.
    pub(crate) async fn blob_is_whole(
        &self,
        repository: &str,
        blob: &Descriptor,
    ) -> Result<bool, Error> {
        let look = || self.blob_is_whole_once(repository, blob);
        retry::transient(self.host(), "blob_head", look).await
    }

    pub(crate) async fn blob_is_whole_once(
        &self,
        repository: &str,
        blob: &Descriptor,
    ) -> Result<bool, Error> {
        let call = self.blob_call("blob_head", Method::HEAD, repository, &blob.digest)?;
        let there = found(self.call_once(&call).await)?;
        let Some(there) = there else { return Ok(false) };
        match content_length(there.headers()) {
            Some(length) if length == blob.size => Ok(true),
            // What some proxies make of a HEAD, and what is left of a blob that was cut to nothing.
            None | Some(0) => self.blob_reads_whole_once(repository, blob).await,
            Some(actual) => Err(Error::SizeMismatch {
                host: self.host().to_owned(),
                subject: call.subject,
                expected: blob.size,
                actual,
            }),
        }
    }

    /// The same by the answer to a GET: its length, or its bytes where it names none.
    async fn blob_reads_whole_once(
        &self,
        repository: &str,
        blob: &Descriptor,
    ) -> Result<bool, Error> {
        let call = self.blob_call("blob_get", Method::GET, repository, &blob.digest)?;
        let Some(response) = found(self.call_once(&call).await)? else { return Ok(false) };
        let names_its_length = response.content_length().is_some();
        // One of another length is no stream of it.
        let mut content = BlobStream::new(self, repository, call.subject, blob, response)?;
        while !names_its_length && content.try_next().await?.is_some() {}
        Ok(true)
    }

    /// The blob as a stream that verifies itself. A connection that breaks on the way is made anew, and reading goes
    /// on where it stopped.
    pub async fn blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, Error> {
        retry::transient(self.host(), "blob_get", || self.open_blob(repository, descriptor)).await
    }

    /// The whole verified blob in memory, if it has at most `limit` bytes.
    pub async fn blob_bytes(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        limit: u64,
    ) -> Result<Bytes, Error> {
        if descriptor.size > limit {
            return Err(Error::TooLarge {
                host: self.host().to_owned(),
                subject: subject(repository, &descriptor.digest),
                limit,
            });
        }
        retry::transient(self.host(), "blob_get", || async {
            let mut stream = self.open_blob(repository, descriptor).await?;
            let mut content = BytesMut::new();
            while let Some(piece) = stream.try_next().await? {
                content.extend_from_slice(&piece);
            }
            Ok(content.freeze())
        })
        .await
    }

    pub(crate) async fn open_blob(
        &self,
        repository: &str,
        descriptor: &Descriptor,
    ) -> Result<BlobStream, Error> {
        if let Some(content) = descriptor.embedded() {
            return Ok(BlobStream::of(content));
        }
        let call = self.blob_call("blob_get", Method::GET, repository, &descriptor.digest)?;
        let response = self.call_once(&call).await?;
        BlobStream::new(self, repository, call.subject, descriptor, response)
    }

    /// The rest of a blob, and where in it the answer begins: at the start, if the registry knows no ranges.
    pub(crate) async fn open_rest(
        &self,
        repository: &str,
        digest: &Digest,
        from: u64,
    ) -> Result<(Response, u64), Error> {
        let mut call = self.blob_call("blob_get", Method::GET, repository, digest)?;
        call.from_byte = Some(from);
        let response = self.call_once(&call).await?;
        let begins = match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                range_start(response.headers()).filter(|start| *start <= from).ok_or_else(|| {
                    self.nonsense(&call.subject, "it sent another range than was asked")
                })?
            }
            _ => 0,
        };
        Ok((response, begins))
    }

    fn blob_call(
        &self,
        operation: &'static str,
        method: Method,
        repository: &str,
        digest: &Digest,
    ) -> Result<Call, Error> {
        let url = self.origin().repository_url(repository, &format!("blobs/{digest}"))?;
        let scope = Scope::pull(repository);
        Ok(Call::new(operation, subject(repository, digest), method, url, scope))
    }
}

/// 100 of `bytes 100-199/200`.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

pub(crate) fn subject(repository: &str, digest: &Digest) -> String {
    format!("blob {repository}@{digest}")
}

/// Absence as an answer instead of an error.
pub(crate) fn found<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
