//! The cleanup's plan over a million images: how long, and in how much memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use mecapy_janitor::plan::{Function, Need, Policies, Seen, Snapshot, Usage, plan};
use mecapy_registry::{Descriptor, Digest, Holds, StoredManifest};

use crate::report::Report;

const REPOSITORIES: u32 = 50_000;
const VERSIONS: u32 = 20;
/// Functions that share their dependencies.
const ON_ONE_LOCK: u32 = 200;

fn digest(kind: u32, number: u32) -> Digest {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&kind.to_be_bytes());
    bytes[4..].copy_from_slice(&number.to_be_bytes());
    Digest::of(&bytes)
}

fn blob(kind: u32, number: u32, size: u64) -> Descriptor {
    Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", digest(kind, number), size)
}

/// A function's image: three layers of the base, one of its dependencies, one of its code.
fn image(repository: u32, version: u32, first_seen: DateTime<Utc>) -> Seen {
    let number = repository * VERSIONS + version;
    let mut tags = vec![format!("v{version}-0a1b2c3d")];
    if version + 1 == VERSIONS {
        tags.push("latest".to_owned());
    }
    let mut layers: Vec<Descriptor> = (0..3).map(|layer| blob(1, layer, 30_000_000)).collect();
    layers.push(blob(2, repository / ON_ONE_LOCK, 40_000_000));
    layers.push(blob(3, number, 2_000));
    let manifest = StoredManifest {
        digest: digest(0, number),
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        size: 1_500,
        tags,
        pushed_at: None,
        holds: Holds::Image { config: blob(4, number, 3_000), layers },
        subject: None,
    };
    Seen { manifest, first_seen }
}

pub async fn measure() -> Result<Report> {
    let now = Utc::now();
    let first_seen = now - chrono::Duration::days(200);
    forget_peak();
    let mut usage = Usage::default();
    for repository in 0..REPOSITORIES {
        let current = digest(0, repository * VERSIONS + VERSIONS - 1);
        usage.digests.push((current, Need::Current));
        // One in fifty was deleted.
        let is_live = repository % 50 != 0;
        let function = Function { is_live, current: Some(current), is_publishing: false };
        usage.functions.insert(i64::from(repository), function);
        for version in 0..VERSIONS {
            let number = repository * VERSIONS + version;
            let used = now - chrono::Duration::days(i64::from(number % 100));
            usage.last_used.insert(digest(0, number), used);
        }
    }
    let mut snapshot = Snapshot::default();
    let mut took = Duration::ZERO;
    for repository in 0..REPOSITORIES {
        let name = format!("mecapy/functions/user-acme-func-{repository}");
        let images: Vec<Seen> =
            (0..VERSIONS).map(|version| image(repository, version, first_seen)).collect();
        let began = Instant::now();
        snapshot.add(&name, &images);
        took += began.elapsed();
    }
    let began = Instant::now();
    let plan = plan(&snapshot, &usage, &Policies::default(), now);
    let planning = began.elapsed();
    took += planning;
    ensure!(plan.decisions.len() == (REPOSITORIES * VERSIONS) as usize);

    let mut report = Report::new("plan-1m", 1);
    report.measure("ours_total_ms", took.as_secs_f64() * 1000.0);
    report.measure("ours_plan_ms", planning.as_secs_f64() * 1000.0);
    report.measure("ours_max_rss_mib", peak_mib()?);
    report.measure("images", plan.decisions.len() as f64);
    report.measure("images_to_delete", plan.removals.len() as f64);
    Ok(report)
}

/// So that the peak is this benchmark's, also after others.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn peak_mib() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let kib = status.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok()
    });
    let kib: f64 = kib.ok_or_else(|| anyhow::anyhow!("no VmHWM in /proc/self/status"))?;
    Ok(kib / 1024.0)
}
