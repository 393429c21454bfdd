//! Zips of records, made by hand.

use std::io::Write as _;
use std::path::Path;

use chrono::{DateTime, TimeZone as _, Utc};

pub fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2025, 10, 4, 0, 0, 0).unwrap()
}

/// A CRITICAL of `demo` below a version.
pub fn record(id: &str, ecosystem: &str, fixed: &str) -> String {
    format!(
        r#"{{"id": "{id}", "modified": "2025-10-0{}T00:00:00Z", "database_specific": {{"severity": "CRITICAL"}},
            "affected": [{{"package": {{"ecosystem": "{ecosystem}", "name": "demo"}},
              "ranges": [{{"type": "ECOSYSTEM", "events": [{{"introduced": "0"}}, {{"fixed": "{fixed}"}}]}}]}}]}}"#,
        1 + id.len() % 3
    )
}

pub fn zip(records: &[(&str, &str)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (name, text) in records {
        zip.start_file(*name, options).unwrap();
        zip.write_all(text.as_bytes()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

pub fn write(folder: &Path, ecosystem: &str, bytes: &[u8]) {
    std::fs::create_dir_all(folder.join(ecosystem)).unwrap();
    std::fs::write(folder.join(ecosystem).join("all.zip"), bytes).unwrap();
}
