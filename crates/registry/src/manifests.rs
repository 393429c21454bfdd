//! Reading, putting and deleting manifests.

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;

use crate::blobs::found;
use crate::challenge::Scope;
use crate::exchange::Call;
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error, Manifest, retry};

/// What Distribution accepts at most, and the distribution specification recommends.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Registry {
    /// Where a tag or digest leads, without the manifest itself; `None` when it does not exist.
    /// The digest of a tag is the registry's word until the manifest is read.
    pub async fn resolve(
        &self,
        repository: &str,
        reference: &str,
    ) -> Result<Option<Descriptor>, Error> {
        let call = self
            .manifest_call("manifest_head", Method::HEAD, repository, reference)?
            .accepting_manifests();
        match found(self.call(&call).await)? {
            Some(response) => self.told(&call, repository, reference, &response).await.map(Some),
            None => Ok(None),
        }
    }

    /// The digest that a tag leads to; `None` when it does not exist. Where that is `expected`, a registry need not look at
    /// the manifest for it, which takes it a fraction of the work: that the manifest is there is for another call to see.
    pub(crate) async fn leads_to(
        &self,
        repository: &str,
        tag: &str,
        expected: &Digest,
    ) -> Result<Option<Digest>, Error> {
        let mut call = self
            .manifest_call("manifest_head", Method::HEAD, repository, tag)?
            .accepting_manifests();
        call.unless = Some(*expected);
        match found(self.call(&call).await)? {
            Some(response) if response.status() == StatusCode::NOT_MODIFIED => Ok(Some(*expected)),
            Some(response) => {
                let there = self.told(&call, repository, tag, &response).await?;
                Ok(Some(there.digest))
            }
            None => Ok(None),
        }
    }

    /// What the answer to a HEAD says.
    async fn told(
        &self,
        call: &Call,
        repository: &str,
        reference: &str,
        response: &Response,
    ) -> Result<Descriptor, Error> {
        let headers = response.headers();
        let told = (content_digest(headers), media_type(headers), content_length(headers));
        let (Some(digest), Some(media_type), Some(size)) = told else {
            // Some registries leave headers out of a HEAD.
            return Ok(self.manifest(repository, reference).await?.descriptor());
        };
        self.check_asked(&call.subject, reference, digest)?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// The manifest of a tag or digest, verified.
    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Manifest, Error> {
        let call = self
            .manifest_call("manifest_get", Method::GET, repository, reference)?
            .accepting_manifests();
        retry::transient(self.host(), call.operation, || async {
            let response = self.call_once(&call).await?;
            self.read_manifest(&call.subject, reference, response).await
        })
        .await
    }

    /// Puts a manifest under a tag or its own digest. Everything it names must be there.
    pub async fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        manifest: &Manifest,
    ) -> Result<(), Error> {
        let mut call = self
            .manifest_call("manifest_put", Method::PUT, repository, reference)?
            .with_body(manifest.raw.clone(), &manifest.media_type);
        call.scope = Scope::push(repository);
        let response = self.call(&call).await?;
        match content_digest(response.headers()) {
            Some(actual) if actual != manifest.digest => {
                Err(self.mismatch(&call.subject, manifest.digest, actual))
            }
            _ => Ok(()),
        }
    }

    /// Deletes a manifest **and every tag that leads to it**. False when it was not there.
    pub async fn delete_manifest(&self, repository: &str, digest: &Digest) -> Result<bool, Error> {
        let reference = digest.to_string();
        let mut call =
            self.manifest_call("manifest_delete", Method::DELETE, repository, &reference)?;
        call.scope = Scope::delete(repository);
        Ok(found(self.call(&call).await)?.is_some())
    }

    async fn read_manifest(
        &self,
        subject: &str,
        reference: &str,
        response: Response,
    ) -> Result<Manifest, Error> {
        let told_digest = content_digest(response.headers());
        let told_type = media_type(response.headers());
        let raw = self.body(subject, response, MAX_MANIFEST).await?;
        let media_type = told_type
            .or_else(|| {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Own {
                    media_type: String,
                }
                serde_json::from_slice::<Own>(&raw).ok().map(|own| own.media_type)
            })
            .ok_or_else(|| self.nonsense(subject, "it does not say its media type"))?;
        let manifest = Manifest::new(raw, media_type);
        if let Some(told) = told_digest
            && told != manifest.digest
        {
            return Err(self.mismatch(subject, told, manifest.digest));
        }
        self.check_asked(subject, reference, manifest.digest)?;
        Ok(manifest)
    }

    /// A manifest asked by digest must have that digest.
    fn check_asked(&self, subject: &str, reference: &str, actual: Digest) -> Result<(), Error> {
        match reference.parse::<Digest>() {
            Ok(expected) if expected != actual => Err(self.mismatch(subject, expected, actual)),
            _ => Ok(()),
        }
    }

    pub(crate) fn mismatch(&self, subject: &str, expected: Digest, actual: Digest) -> Error {
        let host = self.host().to_owned();
        Error::DigestMismatch { host, subject: subject.to_owned(), expected, actual }
    }

    fn manifest_call(
        &self,
        operation: &'static str,
        method: Method,
        repository: &str,
        reference: &str,
    ) -> Result<Call, Error> {
        let url = self.origin().manifest_url(repository, reference)?;
        let separator = if reference.contains(':') { '@' } else { ':' };
        let subject = format!("manifest {repository}{separator}{reference}");
        Ok(Call::new(operation, subject, method, url, Scope::pull(repository)))
    }
}

pub(crate) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// The media type without parameters. The generic JSON type says nothing.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let media_type = value.split(';').next()?.trim();
    (!matches!(media_type, "" | "application/json" | "text/plain" | "application/octet-stream"))
        .then(|| media_type.to_owned())
}

pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
