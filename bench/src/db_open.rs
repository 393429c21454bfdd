//! The advisory database: made of a real export of osv.dev, and opened.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, ensure};
use chrono::Utc;
use mecapy_advisories::{Database, Installed, Scheme, import, replace};

use crate::report::{Report, percentile};

const IMPORTS: usize = 5;
const OPENS: usize = 200;
pub const MISSING: &str = "there is no export of OSV's PyPI records: name one with OSV_EXPORT";

/// An export zip of PyPI's records: `OSV_EXPORT`, or beside the checkout.
pub fn export() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/osv/PyPI/all.zip");
    let path = std::env::var_os("OSV_EXPORT").map_or_else(|| beside.into(), PathBuf::from);
    path.is_file().then_some(path)
}

pub async fn measure() -> Result<Report> {
    let mut report = Report::new("db-open", OPENS);
    let Some(export) = export() else {
        report.not_measured("ours_p50_ms", MISSING);
        report.not_measured("ours_import_ms", MISSING);
        return Ok(report);
    };
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("advisories.db");
    let mut imports = Vec::new();
    for _ in 0..IMPORTS {
        let began = Instant::now();
        let made = import(std::slice::from_ref(&export), vec!["export".to_owned()], Utc::now())?;
        replace(&path, &made, true)?;
        imports.push(began.elapsed());
    }
    // Open, and an answer: what is ready can be asked.
    let installed = Installed::new(Scheme::Pep440, "1.0");
    let mut opens = Vec::new();
    let (mut records, mut hits) = (0, 0);
    for _ in 0..OPENS {
        let began = Instant::now();
        let database = Database::open(&path)?;
        hits = database.hits("PyPI", "django", &installed)?.len();
        opens.push(began.elapsed());
        records = database.info().records;
    }
    ensure!(records > 0 && hits > 0, "{records} records, {hits} hits");
    report.durations("ours", &opens);
    report.measure("ours_import_ms", percentile(&imports, 50).as_secs_f64() * 1000.0);
    report.measure("records", records as f64);
    report.measure("file_mib", std::fs::metadata(&path)?.len() as f64 / f64::from(1 << 20));
    Ok(report)
}
