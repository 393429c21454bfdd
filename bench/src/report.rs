//! What a benchmark leaves: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Report {
    name: &'static str,
    machine: Machine,
    runs: usize,
    measures: BTreeMap<String, f64>,
    not_measured: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    memory_gib: u64,
    engine: String,
}

impl Report {
    pub fn new(name: &'static str, runs: usize) -> Self {
        Self {
            name,
            machine: Machine::here(),
            runs,
            measures: BTreeMap::new(),
            not_measured: BTreeMap::new(),
        }
    }

    pub fn measure(&mut self, name: &str, value: f64) {
        // Three places are more than any of these repeats.
        self.measures.insert(name.to_owned(), (value * 1000.0).round() / 1000.0);
    }

    /// What this machine can't measure, and what to do about it.
    pub fn not_measured(&mut self, name: &str, reason: &str) {
        self.not_measured.insert(name.to_owned(), reason.to_owned());
    }

    /// p50 and p95 in milliseconds, of `who`.
    pub fn durations(&mut self, who: &str, times: &[Duration]) {
        self.measure(&format!("{who}_p50_ms"), percentile(times, 50).as_secs_f64() * 1000.0);
        self.measure(&format!("{who}_p95_ms"), percentile(times, 95).as_secs_f64() * 1000.0);
    }

    /// Prints the table and writes the file.
    #[expect(clippy::print_stdout, reason = "the table is what a run is for")]
    pub fn finish(self) -> Result<()> {
        println!("{} ({} runs)", self.name, self.runs);
        for (name, value) in &self.measures {
            println!("  {name:<32} {value:>12.3}");
        }
        for (name, reason) in &self.not_measured {
            println!("  {name:<32} not measured: {reason}");
        }
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/bench"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(
            folder.join(format!("{}.json", self.name)),
            serde_json::to_vec_pretty(&self)?,
        )?;
        Ok(())
    }
}

impl Machine {
    fn here() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib: u64 = memory
            .lines()
            .find_map(|line| {
                line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok()
            })
            .unwrap_or_default();
        let engine = std::process::Command::new("docker")
            .args(["version", "--format", "{{.Server.Version}}"])
            .output()
            .map(|done| String::from_utf8_lossy(&done.stdout).trim().to_owned())
            .unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_gib: (kib + (1 << 19)) >> 20,
            engine,
        }
    }
}

/// The nearest rank.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let times: Vec<Duration> = (1..=30).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(15));
        assert_eq!(percentile(&times, 95), Duration::from_millis(29));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }
}
