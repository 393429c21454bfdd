//! What operators look at, as files say it: the metrics of each crate, the dashboards, the rules.
//!
//! Read here, and compared with each other and with what the running system says, in `tests/it`.

mod dashboards;
mod definitions;
mod promql;
mod rules;

use std::path::{Path, PathBuf};

pub use dashboards::{Dashboard, Panel, dashboards};
pub use definitions::{Definition, Kind, definitions, documentation, strays};
pub use promql::{Query, Selector};
pub use rules::{Alert, Case, Rules, cases, rules};

/// Where the workspace begins.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap_or(root)
}

/// The services, by their folders.
pub fn services() -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root().join("services"))? {
        let entry = entry?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The files of a folder with this ending, in order of their names.
fn files(folder: &Path, ending: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
