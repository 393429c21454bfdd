//! Names that no other test has.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// A short name that nobody else has, such as `build-4fz81kq0x`: lower-case letters,
/// digits and a dash, so that it fits a bucket, a repository, a stream and a container.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", letters(random()))
}

/// A number from the system's randomness, another one each call.
pub(crate) fn random() -> u64 {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
    hasher.write_u32(std::process::id());
    hasher.finish()
}

/// Nine letters and digits: 46 bits, enough for names that live for minutes.
fn letters(mut number: u64) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..9)
        .map(|_| {
            let letter = ALPHABET[(number % 36) as usize];
            number /= 36;
            char::from(letter)
        })
        .collect()
}
