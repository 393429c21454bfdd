//! How fast a source is checked: the standard library of the Python of this machine, file by file, and one source of
//! 1 MB.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mecapy_builder::validation::{Rules, check};
use ruff_python_ast::PythonVersion;

use crate::report::{Report, percentile};

const RUNS: usize = 30;
const MB: usize = 1_000_000;

pub async fn measure() -> Result<Report> {
    let mut report = Report::new("validate", RUNS);
    let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
    let asked = std::process::Command::new("python3").args(["-I", "-c", ask]).output();
    let Some(library) = asked.ok().filter(|done| done.status.success()) else {
        for name in ["ours_mb_per_s", "ours_p50_ms_per_mb"] {
            report.not_measured(name, "there is no python3 whose standard library could be read");
        }
        return Ok(report);
    };
    let library = PathBuf::from(String::from_utf8(library.stdout)?.trim());
    // Nothing is forbidden that a file could hold: each is read to its end.
    let rules = Rules {
        max_code_bytes: usize::MAX,
        forbidden_imports: vec!["no_such_module".to_owned()],
        forbidden_calls: vec!["no_such_call".to_owned()],
    };
    let is_taken = |code: &[u8]| check(code, PythonVersion::PY311, &rules).is_ok();
    let mut files = Vec::new();
    collect(&library, &mut files)?;
    let sources: Vec<Vec<u8>> = files.iter().filter_map(|file| std::fs::read(file).ok()).collect();
    let bytes: usize = sources.iter().map(Vec::len).sum();
    let began = Instant::now();
    let taken: Vec<bool> = sources.iter().map(|code| is_taken(code)).collect();
    let took = began.elapsed();
    report.measure("ours_mb_per_s", bytes as f64 / MB as f64 / took.as_secs_f64());

    let mut large = Vec::new();
    for (code, _) in sources.iter().zip(taken).filter(|(_, taken)| *taken) {
        // These must come first in a source.
        let is_plain = code.is_ascii() && !code.windows(10).any(|word| word == b"__future__");
        if is_plain && large.len() + code.len() < MB {
            large.extend_from_slice(code);
            large.push(b'\n');
        }
    }
    ensure!(large.len() > MB * 9 / 10, "the standard library is smaller than that");
    ensure!(is_taken(&large), "files that are taken are not taken as one");
    let times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let began = Instant::now();
            is_taken(&large);
            began.elapsed()
        })
        .collect();
    let scale = MB as f64 / large.len() as f64;
    report.measure("ours_p50_ms_per_mb", percentile(&times, 50).as_secs_f64() * 1000.0 * scale);
    Ok(report)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("site-packages") && !path.ends_with("dist-packages") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "py") {
            files.push(path);
        }
    }
    files.sort();
    Ok(())
}
