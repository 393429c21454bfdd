//! The hash by which two submissions are known to be the same function.

use sha2::{Digest as _, Sha256};

/// SHA-256 over all that the user gives, as hex: what a version's `inputs_sha256` holds and the tag of its image
/// begins with. Each part is preceded by its length, so that no two inputs read the same.
pub fn inputs_sha256(code: &[u8], requirements: &str, python: &str, variant: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [code, requirements.as_bytes(), python.as_bytes(), variant.as_bytes()] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::inputs_sha256;

    #[test]
    fn the_hash_of_the_inputs_stays_what_it_is() {
        // It is in rows and tags: another way to compute it would make every version a new one.
        assert_eq!(
            inputs_sha256(b"print(1)\n", "numpy\n", "3.11", "slim"),
            "a8ee74de66717650cdda42d5f0ad98f6b53b4e305a71f5826acacbc0182da6af"
        );
    }

    #[test]
    fn the_hash_changes_with_each_input_and_with_where_it_ends() {
        let hash = inputs_sha256(b"print(1)", "numpy", "3.11", "slim");
        for other in [
            inputs_sha256(b"print(2)", "numpy", "3.11", "slim"),
            inputs_sha256(b"print(1)", "", "3.11", "slim"),
            inputs_sha256(b"print(1)", "numpy", "3.12", "slim"),
            inputs_sha256(b"print(1)", "numpy", "3.11", "numpy"),
            inputs_sha256(b"print(1)n", "umpy", "3.11", "slim"),
        ] {
            assert_ne!(hash, other);
        }
    }
}
