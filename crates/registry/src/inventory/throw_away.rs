//! How one tag of several is removed from a registry that deletes by digest alone: a manifest that nobody else has is
//! put on the tag, and that one is deleted. Whoever is killed in between leaves it on the tag, marked.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use chrono::Utc;
use serde::{Deserialize, Serialize};

use crate::manifest::media_types::OCI_INDEX;
use crate::{Digest, Manifest};

/// The annotation that marks it. Its value is the digest that the tag led to.
pub(crate) const MARK: &str = "org.mecapy.throw-away";
const NONCE: &str = "org.mecapy.throw-away.nonce";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EmptyIndex<'a> {
    schema_version: u8,
    media_type: &'a str,
    manifests: [(); 0],
    annotations: BTreeMap<&'a str, String>,
}

/// An index of nothing, so that it needs no blob; no two are alike.
pub(super) fn make(
    repository: &str,
    tag: &str,
    of: &Digest,
) -> Result<Manifest, serde_json::Error> {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let nonce = format!(
        "{repository}:{tag} {} {} {}",
        Utc::now().timestamp_nanos_opt().unwrap_or_default(),
        std::process::id(),
        MADE.fetch_add(1, Ordering::Relaxed),
    );
    let raw = serde_json::to_vec(&EmptyIndex {
        schema_version: 2,
        media_type: OCI_INDEX,
        manifests: [],
        annotations: BTreeMap::from([(MARK, of.to_string()), (NONCE, nonce)]),
    })?;
    Ok(Manifest::new(raw.into(), OCI_INDEX))
}

pub(super) fn is_one(manifest: &Manifest) -> bool {
    #[derive(Deserialize)]
    struct Marked {
        manifests: Vec<serde::de::IgnoredAny>,
        annotations: BTreeMap<String, String>,
    }
    manifest.media_type == OCI_INDEX
        && serde_json::from_slice::<Marked>(&manifest.raw)
            .is_ok_and(|index| index.manifests.is_empty() && index.annotations.contains_key(MARK))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_alike_and_each_is_known_again() {
        let of = Digest::of(b"image");
        let (one, two) = (make("a", "v1", &of).unwrap(), make("a", "v1", &of).unwrap());
        assert_ne!(one.digest, two.digest);
        assert!(is_one(&one) && is_one(&two));
        assert!(one.parse().is_ok());
    }

    #[test]
    fn nothing_else_is_taken_for_one() {
        let index = |json: &str| Manifest::new(json.to_owned().into(), OCI_INDEX);
        assert!(!is_one(&index(r#"{"schemaVersion":2,"manifests":[]}"#)));
        let annotated = format!(r#"{{"manifests":[{{}}],"annotations":{{"{MARK}":"x"}}}}"#);
        assert!(!is_one(&index(&annotated)), "it holds something");
    }
}
