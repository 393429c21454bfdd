//! A blob on its way from a registry, checked before its end is handed on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use metrics::Counter;
use reqwest::Response;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use crate::exchange::PATIENCE;
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error, Hasher, metric_definitions as names};

/// The bytes of a blob. The piece that completes it is given only if size and SHA-256 are right;
/// else the stream ends with an error. So whoever reads it to the end has the right content, and
/// whoever passes it on never passes on a whole wrong blob.
pub struct BlobStream(BoxStream<'static, Result<Bytes, Error>>);

impl BlobStream {
    pub(crate) fn new(
        registry: &Registry,
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
        let received = metrics::counter!(
            names::BLOB_BYTES, "registry" => check.host.clone(), "direction" => "received"
        );
        let source = Source { registry: registry.clone(), response, check, received };
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
    response: Response,
    check: Check,
    received: Counter,
}

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = match tokio::time::timeout(PATIENCE, self.response.chunk()).await {
            Ok(piece) => {
                piece.map_err(|e| Error::transport(&self.check.host, &self.check.subject, e))?
            }
            Err(_) => return Err(self.registry.timed_out(&self.check.subject)),
        };
        match piece {
            Some(piece) => {
                self.received.increment(piece.len() as u64);
                self.check.add(&piece)?;
                Ok(Some(piece))
            }
            None => {
                self.check.end()?;
                Ok(None)
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
