//! A blob on its way from a registry, checked before its end is handed on.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ::metrics::Counter;
use bytes::{Buf as _, Bytes};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::Response;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::patience::{LEAST, Patience};
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error, Hasher, metric_definitions as metrics};

/// How often in a row a download may break with hardly a new byte: 12 s in all. One that ends in good order, but early,
/// is likelier a lack than a break.
const MAX_BREAKS: u32 = 6;
const MAX_EARLY_ENDS: u32 = 2;
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The bytes of a blob. The piece that completes it is given only if size and SHA-256 are right;
/// else the stream ends with an error. So whoever reads it to the end has the right content, and
/// whoever passes it on never passes on a whole wrong blob.
pub struct BlobStream(BoxStream<'static, Result<Bytes, Error>>);

impl BlobStream {
    pub(crate) fn new(
        registry: &Registry,
        repository: &str,
        subject: String,
        descriptor: &Descriptor,
        response: Response,
    ) -> Result<Self, Error> {
        let check = Check {
            host: registry.host().to_owned(),
            subject,
            size: descriptor.size,
            digest: descriptor.digest,
            received: 0,
            hasher: Hasher::new(),
        };
        if let Some(announced) = response.content_length()
            && announced != check.size
        {
            return Err(check.wrong_size(announced));
        }
        if check.size == 0 {
            check.verify(Digest::of(b""))?;
        }
        let received = metrics::received(&check.host);
        let source = Source {
            registry: registry.clone(),
            repository: repository.to_owned(),
            response,
            to_skip: 0,
            breaks: 0,
            since_break: 0,
            patience: Patience::new(registry.patience()),
            check,
            received,
        };
        let pieces = futures::stream::unfold(Some(source), |source| async {
            let mut source = source?;
            match source.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(source))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(Self(pieces.boxed()))
    }

    /// Of content that is here, and verified.
    pub(crate) fn of(content: Bytes) -> Self {
        let piece = (!content.is_empty()).then_some(Ok(content));
        Self(futures::stream::iter(piece).boxed())
    }

    /// The same as a reader. Its errors hold an [`Error`].
    pub fn into_reader(self) -> impl AsyncRead + Send + Unpin {
        StreamReader::new(self.map_err(std::io::Error::other))
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Source {
    registry: Registry,
    repository: String,
    response: Response,
    /// Bytes of the answer that were had already: it began before where it should.
    to_skip: u64,
    /// Since a fair number of bytes came that were new.
    breaks: u32,
    since_break: u64,
    patience: Patience,
    check: Check,
    received: Counter,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let broken = match self.read().await {
                Ok(Some(piece)) => {
                    let Some(piece) = self.unseen(piece) else { continue };
                    self.since_break += piece.len() as u64;
                    if self.since_break >= LEAST {
                        self.breaks = 0;
                    }
                    self.check.add(&piece)?;
                    return Ok(Some(piece));
                }
                Ok(None) => match self.check.end() {
                    Ok(()) => return Ok(None),
                    Err(short) => short,
                },
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            self.resume(broken).await?;
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Error> {
        match self.patience.wait(self.response.chunk()).await {
            Some(Ok(piece)) => {
                let bytes = piece.as_ref().map_or(0, Bytes::len);
                self.received.increment(bytes as u64);
                self.patience.moved(bytes);
                Ok(piece)
            }
            Some(Err(e)) => Err(Error::transport(&self.check.host, &self.check.subject, e)),
            None => Err(self.registry.timed_out(&self.check.subject)),
        }
    }

    /// The part of a piece that was not had before a break.
    fn unseen(&mut self, mut piece: Bytes) -> Option<Bytes> {
        let seen = self.to_skip.min(piece.len() as u64);
        self.to_skip -= seen;
        piece.advance(usize::try_from(seen).ok()?);
        (!piece.is_empty()).then_some(piece)
    }

    /// Opens the rest of a blob whose stream broke. What was read stays read: the hash goes on over it, and its end
    /// tells whether both parts were of one blob.
    async fn resume(&mut self, broken: Error) -> Result<(), Error> {
        let most = if broken.is_transient() { MAX_BREAKS } else { MAX_EARLY_ENDS };
        loop {
            self.breaks += 1;
            if self.breaks > most {
                return Err(broken);
            }
            tokio::time::sleep(FIRST_WAIT * (1 << (self.breaks - 1))).await;
            let from = self.check.received;
            let digest = self.check.digest;
            match self.registry.open_rest(&self.repository, &digest, from).await {
                Ok((response, begins)) => {
                    tracing::debug!(
                        registry.host = self.check.host,
                        subject = self.check.subject,
                        from,
                        error = %broken,
                        "a broken download goes on"
                    );
                    self.response = response;
                    self.patience = Patience::new(self.patience.whole());
                    self.since_break = 0;
                    self.to_skip = from - begins;
                    return Ok(());
                }
                Err(error) if error.is_transient() => {}
                // There is no rest: the registry has less than it should.
                Err(Error::Status { status: 416, .. }) => return Err(broken),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Compares what arrives with what was promised.
struct Check {
    host: String,
    subject: String,
    size: u64,
    digest: Digest,
    received: u64,
    hasher: Hasher,
}

impl Check {
    fn add(&mut self, piece: &[u8]) -> Result<(), Error> {
        if piece.is_empty() {
            return Ok(());
        }
        self.received += piece.len() as u64;
        if self.received > self.size {
            return Err(self.wrong_size(self.received));
        }
        self.hasher.update(piece);
        if self.received == self.size {
            let actual = std::mem::take(&mut self.hasher).finish();
            self.verify(actual)?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Error> {
        if self.received == self.size { Ok(()) } else { Err(self.wrong_size(self.received)) }
    }

    fn verify(&self, actual: Digest) -> Result<(), Error> {
        if actual == self.digest {
            return Ok(());
        }
        Err(Error::DigestMismatch {
            host: self.host.clone(),
            subject: self.subject.clone(),
            expected: self.digest,
            actual,
        })
    }

    fn wrong_size(&self, actual: u64) -> Error {
        Error::SizeMismatch {
            host: self.host.clone(),
            subject: self.subject.clone(),
            expected: self.size,
            actual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8], size: u64) -> Check {
        Check {
            host: "host".into(),
            subject: "blob".into(),
            size,
            digest: Digest::of(content),
            received: 0,
            hasher: Hasher::new(),
        }
    }

    #[test]
    fn the_piece_that_completes_a_wrong_blob_is_refused() {
        let mut right = check(b"content", 7);
        right.add(b"con").unwrap();
        right.add(b"tent").unwrap();
        right.end().unwrap();

        let mut wrong = check(b"content", 7);
        wrong.add(b"con").unwrap();
        assert!(wrong.add(b"TENT").unwrap_err().is_digest_mismatch());
    }

    #[test]
    fn a_blob_of_another_size_is_refused() {
        let mut long = check(b"content", 7);
        assert!(long.add(b"content and more").unwrap_err().is_digest_mismatch());
        let mut short = check(b"content", 7);
        short.add(b"con").unwrap();
        assert!(short.end().unwrap_err().is_digest_mismatch());
    }
}
