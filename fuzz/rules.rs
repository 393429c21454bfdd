//! What holds for any bytes. Each is a target of the fuzzer, and the tests of the builder run them on random and
//! broken bytes too (services/builder/tests/it/fuzz.rs).

#![allow(dead_code, reason = "a target takes one of them")]

use mecapy_builder::requirements::Requirements;
use mecapy_builder::validation::{Rules, check};
use mecapy_proto::Event;
use mecapy_proto::v1::BuildRequested;
use ruff_python_ast::PythonVersion;

/// What is taken of requirements is written as plain requirements, and means the same when it is read again.
pub fn requirements(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(taken) = Requirements::parse(text, 50) else { return };
    let written = taken.render();
    assert_eq!(written.lines().count(), taken.len(), "{text:?}");
    for line in written.lines() {
        let is_plain = line.starts_with(|c: char| c.is_ascii_alphanumeric())
            && line.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            && !line.contains(['$', '@', '#', '\\', '/', '`'])
            && !line.contains(" -");
        assert!(is_plain, "{line:?} comes of {text:?}");
    }
    assert_eq!(Requirements::parse(&written, 50).map(|again| again.render()), Ok(written));
}

/// Any source gets a verdict, under the oldest and the newest Python, and a refusal says why.
pub fn source(bytes: &[u8]) {
    for python in [PythonVersion::PY39, PythonVersion::PY311, PythonVersion::PY314] {
        if let Err(refused) = check(bytes, python, &Rules::default()) {
            assert!(!refused.message.is_empty());
            assert!(!refused.message.contains("gave up"), "{}", refused.message);
        }
    }
}

/// What can be read as a request means the same when it is written and read again, in both forms.
pub fn build_requested(bytes: &[u8]) {
    if let Some(request) = read::<BuildRequested>(bytes) {
        assert_eq!(read(&written(&request)).as_ref(), Some(&request));
        if !has_a_form_in_json(&request) {
            return;
        }
        let Ok(json) = serde_json::to_vec(&request) else { return };
        assert_eq!(serde_json::from_slice::<BuildRequested>(&json).ok(), Some(request));
    }
    if let Ok(request) = serde_json::from_slice::<BuildRequested>(bytes) {
        assert_eq!(read(&written(&request)), Some(request));
    }
}

/// JSON has times of the years 1 to 9999 alone. What is beyond is written in it, and not read again.
fn has_a_form_in_json(request: &BuildRequested) -> bool {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    request.requested_at.as_ref().is_none_or(|time| YEARS.contains(&time.seconds))
}

fn read<E: Event>(bytes: &[u8]) -> Option<E> {
    E::decode(bytes).ok()
}

fn written<E: Event>(event: &E) -> Vec<u8> {
    event.encode_to_vec()
}
