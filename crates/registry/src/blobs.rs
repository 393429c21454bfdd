//! Reading blobs.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use reqwest::Method;

use crate::challenge::Scope;
use crate::exchange::Call;
use crate::registry::Registry;
use crate::{BlobStream, Descriptor, Digest, Error, retry};

impl Registry {
    pub async fn blob_exists(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let call = self.blob_call("blob_head", Method::HEAD, repository, digest)?;
        found(self.call(&call).await.map(drop))
    }

    pub(crate) async fn blob_exists_once(
        &self,
        repository: &str,
        digest: &Digest,
    ) -> Result<bool, Error> {
        let call = self.blob_call("blob_head", Method::HEAD, repository, digest)?;
        found(self.call_once(&call).await.map(drop))
    }

    /// The blob as a stream that verifies itself. Opening is tried again, a broken stream is not:
    /// the reader has to start over.
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
        let call = self.blob_call("blob_get", Method::GET, repository, &descriptor.digest)?;
        let response = self.call_once(&call).await?;
        BlobStream::new(self, call.subject, descriptor, response)
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

pub(crate) fn subject(repository: &str, digest: &Digest) -> String {
    format!("blob {repository}@{digest}")
}

/// Absence as an answer instead of an error.
pub(crate) fn found(result: Result<(), Error>) -> Result<bool, Error> {
    match result {
        Ok(()) => Ok(true),
        Err(Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
