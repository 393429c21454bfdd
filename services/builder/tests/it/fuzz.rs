//! The rules of the fuzzer on bytes of chance, and on its seeds, broken: what `make fuzz` does with coverage for a
//! guide, for a few seconds.

use std::path::Path;

use proptest::prelude::*;

#[path = "../../../../fuzz/rules.rs"]
mod rules;

const CASES: u32 = 3_000;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let seeds: Vec<_> = files.map(|file| std::fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} holds no seed", folder.display());
    seeds
}

/// A seed with parts cut out, doubled and replaced; or bytes of chance.
fn bytes(target: &str) -> impl Strategy<Value = Vec<u8>> {
    let edit =
        (any::<prop::sample::Index>(), 0_usize..20, prop::collection::vec(any::<u8>(), 0..6));
    let edits = prop::collection::vec(edit, 0..6);
    let broken = (prop::sample::select(seeds(target)), edits).prop_map(|(mut seed, edits)| {
        for (at, length, new) in edits {
            let start = at.index(seed.len() + 1);
            let end = (start + length).min(seed.len());
            seed.splice(start..end, new);
        }
        seed
    });
    prop_oneof![4 => broken, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

fn hold(target: &str, rule: fn(&[u8])) {
    for seed in seeds(target) {
        rule(&seed);
    }
    let config =
        ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(bytes in bytes(target))| rule(&bytes));
}

#[test]
fn requirements_of_any_bytes() {
    hold("requirements", rules::requirements);
}

#[test]
fn sources_of_any_bytes() {
    hold("source", rules::source);
}

#[test]
fn requests_of_any_bytes() {
    hold("build_requested", rules::build_requested);
}
