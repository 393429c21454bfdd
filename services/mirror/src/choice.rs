//! What a run copies. Pure: from rows and tags to images.

use std::collections::{BTreeMap, BTreeSet};

use mecapy_registry::{Digest, ImageRef};
use mecapy_store::mirror_choice::Candidate;
use mecapy_store::mirror_runs::NewImage;

/// Where base images are, on both registries.
pub const BASE_REPOSITORY: &str = "mecapy/base/python";

const LATEST: &str = "latest";

/// The images of functions. A candidate whose reference can't be read is left out: the store has never held one.
pub(crate) fn function_images(candidates: &[Candidate]) -> Vec<NewImage> {
    let images = candidates.iter().filter_map(|candidate| {
        let image: ImageRef = candidate.docker_image.parse().ok()?;
        let mut tags = candidate.tags.clone();
        tags.dedup();
        if candidate.is_current {
            tags.push(LATEST.to_owned());
        }
        Some(NewImage {
            repository: image.repository,
            digest: candidate.digest.clone(),
            tags,
            tasks: candidate.tasks,
            size_bytes: candidate.size_bytes,
            ended: None,
        })
    });
    images.collect()
}

/// The bases that these functions stand on, like `3.11-slim`.
pub(crate) fn bases(candidates: &[Candidate]) -> BTreeSet<String> {
    candidates.iter().flat_map(|candidate| candidate.bases.iter().cloned()).collect()
}

/// Whether a tag is of one of the bases: `3.11-slim` itself, or a dated `3.11-slim-…`.
pub(crate) fn is_of_base(tag: &str, bases: &BTreeSet<String>) -> bool {
    bases.iter().any(|base| match tag.strip_prefix(base.as_str()) {
        Some(rest) => rest.is_empty() || rest.starts_with('-'),
        None => false,
    })
}

/// Whether a tag of a base image leads to the newest, like `3.11-slim`; `3.11-slim-20261125-1a2b3c4d` does not.
pub(crate) fn is_moving(tag: &str) -> bool {
    tag.matches('-').count() == 1
}

/// Base images, each digest once, with all its tags.
pub(crate) fn base_images(tags: impl IntoIterator<Item = (String, Digest)>) -> Vec<NewImage> {
    let mut by_digest: BTreeMap<Digest, BTreeSet<String>> = BTreeMap::new();
    for (tag, digest) in tags {
        by_digest.entry(digest).or_default().insert(tag);
    }
    let images = by_digest.into_iter().map(|(digest, tags)| NewImage {
        repository: BASE_REPOSITORY.to_owned(),
        digest: digest.to_string(),
        tags: tags.into_iter().collect(),
        tasks: 0,
        size_bytes: 0,
        ended: None,
    });
    images.collect()
}

/// Whether an image belongs to the sample that is verified: always the same ones of a run, whoever copies them.
pub(crate) fn is_sampled(run: &str, digest: &str, percent: u32) -> bool {
    let hash = Digest::of(format!("{run}/{digest}").as_bytes());
    let first = hash.hex().get(..8).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    first.unwrap_or_default() % 100 < percent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(is_current: bool) -> Candidate {
        let digest = Digest::of(b"image");
        Candidate {
            digest: digest.to_string(),
            docker_image: format!("r.example/mecapy/functions/user-a-func-1:v2-x@{digest}"),
            tags: vec!["v1-x".into(), "v2-x".into()],
            is_current,
            tasks: 7,
            size_bytes: 5,
            bases: vec!["3.11-slim".into()],
        }
    }

    #[test]
    fn latest_comes_last_and_only_with_the_image_that_the_function_runs() {
        let images = function_images(&[candidate(true), candidate(false)]);
        assert_eq!(images[0].repository, "mecapy/functions/user-a-func-1");
        assert_eq!(images[0].tags, ["v1-x", "v2-x", "latest"]);
        assert_eq!(images[1].tags, ["v1-x", "v2-x"]);
    }

    #[test]
    fn the_tag_of_a_base_that_moves_is_told_from_those_that_stay() {
        assert!(is_moving("3.11-slim"));
        assert!(!is_moving("3.11-slim-20261125-1a2b3c4d"));
    }

    #[test]
    fn a_base_comes_with_its_dated_tags_and_not_with_its_neighbours() {
        let bases = BTreeSet::from(["3.1-slim".to_owned(), "3.11-numpy".to_owned()]);
        for (tag, is_of) in [
            ("3.1-slim", true),
            ("3.1-slim-2026-11-25", true),
            ("3.11-numpy", true),
            ("3.11-slim", false),
            ("3.1-slimmer", false),
            ("latest", false),
        ] {
            assert_eq!(is_of_base(tag, &bases), is_of, "{tag}");
        }
    }

    #[test]
    fn tags_of_one_digest_are_one_image() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let tags = [("a", one), ("b", two), ("c", one)].map(|(tag, to)| (tag.to_owned(), to));
        let images = base_images(tags);
        assert_eq!(images.len(), 2);
        let of_one = images.iter().find(|image| image.digest == one.to_string()).unwrap();
        assert_eq!(of_one.tags, ["a", "c"]);
    }

    proptest! {
        #[test]
        fn a_sample_is_none_some_or_all(run in "[a-z0-9-]{1,20}", digest in "[0-9a-f]{64}", percent in 0_u32..=100) {
            prop_assert!(!is_sampled(&run, &digest, 0));
            prop_assert!(is_sampled(&run, &digest, 100));
            if is_sampled(&run, &digest, percent) {
                prop_assert!(is_sampled(&run, &digest, 100.min(percent + 1)), "more percent, more images");
            }
        }
    }
}
