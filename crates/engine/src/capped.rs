//! A stream kept within a cap: its beginning and its end, with the count of what was left out
//! between them. The end matters most: a traceback's last line says what went wrong.

use bytes::Bytes;

/// What was kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capped {
    /// The first bytes: all of them when nothing was left out.
    pub head: Bytes,
    /// The last bytes; empty when nothing was left out.
    pub tail: Bytes,
    /// How many bytes the stream had.
    pub total_bytes: u64,
}

impl Capped {
    pub fn is_truncated(&self) -> bool {
        self.omitted_bytes() > 0
    }

    pub fn omitted_bytes(&self) -> u64 {
        self.total_bytes - self.head.len() as u64 - self.tail.len() as u64
    }

    /// The text, with a line that tells what was left out where it was. Bytes that aren't UTF-8 show
    /// as U+FFFD.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.is_truncated() {
            text.push_str(&format!("\n[... {} bytes left out ...]\n", self.omitted_bytes()));
        }
        text.push_str(&String::from_utf8_lossy(&self.tail));
        text
    }
}

/// Takes a stream in, holding at most 1.5 × its cap in memory.
#[derive(Debug)]
pub(crate) struct CappedBuffer {
    half: usize,
    head: Vec<u8>,
    tail: Vec<u8>,
    total_bytes: u64,
}

impl CappedBuffer {
    pub(crate) fn new(cap: usize) -> Self {
        Self { half: cap / 2, head: Vec::new(), tail: Vec::new(), total_bytes: 0 }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.total_bytes += bytes.len() as u64;
        let room = self.half - self.head.len();
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        // Only the last `half` bytes of the rest can ever be kept.
        self.tail.extend_from_slice(&rest[rest.len().saturating_sub(self.half)..]);
        // Trimmed in large steps, so that small writes don't move the tail each time.
        if self.tail.len() > 2 * self.half {
            self.tail.drain(..self.tail.len() - self.half);
        }
    }

    pub(crate) fn finish(mut self) -> Capped {
        let surplus = self.tail.len().saturating_sub(self.half);
        self.tail.drain(..surplus);
        if (self.head.len() + self.tail.len()) as u64 == self.total_bytes {
            self.head.append(&mut self.tail);
        }
        Capped { head: self.head.into(), tail: self.tail.into(), total_bytes: self.total_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(cap: usize, pieces: &[&[u8]]) -> Capped {
        let mut buffer = CappedBuffer::new(cap);
        for piece in pieces {
            buffer.push(piece);
        }
        buffer.finish()
    }

    #[test]
    fn a_stream_within_its_cap_is_whole() {
        let whole = kept(8, &[b"abc", b"", b"defgh"]);
        assert_eq!(&whole.head[..], b"abcdefgh");
        assert!(!whole.is_truncated());
        assert_eq!(whole.text(), "abcdefgh");
    }

    #[test]
    fn a_stream_over_its_cap_keeps_both_ends_and_tells() {
        let cut = kept(4, &[b"abc", b"defghij", b"k", b"l"]);
        assert_eq!((&cut.head[..], &cut.tail[..]), (&b"ab"[..], &b"kl"[..]));
        assert_eq!(cut.omitted_bytes(), 8);
        assert_eq!(cut.text(), "ab\n[... 8 bytes left out ...]\nkl");
    }

    #[test]
    fn many_small_writes_keep_the_same_as_one_large_one() {
        let data: Vec<u8> = (0..1000u32).map(|n| (n % 251) as u8).collect();
        let pieces: Vec<&[u8]> = data.chunks(7).collect();
        assert_eq!(kept(100, &pieces), kept(100, &[&data]));
    }

    #[test]
    fn a_cap_of_nothing_keeps_nothing() {
        let nothing = kept(0, &[b"abc"]);
        assert_eq!(nothing.omitted_bytes(), 3);
        assert!(nothing.head.is_empty() && nothing.tail.is_empty());
    }
}
