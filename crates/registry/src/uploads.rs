//! Putting blobs: mounted, skipped, or streamed in one PUT.

use std::io::{self, Seek as _};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION,
};
use reqwest::{Method, Request, Response, StatusCode};
use tokio_util::io::ReaderStream;
use url::Url;

use crate::blobs::subject;
use crate::challenge::Scope;
use crate::exchange::Call;
use crate::layer::{Content, Packed};
use crate::manifest::media_types::OCTET_STREAM;
use crate::manifests::content_digest;
use crate::registry::Registry;
use crate::upload_watch::Watched;
use crate::{Descriptor, Digest, Error, retry};

/// An upload may stand still for so many times what is waited for an answer: after the last byte a registry may first
/// move the whole blob to its place in object storage.
const STALLS: u32 = 5;
const PIECE: usize = 256 * 1024;

/// An open upload session.
pub(crate) struct Session {
    url: Url,
    scope: Scope,
}

pub(crate) enum Start {
    Mounted,
    Session(Session),
}

impl Registry {
    /// Puts a blob unless it is there. Its type is for the caller to set.
    pub async fn put_blob(&self, repository: &str, content: Bytes) -> Result<Descriptor, Error> {
        let blob = Descriptor::new(OCTET_STREAM, Digest::of(&content), content.len() as u64);
        if self.blob_is_whole(repository, &blob).await? {
            return Ok(blob);
        }
        self.put_new_blob(repository, content).await
    }

    /// Puts a blob that is hardly there yet: putting it once more costs less than looking each time.
    pub(crate) async fn put_new_blob(
        &self,
        repository: &str,
        content: Bytes,
    ) -> Result<Descriptor, Error> {
        let digest = Digest::of(&content);
        let descriptor = Descriptor::new(OCTET_STREAM, digest, content.len() as u64);
        self.put_new(repository, &descriptor, || {
            Ok(futures::stream::iter(pieces(content.clone()).map(Ok)))
        })
        .await?;
        Ok(descriptor)
    }

    /// Puts a layer unless it is there.
    pub(crate) async fn put_layer(&self, repository: &str, layer: &Packed) -> Result<(), Error> {
        let blob = Descriptor::new(OCTET_STREAM, layer.digest, layer.size);
        if self.blob_is_whole(repository, &blob).await? {
            return Ok(());
        }
        self.put_new_layer(repository, layer).await
    }

    /// Puts a layer that is hardly there yet.
    pub(crate) async fn put_new_layer(
        &self,
        repository: &str,
        layer: &Packed,
    ) -> Result<(), Error> {
        let descriptor = Descriptor::new(OCTET_STREAM, layer.digest, layer.size);
        match &layer.content {
            Content::Memory(content) => {
                self.put_new(repository, &descriptor, || {
                    Ok(futures::stream::iter(pieces(content.clone()).map(Ok)))
                })
                .await
            }
            Content::File(file) => {
                self.put_new(repository, &descriptor, || {
                    let mut file = file.try_clone()?;
                    file.rewind()?;
                    let read = ReaderStream::with_capacity(tokio::fs::File::from_std(file), PIECE);
                    Ok(read.map_err(|error| unreadable(&error)))
                })
                .await
            }
        }
    }

    /// Puts a blob, again from its start where that may help.
    async fn put_new<S>(
        &self,
        repository: &str,
        descriptor: &Descriptor,
        content: impl Fn() -> io::Result<S>,
    ) -> Result<(), Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Send + 'static,
    {
        let content = &content;
        retry::transient(self.host(), "blob_put", || async move {
            match self.start_upload(repository, &descriptor.digest, None).await? {
                Start::Mounted => Ok(()),
                Start::Session(session) => {
                    let content = content().map_err(|error| unreadable(&error))?;
                    self.upload(repository, session, descriptor, content).await
                }
            }
        })
        .await
    }

    /// Makes a blob of another repository of this registry appear in `repository`, without moving
    /// it. False when the registry can't; nothing stays behind then.
    pub async fn mount_blob(
        &self,
        repository: &str,
        digest: &Digest,
        from: &str,
    ) -> Result<bool, Error> {
        retry::transient(self.host(), "blob_mount", || async {
            match self.start_upload(repository, digest, Some(from)).await? {
                Start::Mounted => Ok(true),
                Start::Session(session) => {
                    self.cancel_upload(repository, session).await;
                    Ok(false)
                }
            }
        })
        .await
    }

    /// Opens a session, or mounts the blob when `from` has it.
    pub(crate) async fn start_upload(
        &self,
        repository: &str,
        digest: &Digest,
        from: Option<&str>,
    ) -> Result<Start, Error> {
        let mut url = self.origin().repository_url(repository, "blobs/uploads/")?;
        let (operation, scope) = match from {
            Some(from) => {
                let mount = digest.to_string();
                url.query_pairs_mut().append_pair("mount", &mount).append_pair("from", from);
                ("blob_mount", Scope::mount(repository, from))
            }
            None => ("upload_start", Scope::push(repository)),
        };
        let subject = subject(repository, digest);
        let call = Call::new(operation, subject, Method::POST, url, scope);
        let response = match self.call_once(&call).await {
            // Nothing was asked for that could be missing, but the place itself.
            Err(Error::NotFound { host, subject }) if from.is_none() => {
                let detail = "it has no such repository, and no push makes one: make the project or namespace there";
                return Err(Error::lacking(host, subject, detail));
            }
            other => other?,
        };
        match response.status() {
            StatusCode::CREATED => {
                self.check_took(&call.subject, digest, response.headers())?;
                Ok(Start::Mounted)
            }
            StatusCode::ACCEPTED => {
                let url = self.location(&call, response.headers())?;
                Ok(Start::Session(Session { url, scope: call.scope }))
            }
            status => {
                Err(self.nonsense(&call.subject, format!("it answered {status} to a new upload")))
            }
        }
    }

    /// Streams a blob into its session, as one PUT: registries differ in how they take chunks, and
    /// Distribution 2.8 appends chunks without looking at their range. `content` must fail rather
    /// than complete a wrong blob; then the PUT breaks off and nothing is committed.
    pub(crate) async fn upload(
        &self,
        repository: &str,
        session: Session,
        descriptor: &Descriptor,
        content: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let result = self.put(repository, &session, descriptor, content).await;
        // A session left behind keeps its bytes in the registry. Distribution 2.8 can't cancel one
        // that took a part of its bytes (it answers 404 BLOB_UPLOAD_INVALID, measured), so there,
        // and when the registry is away, its own purge has to do.
        if let Err(error) = &result
            && !matches!(error, Error::Unreachable { .. } | Error::TimedOut { .. })
        {
            self.cancel_upload(repository, session).await;
        }
        result
    }

    /// Ends a session. Failing to is not worth failing for: registries purge old sessions.
    pub(crate) async fn cancel_upload(&self, repository: &str, session: Session) {
        let subject = format!("an upload to {repository}");
        let Session { url, scope } = session;
        let call = Call::new("upload_cancel", subject, Method::DELETE, url, scope);
        if let Err(error) = self.call_once(&call).await {
            tracing::debug!(
                registry.host = self.host(),
                error = %error,
                "an upload session could not be cancelled"
            );
        }
    }

    async fn put(
        &self,
        repository: &str,
        session: &Session,
        descriptor: &Descriptor,
        content: impl Stream<Item = Result<Bytes, Error>> + Send + 'static,
    ) -> Result<(), Error> {
        let subject = subject(repository, &descriptor.digest);
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &descriptor.digest.to_string());
        let authorization = self.authorization(&url, &session.scope).await?;
        let watched = Watched::default();
        let stall_limit = self.patience() * STALLS;

        let mut request = Request::new(Method::PUT, url);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(OCTET_STREAM));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(descriptor.size));
        if let Some(value) = &authorization {
            headers.insert(AUTHORIZATION, value.clone());
        }
        let content = content.and_then({
            let pace = self.pace().clone();
            move |piece| {
                let pace = pace.clone();
                async move {
                    pace.spend(piece.len() as u64).await;
                    Ok(piece)
                }
            }
        });
        *request.body_mut() = Some(watched.body(self.host(), content));
        self.pace().open().await;
        let method = request.method().clone();

        let sending = async {
            let request = self.http().execute(request);
            match watched.until_stalled(stall_limit, descriptor.size, request).await {
                Some(Ok(response)) => Ok(response),
                // The source's own failure says more than "the body could not be sent".
                Some(Err(e)) => Err(watched
                    .failure()
                    .unwrap_or_else(|| Error::transport(self.host(), &subject, e))),
                None => Err(Error::TimedOut {
                    host: self.host().to_owned(),
                    subject: subject.clone(),
                    after: stall_limit,
                }),
            }
        };
        let response = self.measured("blob_put", &method, sending).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.refused(&subject, session, authorization, response).await);
        }
        if response.status() == StatusCode::NOT_FOUND {
            // Not the blob: the session. It was purged, or the registry started anew without it.
            return Err(Error::Interrupted {
                host: self.host().to_owned(),
                subject,
                source: "the registry no longer knows the upload".into(),
            });
        }
        let response = self.succeeded(&method, &subject, response).await?;
        self.check_took(&subject, &descriptor.digest, response.headers())
    }

    /// What the registry says that it took must be what it was given.
    fn check_took(&self, subject: &str, given: &Digest, headers: &HeaderMap) -> Result<(), Error> {
        match content_digest(headers) {
            Some(took) if took != *given => Err(self.mismatch(subject, *given, took)),
            _ => Ok(()),
        }
    }

    /// A 401 in the middle of an upload: when its token ended early, starting again helps.
    async fn refused(
        &self,
        subject: &str,
        session: &Session,
        authorization: Option<HeaderValue>,
        response: Response,
    ) -> Error {
        let headers = response.headers();
        // Where the session is on another host, nothing of ours was sent to it, and nothing will be.
        let is_ours = self.origin().owns(response.url());
        if is_ours && self.auth().learn(headers, &session.scope, authorization.as_ref()).await {
            return Error::Interrupted {
                host: self.host().to_owned(),
                subject: subject.to_owned(),
                source: "the registry no longer takes the token".into(),
            };
        }
        match self.succeeded(&Method::PUT, subject, response).await {
            Ok(_) => self.nonsense(subject, "it refused and accepted at once"),
            Err(error) => error,
        }
    }

    fn location(&self, call: &Call, headers: &HeaderMap) -> Result<Url, Error> {
        let url = headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|location| self.origin().follow(&call.url, location).ok())
            .ok_or_else(|| {
                self.nonsense(&call.subject, "it opened an upload but did not say where")
            })?;
        if url.scheme() != "https" && !self.origin().is_plain_http() {
            return Err(self.nonsense(&call.subject, "it leads the upload out of TLS"));
        }
        Ok(url)
    }
}

fn unreadable(error: &io::Error) -> Error {
    Error::Layer { reason: format!("it can't be read again: {error}") }
}

/// Slices that share the content's memory.
fn pieces(content: Bytes) -> impl Iterator<Item = Bytes> + Send {
    let starts = (0..content.len()).step_by(PIECE);
    starts.map(move |start| content.slice(start..content.len().min(start + PIECE)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_make_up_the_content() {
        for size in [0, 1, PIECE, PIECE + 1, 3 * PIECE] {
            let content = Bytes::from(vec![7; size]);
            let parts: Vec<_> = pieces(content.clone()).collect();
            assert!(parts.iter().all(|part| !part.is_empty() && part.len() <= PIECE));
            assert_eq!(parts.concat(), content);
        }
    }
}
