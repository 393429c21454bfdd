//! Connections to the relay, as frames on its two streams.
//!
//! What goes in is bounded by a window for each connection: the relay says how much it has passed on, so that a slow
//! reader stops its own connection and no other. What comes out are requests; more of them than the index takes in
//! break their connection.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use mecapy_engine::{CompanionInput, CompanionOutput};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Semaphore, mpsc};

/// Bytes on their way to one connection.
const WINDOW: usize = 256 << 10;
/// Longest piece of data in either direction.
const MAX_DATA: usize = 64 << 10;
const HEAD_BYTES: usize = 9;
/// Pieces that wait to be sent on.
const MAX_WAITING: usize = 64;
/// Of the one step that a relay serves. uv opens some fifty at once.
pub const MAX_CONNECTIONS: usize = 128;
/// A container with Python is up in a fraction of it.
const READY_WITHIN: Duration = Duration::from_secs(60);

const READY: u8 = b'r';
const OPENED: u8 = b'o';
const DATA: u8 = b'd';
const END: u8 = b'e';
const ABORT: u8 = b'a';
const TAKEN: u8 = b't';

/// What comes from a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    Data(Bytes),
    /// It has sent all that it will.
    End,
}

/// One connection. Dropping it before [`Down::finish`] breaks it.
#[derive(Debug)]
pub struct Connection {
    /// Ends without [`Sent::End`] when it is broken.
    pub up: mpsc::Receiver<Sent>,
    pub down: Down,
}

/// What becomes of a client that comes.
#[derive(Debug)]
pub enum Opened {
    Connection(Connection),
    /// It is one more than there may be at once: it can be told so, and is not listened to.
    TooMany(Down),
}

/// The way to the client.
#[derive(Debug)]
pub struct Down {
    number: u32,
    frames: mpsc::UnboundedSender<Bytes>,
    window: Arc<Semaphore>,
    is_finished: bool,
}

impl Down {
    /// Waits until there is room for it. False: the connection is broken.
    pub async fn send(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_DATA));
            // Lossless: at most MAX_DATA.
            let Ok(room) = self.window.acquire_many(piece.len() as u32).await else { return false };
            room.forget();
            if self.frames.send(frame(DATA, self.number, &piece)).is_err() {
                return false;
            }
        }
        true
    }

    /// Nothing comes after it.
    pub fn finish(mut self) {
        self.is_finished = true;
        let _ = self.frames.send(frame(END, self.number, &[]));
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        if !self.is_finished {
            let _ = self.frames.send(frame(ABORT, self.number, &[]));
        }
    }
}

/// The relay's two streams.
pub struct Tunnel {
    output: CompanionOutput,
    input: CompanionInput,
    decoder: Decoder,
}

impl Tunnel {
    /// Waits until the relay is ready. `Err`: why it is not.
    pub async fn open(output: CompanionOutput, input: CompanionInput) -> Result<Self, String> {
        let mut tunnel = Self { output, input, decoder: Decoder::default() };
        match tokio::time::timeout(READY_WITHIN, tunnel.frame()).await {
            Ok(Ok(Frame { kind: READY, .. })) => Ok(tunnel),
            Ok(Ok(_)) => Err("its relay said something else than that it is ready".to_owned()),
            Ok(Err(end)) => Err(format!("its relay did not start: {end}")),
            Err(_) => Err(format!("its relay was not ready within {READY_WITHIN:?}")),
        }
    }

    /// Hands every connection to `accept`, until the relay ends. Why it did.
    pub async fn serve<F: Future<Output = ()> + Send + 'static>(
        mut self,
        accept: impl Fn(Opened) -> F,
    ) -> String {
        let (frames, mut waiting) = mpsc::unbounded_channel::<Bytes>();
        let mut input = std::mem::replace(&mut self.input, Box::pin(tokio::io::sink()));
        let write = async move {
            while let Some(frame) = waiting.recv().await {
                if let Err(error) = input.write_all(&frame).await {
                    return error.to_string();
                }
            }
            String::new()
        };
        let mut open: HashMap<u32, (mpsc::Sender<Sent>, Arc<Semaphore>)> = HashMap::new();
        let read = async {
            loop {
                let Frame { kind, number, data } = match self.frame().await {
                    Ok(frame) => frame,
                    Err(end) => return end,
                };
                match kind {
                    OPENED => {
                        let window = Arc::new(Semaphore::new(WINDOW));
                        let down = Down {
                            number,
                            frames: frames.clone(),
                            window: Arc::clone(&window),
                            is_finished: false,
                        };
                        let opened = if open.len() < MAX_CONNECTIONS {
                            let (sender, up) = mpsc::channel(MAX_WAITING);
                            open.insert(number, (sender, window));
                            Opened::Connection(Connection { up, down })
                        } else {
                            Opened::TooMany(down)
                        };
                        tokio::spawn(accept(opened));
                    }
                    DATA => {
                        let is_taken = open
                            .get(&number)
                            .is_none_or(|(up, _)| up.try_send(Sent::Data(data)).is_ok());
                        if !is_taken {
                            close(&mut open, number);
                        }
                    }
                    END => {
                        // The way back stays open.
                        let is_taken =
                            open.get(&number).is_none_or(|(up, _)| up.try_send(Sent::End).is_ok());
                        if !is_taken {
                            close(&mut open, number);
                        }
                    }
                    ABORT => close(&mut open, number),
                    TAKEN => {
                        let Ok(count) = data.as_ref().try_into().map(u32::from_be_bytes) else {
                            return "its relay sent a count that is none".to_owned();
                        };
                        if let Some((_, window)) = open.get(&number)
                            && window.available_permits() + count as usize <= WINDOW
                        {
                            window.add_permits(count as usize);
                        }
                    }
                    other => return format!("its relay sent a frame of kind {other}"),
                }
                open.retain(|_, (up, _)| !up.is_closed());
            }
        };
        tokio::select! {
            end = write => end,
            end = read => end,
        }
    }

    async fn frame(&mut self) -> Result<Frame, String> {
        loop {
            if let Some(frame) = self.decoder.next()? {
                return Ok(frame);
            }
            match self.output.next().await {
                Some(bytes) => self.decoder.push(&bytes),
                None => return Err("its relay has ended".to_owned()),
            }
        }
    }
}

fn close(open: &mut HashMap<u32, (mpsc::Sender<Sent>, Arc<Semaphore>)>, number: u32) {
    if let Some((_, window)) = open.remove(&number) {
        window.close();
    }
}

fn frame(kind: u8, number: u32, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + data.len());
    frame.put_u8(kind);
    frame.put_u32(number);
    // Lossless: at most MAX_DATA.
    frame.put_u32(data.len() as u32);
    frame.put_slice(data);
    frame.freeze()
}

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    number: u32,
    data: Bytes,
}

/// Bytes to frames.
#[derive(Debug, Default)]
struct Decoder(BytesMut);

impl Decoder {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn next(&mut self) -> Result<Option<Frame>, String> {
        let Some((head, rest)) = self.0.split_at_checked(HEAD_BYTES) else { return Ok(None) };
        let (mut head, held) = (head, rest.len());
        let (kind, number, length) = (head.get_u8(), head.get_u32(), head.get_u32() as usize);
        if length > MAX_DATA {
            return Err(format!("its relay sent a frame of {length} bytes"));
        }
        if held < length {
            return Ok(None);
        }
        self.0.advance(HEAD_BYTES);
        Ok(Some(Frame { kind, number, data: self.0.split_to(length).freeze() }))
    }
}

/// A connection whose client has said all, and the frames that go to it.
#[cfg(test)]
pub fn connection_of_a_test() -> (Connection, mpsc::UnboundedReceiver<Bytes>) {
    let (frames, sent) = mpsc::unbounded_channel();
    let (sender, up) = mpsc::channel(1);
    let _ = sender.try_send(Sent::End);
    let window = Arc::new(Semaphore::new(WINDOW));
    (Connection { up, down: Down { number: 1, frames, window, is_finished: false } }, sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_however_they_are_cut() {
        let bytes = [frame(OPENED, 7, &[]), frame(DATA, 7, b"hello"), frame(END, 7, &[])].concat();
        for size in 1..bytes.len() {
            let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(frame) = decoder.next().unwrap() {
                    frames.push((frame.kind, frame.data));
                }
            }
            let expected = [(OPENED, Bytes::new()), (DATA, "hello".into()), (END, Bytes::new())];
            assert_eq!(frames, expected, "{size}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_ends_the_tunnel() {
        let mut decoder = Decoder::default();
        decoder.push(&[DATA, 0, 0, 0, 1, 0xff, 0, 0, 0]);
        assert!(decoder.next().is_err());
    }

    /// A tunnel whose far end is the test.
    async fn tunnel() -> (Tunnel, mpsc::UnboundedSender<Bytes>, tokio::io::DuplexStream) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let output = futures::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|bytes| (bytes, receiver))
        });
        let (input, far_end) = tokio::io::duplex(4 << 20);
        sender.send(frame(READY, 0, &[])).unwrap();
        let tunnel = Tunnel::open(Box::pin(output), Box::pin(input)).await.unwrap();
        (tunnel, sender, far_end)
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_stops_its_own_connection_and_no_other() {
        use tokio::io::AsyncReadExt as _;
        let (tunnel, relay, mut far_end) = tunnel().await;
        let (connections, mut accepted) = mpsc::unbounded_channel();
        tokio::spawn(tunnel.serve(move |opened| {
            if let Opened::Connection(connection) = opened {
                let _ = connections.send(connection);
            }
            std::future::ready(())
        }));
        relay.send(frame(OPENED, 1, &[])).unwrap();
        relay.send(frame(OPENED, 2, &[])).unwrap();
        let Connection { mut up, down } = accepted.recv().await.unwrap();
        let other = accepted.recv().await.unwrap();
        let whole = Bytes::from(vec![1; WINDOW]);
        assert!(down.send(whole.clone()).await);
        let mut more = std::pin::pin!(down.send(Bytes::from_static(b"x")));
        assert!(futures::poll!(&mut more).is_pending(), "the window is full");
        assert!(other.down.send(Bytes::from_static(b"y")).await);

        // It has taken something.
        relay.send(frame(TAKEN, 1, &10_u32.to_be_bytes())).unwrap();
        assert!(more.await);
        // All went out, in order for each.
        let mut sent = vec![0; WINDOW + 4 * HEAD_BYTES + 2 + 2 * HEAD_BYTES];
        far_end.read_exact(&mut sent).await.unwrap();

        // It breaks: whoever sends to it is told.
        relay.send(frame(ABORT, 1, &[])).unwrap();
        assert_eq!(up.recv().await, None);
        assert!(!down.send(whole.clone()).await || !down.send(whole).await);
    }

    #[tokio::test]
    async fn one_connection_more_than_there_may_be_is_told_so_and_one_less_makes_room() {
        use tokio::io::AsyncReadExt as _;
        let (tunnel, relay, mut far_end) = tunnel().await;
        let (sender, mut opened) = mpsc::unbounded_channel();
        tokio::spawn(tunnel.serve(move |opened| {
            let _ = sender.send(opened);
            std::future::ready(())
        }));
        let last = MAX_CONNECTIONS as u32;
        let mut held = Vec::new();
        for number in 0..last {
            relay.send(frame(OPENED, number, &[])).unwrap();
            let Some(Opened::Connection(connection)) = opened.recv().await else {
                panic!("{number}")
            };
            held.push(connection);
        }
        relay.send(frame(OPENED, last, &[])).unwrap();
        let Some(Opened::TooMany(down)) = opened.recv().await else { panic!("it was let in") };
        assert!(down.send(Bytes::from_static(b"no")).await);
        down.finish();
        let mut told = vec![0; 2 * HEAD_BYTES + 2];
        far_end.read_exact(&mut told).await.unwrap();
        assert_eq!(told, [frame(DATA, last, b"no"), frame(END, last, &[])].concat());

        held.pop();
        relay.send(frame(ABORT, last - 1, &[])).unwrap();
        relay.send(frame(OPENED, last + 1, &[])).unwrap();
        assert!(matches!(opened.recv().await, Some(Opened::Connection(_))));
    }
}
