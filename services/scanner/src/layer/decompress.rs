//! A layer's bytes as tar, whatever it is compressed with.

use std::io::{BufRead, BufReader, Cursor, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

use crate::Error;

const BUFFER_BYTES: usize = 128 << 10;
/// The most memory that a zstd stream may ask for, as a power of two: 64 MiB. Image builders ask for 8 MiB at most.
const ZSTD_WINDOW_LOG: u32 = 26;

/// Goes by the first bytes: a media type is only what someone said.
pub fn decompress<'a>(mut source: impl Read + 'a) -> Result<Box<dyn BufRead + 'a>, Error> {
    let mut start = [0; 4];
    let mut filled = 0;
    while filled < start.len() {
        match source.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let whole = Cursor::new(start).take(filled as u64).chain(source);
    let whole = BufReader::with_capacity(BUFFER_BYTES, whole);
    Ok(match start {
        [0x1f, 0x8b, ..] => {
            Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(whole)))
        }
        // A frame, or one of those that may be skipped and stand before the first.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder))
        }
        _ => Box::new(whole),
    })
}
