//! From a stream of chunks to a reader that blocks: the network on one side, decompression on the other.

use std::io::{self, ErrorKind, Read};

use bytes::{Buf as _, Bytes};
use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task;

use super::{LayerIndex, Limits, index};
use crate::Error;

/// Chunks that wait to be read. With a chunk's usual 16 KiB, the network is never more than this ahead.
const CHUNKS_AHEAD: usize = 16;

enum Piece {
    Chunk(Bytes),
    /// The stream ended well: without it, what came before is only a part.
    End,
}

/// Reads a layer from a stream that verifies its digest. Nothing is returned of a stream that ends in an error.
/// Dropping the future ends the reading too.
pub async fn index_stream<E>(
    chunks: impl Stream<Item = Result<Bytes, E>>,
    limits: &Limits,
) -> Result<LayerIndex, Error>
where
    Error: From<E>,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let limits = limits.clone();
    let reading = task::spawn_blocking(move || {
        index(&mut Pieces { receiver, chunk: Bytes::new(), ended: false }, &limits)
    });
    let mut chunks = std::pin::pin!(chunks);
    let fetched = loop {
        let piece = match chunks.next().await {
            Some(Ok(chunk)) => Piece::Chunk(chunk),
            Some(Err(error)) => break Err(error),
            None => Piece::End,
        };
        let ended = matches!(piece, Piece::End);
        // The reader is gone when it found what it won't read.
        if sender.send(piece).await.is_err() || ended {
            break Ok(());
        }
    };
    drop(sender);
    let indexed = reading.await.map_err(|error| Error::Read(io::Error::other(error)))?;
    fetched?;
    indexed
}

struct Pieces {
    receiver: mpsc::Receiver<Piece>,
    chunk: Bytes,
    ended: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Piece::Chunk(chunk)) => self.chunk = chunk,
                Some(Piece::End) => self.ended = true,
                None => return Err(ErrorKind::UnexpectedEof.into()),
            }
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn tar_of(path: &str, contents: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(contents.len() as u64);
        builder.append_data(&mut header, path, contents).unwrap();
        builder.into_inner().unwrap()
    }

    fn chunks(bytes: Vec<u8>, size: usize) -> impl Stream<Item = Result<Bytes, Error>> {
        let chunks: Vec<_> =
            bytes.chunks(size).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        stream::iter(chunks)
    }

    #[tokio::test]
    async fn chunks_of_any_size_give_the_same_index() {
        let tar = tar_of("x/six-1.16.0.dist-info/METADATA", b"Name: six\nVersion: 1.16.0\n");
        let expected = index(&mut tar.as_slice(), &Limits::default()).unwrap();
        assert_eq!(expected.files.len(), 1);
        for size in [1, 7, 512, 1 << 20] {
            let index = index_stream(chunks(tar.clone(), size), &Limits::default()).await.unwrap();
            assert_eq!(index, expected, "chunks of {size}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_in_an_error_gives_no_index_even_after_the_whole_archive() {
        let tar = tar_of("x/six-1.16.0.dist-info/METADATA", b"Name: six\nVersion: 1.16.0\n");
        let broken =
            chunks(tar, 1 << 20).chain(stream::iter([Err(Error::Truncated { at: "a blob" })]));
        let error = index_stream(broken, &Limits::default()).await.unwrap_err();
        assert!(matches!(error, Error::Truncated { at: "a blob" }), "{error}");
    }

    #[tokio::test]
    async fn a_stream_without_an_end_is_read_to_the_limit() {
        let limits = Limits { layer_bytes: 1 << 20, ..Limits::default() };
        let tar = tar_of("x", &[1; 1024]);
        let entry = Bytes::copy_from_slice(&tar[..1536]);
        let endless = |chunk: Bytes| {
            stream::iter(std::iter::repeat_with(move || Ok::<_, Error>(chunk.clone())))
        };
        // Endless entries, and an archive that ends with an endless rest after it.
        for chunk in [entry, Bytes::from(tar)] {
            let error = index_stream(endless(chunk), &limits).await.unwrap_err();
            assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        }
    }
}
