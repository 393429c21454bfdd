//! What the runner in the container writes to its stdout: frames of one byte kind, four bytes
//! big-endian length, payload.
//!
//! | kind | payload |
//! |---|---|
//! | `s` | a parked container begins: the SHA-256 of the code as it sees it, in hex |
//! | `o`, `e` | bytes of the function's stdout, stderr |
//! | `x` | how the function ended: its exit code in decimal, negative for a signal |
//! | `r` | the result, the bytes of `/output.json` |
//! | `p` | why there is no result: `output-missing`, `output-too-large`, `output-not-a-file` |
//!
//! The function can write to this stream too (same user, same container), so a frame proves nothing
//! beyond "somebody in there says so": all it can spoil is its own task. Nothing is believed about
//! lengths: payloads are taken as they come, within caps.

use bytes::Bytes;

use crate::OutputSink;
use crate::capped::{Capped, CappedBuffer};

/// Why a run has no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputProblem {
    #[error("the function wrote no /output.json")]
    Missing,
    #[error("/output.json is larger than {limit_bytes} bytes")]
    TooLarge { limit_bytes: usize },
    #[error("/output.json is not a regular file")]
    NotAFile,
    /// The container ended before its runner told of a result: killed, out of memory, or no runner
    /// in the image.
    #[error("the container ended before it told of a result")]
    Unreported,
    /// The stream is not that of a runner.
    #[error("the container's stdout is not what a runner writes")]
    Garbled,
}

/// The largest payload of the two kinds that are words: nothing true is longer.
const WORD_BYTES: usize = 64;
pub(crate) const HEADER_BYTES: usize = 5;

/// Everything that the frames told.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) stdout: Capped,
    pub(crate) stderr: Capped,
    /// As the runner reported it: negative for a signal.
    pub(crate) exit: Option<i32>,
    /// The code with which a parked container began.
    pub(crate) began_with: Option<String>,
    pub(crate) output: Result<Bytes, OutputProblem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stdout,
    Stderr,
    Began,
    Exit,
    Result,
    Problem,
}

/// Takes the stream in as it comes.
#[derive(Debug)]
pub(crate) struct Frames {
    stdout: CappedBuffer,
    stderr: CappedBuffer,
    /// Sees both streams as they come.
    live: Option<OutputSink>,
    output_limit: usize,
    header: Vec<u8>,
    /// The frame that is being read, and how much of its payload is to come.
    current: Option<(Kind, usize)>,
    word: Vec<u8>,
    result: Vec<u8>,
    exit: Option<i32>,
    began_with: Option<String>,
    output: Option<Result<Bytes, OutputProblem>>,
    garbled: bool,
}

impl Frames {
    pub(crate) fn new(stdout_cap: usize, stderr_cap: usize, output_limit: usize) -> Self {
        Self {
            stdout: CappedBuffer::new(stdout_cap),
            stderr: CappedBuffer::new(stderr_cap),
            live: None,
            output_limit,
            header: Vec::with_capacity(HEADER_BYTES),
            current: None,
            word: Vec::new(),
            result: Vec::new(),
            exit: None,
            began_with: None,
            output: None,
            garbled: false,
        }
    }

    pub(crate) fn with_live(self, live: Option<OutputSink>) -> Self {
        Self { live, ..self }
    }

    /// What the container wrote to its own stderr: a runner that broke, or an image without one.
    pub(crate) fn push_raw_stderr(&mut self, bytes: &[u8]) {
        self.stderr.push(bytes);
    }

    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.garbled {
            match self.current {
                None => {
                    let wanted = (HEADER_BYTES - self.header.len()).min(bytes.len());
                    self.header.extend_from_slice(&bytes[..wanted]);
                    bytes = &bytes[wanted..];
                    self.begin_if_whole();
                }
                Some((kind, left)) => {
                    let (payload, rest) = bytes.split_at(left.min(bytes.len()));
                    bytes = rest;
                    self.take(kind, payload);
                    self.current = Some((kind, left - payload.len()));
                    self.end_if_whole();
                }
            }
        }
    }

    /// Whether all is told that there is to tell, and it went well.
    pub(crate) fn tell_of_success(&self) -> bool {
        self.exit == Some(0) && self.output.is_some() && !self.garbled
    }

    /// Whether nothing more is to come, well or not.
    pub(crate) fn are_over(&self) -> bool {
        self.output.is_some() || self.garbled
    }

    pub(crate) fn finish(self) -> Report {
        let output = match self.output {
            _ if self.garbled => Err(OutputProblem::Garbled),
            Some(output) => output,
            None => Err(OutputProblem::Unreported),
        };
        Report {
            stdout: self.stdout.finish(),
            stderr: self.stderr.finish(),
            exit: self.exit,
            began_with: self.began_with,
            output,
        }
    }

    fn begin_if_whole(&mut self) {
        let Ok([kind, length @ ..]) = <[u8; HEADER_BYTES]>::try_from(self.header.as_slice()) else {
            return;
        };
        self.header.clear();
        let kind = match kind {
            b'o' => Kind::Stdout,
            b'e' => Kind::Stderr,
            b's' => Kind::Began,
            b'x' => Kind::Exit,
            b'r' => Kind::Result,
            b'p' => Kind::Problem,
            _ => {
                self.garbled = true;
                return;
            }
        };
        self.word.clear();
        self.result.clear();
        self.current = Some((kind, u32::from_be_bytes(length) as usize));
        self.end_if_whole();
    }

    fn take(&mut self, kind: Kind, payload: &[u8]) {
        if let (Kind::Stdout | Kind::Stderr, Some(live)) = (kind, &self.live) {
            live.send(payload);
        }
        match kind {
            Kind::Stdout => self.stdout.push(payload),
            Kind::Stderr => self.stderr.push(payload),
            Kind::Began | Kind::Exit | Kind::Problem => {
                let room = WORD_BYTES.saturating_sub(self.word.len());
                self.word.extend_from_slice(&payload[..room.min(payload.len())]);
            }
            Kind::Result => {
                // One byte over the limit is enough to know.
                let room = (self.output_limit + 1).saturating_sub(self.result.len());
                self.result.extend_from_slice(&payload[..room.min(payload.len())]);
            }
        }
    }

    fn end_if_whole(&mut self) {
        let Some((kind, 0)) = self.current else { return };
        self.current = None;
        match kind {
            Kind::Stdout | Kind::Stderr => {}
            Kind::Began => {
                // The first counts: a later one is the function's.
                let word = String::from_utf8_lossy(&self.word).into_owned();
                self.began_with.get_or_insert(word);
            }
            Kind::Exit => match std::str::from_utf8(&self.word).ok().and_then(|w| w.parse().ok()) {
                Some(exit) => self.exit = Some(exit),
                None => self.garbled = true,
            },
            Kind::Result => {
                self.output = Some(if self.result.len() > self.output_limit {
                    Err(OutputProblem::TooLarge { limit_bytes: self.output_limit })
                } else {
                    Ok(std::mem::take(&mut self.result).into())
                });
            }
            Kind::Problem => {
                self.output = Some(Err(match self.word.as_slice() {
                    b"output-missing" => OutputProblem::Missing,
                    b"output-too-large" => {
                        OutputProblem::TooLarge { limit_bytes: self.output_limit }
                    }
                    b"output-not-a-file" => OutputProblem::NotAFile,
                    _ => OutputProblem::Garbled,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![kind];
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    fn report(pieces: &[&[u8]]) -> Report {
        let mut frames = Frames::new(100, 100, 10);
        for piece in pieces {
            frames.push(piece);
        }
        frames.finish()
    }

    #[test]
    fn frames_are_read_the_same_however_the_stream_is_cut() {
        let stream = [
            frame(b'o', b"out"),
            frame(b'e', b""),
            frame(b'e', b"err"),
            frame(b'o', b"put"),
            frame(b'x', b"-9"),
            frame(b'r', b"{\"a\":1}"),
        ]
        .concat();
        for size in 1..=stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            let report = report(&pieces);
            assert_eq!(&report.stdout.head[..], b"output");
            assert_eq!(&report.stderr.head[..], b"err");
            assert_eq!(report.exit, Some(-9));
            assert_eq!(report.output.unwrap(), "{\"a\":1}");
        }
    }

    #[test]
    fn an_empty_result_is_a_result() {
        assert_eq!(report(&[&frame(b'r', b"")]).output.unwrap(), "");
    }

    #[test]
    fn problems_are_told_by_their_word() {
        let of = |word: &[u8]| report(&[&frame(b'p', word)]).output.unwrap_err();
        assert_eq!(of(b"output-missing"), OutputProblem::Missing);
        assert_eq!(of(b"output-too-large"), OutputProblem::TooLarge { limit_bytes: 10 });
        assert_eq!(of(b"output-not-a-file"), OutputProblem::NotAFile);
        assert_eq!(of(b"something else"), OutputProblem::Garbled);
    }

    #[test]
    fn a_result_over_the_limit_is_a_problem_and_is_not_held_in_memory() {
        let mut frames = Frames::new(0, 0, 10);
        frames.push(&[b'r', 0xff, 0xff, 0xff, 0xff]);
        for _ in 0..1000 {
            frames.push(&[b'x'; 1000]);
        }
        assert!(frames.result.len() <= 11);
        assert_eq!(frames.finish().output.unwrap_err(), OutputProblem::Unreported);
        let eleven = frame(b'r', &[b'1'; 11]);
        let output = report(&[&eleven]).output;
        assert_eq!(output.unwrap_err(), OutputProblem::TooLarge { limit_bytes: 10 });
    }

    #[test]
    fn what_is_not_a_runners_stream_is_garbled_and_the_rest_is_ignored() {
        for stream in [&b"Hello, world"[..], &frame(b'x', b"zero")] {
            let later = [stream, &frame(b'r', b"1")].concat();
            assert_eq!(report(&[&later]).output.unwrap_err(), OutputProblem::Garbled);
        }
    }

    #[test]
    fn a_stream_that_ends_early_reports_no_result() {
        let cut = &frame(b'r', b"{}")[..6];
        let report = report(&[&frame(b'o', b"said"), cut]);
        assert_eq!(&report.stdout.head[..], b"said");
        assert_eq!((report.exit, report.output), (None, Err(OutputProblem::Unreported)));
    }
}
