//! What a run says of itself: on S3 for people and programs, and as an event.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use mecapy_proto::v1::CleanupDone;
use mecapy_store::cleanup_items::Item;
use mecapy_store::cleanup_runs::Run;
use mecapy_store::forecast::Forecast;
use serde::{Deserialize, Serialize};

/// Items that the text lists; the JSON has all.
const LISTED: usize = 50;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub run_id: String,
    pub dry_run: bool,
    /// schedule, manual
    pub reason: String,
    /// Why it deleted nothing although it could have; empty: it did not stop.
    pub stopped: String,
    pub images_seen: u64,
    /// By policy and rule (`functions/unused`); in a dry run, what would be.
    pub deleted_by_policy: BTreeMap<String, u32>,
    pub images_deleted: u32,
    pub images_skipped: u32,
    pub tags_removed: u32,
    pub tags_moved: u32,
    pub kept_by_rule: Vec<(String, i64)>,
    /// Repositories that no policy names, with their images: never touched.
    pub without_policy: Vec<(String, i64)>,
    /// Bytes that nothing holds any more.
    pub freed_bytes: u64,
    /// After the run.
    pub storage_used_bytes: u64,
    pub storage_limit_bytes: u64,
    pub forecast: Option<Forecast>,
    pub items: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    pub image: String,
    pub tags: Vec<String>,
    pub action: String,
    pub policy: String,
    pub rule: String,
    pub reason: String,
    /// planned, done, absent, skipped, refused
    pub state: String,
    pub outcome: String,
}

impl From<&Item> for Entry {
    fn from(item: &Item) -> Self {
        Self {
            image: format!("{}@{}", item.repository, item.digest),
            tags: item.tags.clone(),
            action: item.action.clone(),
            policy: item.policy.clone(),
            rule: item.rule.clone(),
            reason: item.reason.clone(),
            state: item.state.clone(),
            outcome: item.outcome.clone(),
        }
    }
}

/// What the items of a run come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub deleted_by_policy: BTreeMap<String, u32>,
    pub deleted: u32,
    pub skipped: u32,
    pub tags_removed: u32,
    pub tags_moved: u32,
}

impl Counts {
    pub fn of(items: &[Item], is_dry_run: bool) -> Self {
        let mut counts = Self::default();
        for item in items {
            match item.state.as_str() {
                "done" => {}
                "planned" if is_dry_run => {}
                "skipped" | "refused" => {
                    counts.skipped += 1;
                    continue;
                }
                _ => continue,
            }
            match item.action.as_str() {
                "delete" => {
                    counts.deleted += 1;
                    let policy = format!("{}/{}", item.policy, item.rule);
                    *counts.deleted_by_policy.entry(policy).or_default() += 1;
                }
                "remove_tag" => counts.tags_removed += 1,
                _ => counts.tags_moved += 1,
            }
        }
        counts
    }
}

impl Report {
    /// A run that stopped itself deleted nothing, whatever its report says that it would have.
    pub fn done(&self, report_key: &str) -> CleanupDone {
        let mut done = CleanupDone {
            run_id: self.run_id.clone(),
            dry_run: self.dry_run,
            storage_used_bytes: self.storage_used_bytes,
            days_until_limit: self.forecast.and_then(|forecast| forecast.days),
            images_skipped: self.images_skipped,
            report_key: report_key.to_owned(),
            stopped: self.stopped.clone(),
            ..CleanupDone::default()
        };
        if self.dry_run || self.stopped.is_empty() {
            done.deleted_by_policy = self.deleted_by_policy.clone().into_iter().collect();
            done.freed_bytes = self.freed_bytes;
            done.images_deleted = self.images_deleted;
        }
        done
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        let how = match (self.dry_run, self.stopped.is_empty()) {
            (true, _) => "dry run: nothing was deleted",
            (false, true) => "applied",
            (false, false) => "stopped: nothing was deleted",
        };
        let (deleted, freed) = if self.dry_run || !self.stopped.is_empty() {
            ("to delete", "to free")
        } else {
            ("deleted", "freed")
        };
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<16}{value}");
        };
        line("Cleanup", format!("{} ({how})", self.run_id));
        if !self.stopped.is_empty() {
            line("Stopped", self.stopped.clone());
        }
        line(
            "Images",
            format!(
                "{} seen, {} {deleted}, {} skipped",
                self.images_seen, self.images_deleted, self.images_skipped
            ),
        );
        for (policy, number) in &self.deleted_by_policy {
            line("", format!("{number:>7}  {policy}"));
        }
        line("Tags", format!("{} removed, {} moved", self.tags_removed, self.tags_moved));
        for (number, (rule, images)) in self.kept_by_rule.iter().enumerate() {
            line(if number == 0 { "Kept" } else { "" }, format!("{images:>7}  {rule}"));
        }
        for (number, (repository, images)) in self.without_policy.iter().enumerate() {
            line(if number == 0 { "No policy" } else { "" }, format!("{images:>7}  {repository}"));
        }
        line("Space", format!("{} {freed}", bytes(self.freed_bytes)));
        let percent = self.storage_used_bytes.saturating_mul(100) / self.storage_limit_bytes.max(1);
        line(
            "Storage",
            format!(
                "{} of {} ({percent} %)",
                bytes(self.storage_used_bytes),
                bytes(self.storage_limit_bytes)
            ),
        );
        line(
            "Full",
            self.forecast
                .map_or_else(|| "not known: there are too few daily samples".to_owned(), full),
        );
        for item in self.items.iter().take(LISTED) {
            let tags = item.tags.join(", ");
            let outcome = if item.outcome.is_empty() {
                String::new()
            } else {
                format!(" ({})", item.outcome)
            };
            let _ = writeln!(
                text,
                "{:<10} {} {} [{tags}]: {}{outcome}",
                item.state, item.action, item.image, item.reason
            );
        }
        if self.items.len() > LISTED {
            let _ = writeln!(text, "… and {} more: see report.json", self.items.len() - LISTED);
        }
        text
    }
}

fn full(forecast: Forecast) -> String {
    let days = |days: Option<u32>| days.map_or_else(|| "never".to_owned(), |days| days.to_string());
    let Forecast { days: median, earliest_days, latest_days, bytes_per_day } = forecast;
    match median {
        None => "not in sight: it does not grow".to_owned(),
        Some(median) => format!(
            "in {median} days ({} to {}), growing by {} a day",
            days(earliest_days),
            days(latest_days),
            bytes(bytes_per_day.unsigned_abs())
        ),
    }
}

/// As registries' price lists have it: thousands.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Of the end of a run, apart from its items.
pub(crate) struct Totals {
    pub kept_by_rule: Vec<(String, i64)>,
    pub without_policy: Vec<(String, i64)>,
    pub freed_bytes: u64,
    pub storage_used_bytes: u64,
    pub storage_limit_bytes: u64,
    pub forecast: Option<Forecast>,
}

pub(crate) fn report(run: &Run, items: &[Item], totals: Totals) -> Report {
    // What a run that stopped itself would have done is told like a dry run's.
    let counts = Counts::of(items, run.dry_run || !run.stopped.is_empty());
    Report {
        run_id: run.id.clone(),
        dry_run: run.dry_run,
        reason: run.reason.clone(),
        stopped: run.stopped.clone(),
        images_seen: run.images_seen.unsigned_abs(),
        deleted_by_policy: counts.deleted_by_policy,
        images_deleted: counts.deleted,
        images_skipped: counts.skipped,
        tags_removed: counts.tags_removed,
        tags_moved: counts.tags_moved,
        kept_by_rule: totals.kept_by_rule,
        without_policy: totals.without_policy,
        freed_bytes: totals.freed_bytes,
        storage_used_bytes: totals.storage_used_bytes,
        storage_limit_bytes: totals.storage_limit_bytes,
        forecast: totals.forecast,
        items: items.iter().map(Entry::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_happened_and_when_it_will_be_full() {
        let report = Report {
            run_id: "cleanup-2026-06-01".into(),
            dry_run: false,
            reason: "schedule".into(),
            stopped: String::new(),
            images_seen: 1247,
            deleted_by_policy: [("functions/unused".to_owned(), 110)].into(),
            images_deleted: 110,
            images_skipped: 2,
            tags_removed: 1,
            tags_moved: 3,
            kept_by_rule: vec![("within-policy".into(), 1000)],
            without_policy: vec![("system/nats".into(), 85)],
            freed_bytes: 12_300_000_000,
            storage_used_bytes: 45_000_000_000,
            storage_limit_bytes: 90_000_000_000,
            forecast: Some(Forecast {
                days: Some(120),
                earliest_days: Some(90),
                latest_days: None,
                bytes_per_day: 375_000_000,
            }),
            items: Vec::new(),
        };
        let text = report.text();
        for line in [
            "Cleanup         cleanup-2026-06-01 (applied)",
            "Images          1247 seen, 110 deleted, 2 skipped",
            "                    110  functions/unused",
            "No policy            85  system/nats",
            "Space           12.3 GB freed",
            "Storage         45.0 GB of 90.0 GB (50 %)",
            "Full            in 120 days (90 to never), growing by 375.0 MB a day",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
        }
    }

    #[test]
    fn bytes_are_in_thousands() {
        assert_eq!(
            (bytes(999), bytes(1_500), bytes(90_000_000_000)),
            ("999 B".into(), "1.5 kB".into(), "90.0 GB".into())
        );
    }
}
