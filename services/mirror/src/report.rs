//! What a run leaves: `mirror.done`, and its report in S3.

use std::fmt::Write as _;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use mecapy_bus::{Delivery, Handler, HandlerError, Outcome};
use mecapy_objects::{Key, Objects};
use mecapy_proto::v1::{Failure, MirrorDone};
use mecapy_store::mirror_runs::{self, Image, Run, Totals};
use mecapy_store::{PgConnection, PgPool};
use serde::Serialize;

use crate::metric_definitions as metrics;

/// The event has the first of them, the report all.
const MAX_FAILURES: usize = 20;

/// The `mirror.done` of a run that this transaction has ended.
pub(crate) async fn done(
    conn: &mut PgConnection,
    run: &str,
) -> Result<MirrorDone, mecapy_store::Error> {
    let (run, totals) = mirror_runs::read(conn, run).await?;
    let failures = mirror_runs::failures(conn, &run.id, MAX_FAILURES).await?;
    let count = |number: i64| u32::try_from(number).unwrap_or(u32::MAX);
    let bytes = |number: i64| u64::try_from(number).unwrap_or_default();
    let is_complete = totals.failed == 0 && totals.not_found == 0;
    metrics::runs(if is_complete { "complete" } else { "incomplete" }).increment(1);
    let done = MirrorDone {
        report_key: Key::mirror_report(&run.id, "report.json").to_string(),
        run_id: run.id.clone(),
        mirrored: count(totals.mirrored),
        unchanged: count(totals.unchanged),
        failed: count(totals.failed),
        not_found: count(totals.not_found),
        bytes_sent: bytes(totals.bytes_sent),
        bytes_saved: bytes(totals.bytes_saved),
        duration_ms: duration_ms(&run),
        failures: failures
            .into_iter()
            .map(|(image, code, message)| Failure {
                code,
                message: format!("{image}: {message}"),
                log_tail: Vec::new(),
            })
            .collect(),
        dry_run: run.dry_run,
    };
    tracing::info!(
        mirror.run = run.id,
        mirrored = done.mirrored,
        unchanged = done.unchanged,
        not_found = done.not_found,
        failed = done.failed,
        bytes_sent = done.bytes_sent,
        bytes_saved = done.bytes_saved,
        duration_ms = done.duration_ms,
        dry_run = done.dry_run,
        "a mirror run has ended"
    );
    Ok(done)
}

fn duration_ms(run: &Run) -> u64 {
    let ended = run.ended_at.unwrap_or(run.requested_at);
    u64::try_from((ended - run.requested_at).num_milliseconds()).unwrap_or_default()
}

/// The handler of `mirror.done`.
#[derive(Debug)]
pub struct WriteReport {
    pub pool: PgPool,
    pub objects: Objects,
}

impl Handler<MirrorDone> for WriteReport {
    async fn handle(&self, event: MirrorDone, _: &Delivery) -> Result<Outcome, HandlerError> {
        let Some(run) = mirror_runs::get(&self.pool, &event.run_id).await? else {
            return Err(HandlerError::permanent(format!("run {:?} is not known", event.run_id)));
        };
        let totals = mirror_runs::totals(&self.pool, &run.id).await?;
        let images = mirror_runs::images(&self.pool, &run.id).await?;
        let report = Report::new(&run, totals, &images)?;
        let json = serde_json::to_vec_pretty(&report).map_err(HandlerError::transient)?;
        let put = async |name, body: Vec<u8>| {
            let key = Key::mirror_report(&run.id, name);
            self.objects.put(&key, Bytes::from(body)).await.map_err(HandlerError::transient)
        };
        put("report.json", json).await?;
        put("report.txt", report.text().into_bytes()).await?;
        Ok(Outcome::nothing())
    }
}

/// The report of a run, as its JSON has it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub run_id: String,
    pub reason: String,
    pub dry_run: bool,
    pub requested_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    pub duration_ms: u64,
    pub counts: Counts,
    pub bytes_sent: i64,
    pub bytes_saved: i64,
    pub images: Vec<ReportedImage>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Counts {
    pub images: i64,
    pub mirrored: i64,
    pub unchanged: i64,
    pub not_found: i64,
    pub failed: i64,
    pub verified: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ReportedImage {
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
    pub tasks: i64,
    pub outcome: Option<&'static str>,
    pub error_code: Option<String>,
    pub reason: Option<String>,
    pub bytes_sent: i64,
    pub bytes_saved: i64,
    pub verified: bool,
    pub duration_ms: i64,
}

impl Report {
    pub fn new(run: &Run, totals: Totals, images: &[Image]) -> Result<Self, mecapy_store::Error> {
        let images = images.iter().map(|image| {
            Ok(ReportedImage {
                repository: image.repository.clone(),
                digest: image.digest.clone(),
                tags: image.tags.clone(),
                tasks: image.tasks,
                outcome: image.outcome()?.map(mirror_runs::Outcome::as_str),
                error_code: image.error_code.clone(),
                reason: image.error_message.clone(),
                bytes_sent: image.bytes_sent,
                bytes_saved: image.bytes_saved,
                verified: image.verified,
                duration_ms: image.duration_ms,
            })
        });
        Ok(Self {
            run_id: run.id.clone(),
            reason: run.reason.clone(),
            dry_run: run.dry_run,
            requested_at: run.requested_at,
            ended_at: run.ended_at,
            duration_ms: duration_ms(run),
            counts: Counts {
                images: totals.images,
                mirrored: totals.mirrored,
                unchanged: totals.unchanged,
                not_found: totals.not_found,
                failed: totals.failed,
                verified: totals.verified,
            },
            bytes_sent: totals.bytes_sent,
            bytes_saved: totals.bytes_saved,
            images: images.collect::<Result<_, mecapy_store::Error>>()?,
        })
    }

    /// The summary for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let kind = if self.dry_run { "Mirror plan (dry run)" } else { "Mirror report" };
        let seconds = self.duration_ms / 1000;
        let duration = match (seconds / 60, seconds % 60) {
            (0, _) => format!("{:.1} s", self.duration_ms as f64 / 1000.0),
            (minutes, seconds) => format!("{minutes} min {seconds} s"),
        };
        let Counts { images, mirrored, unchanged, not_found, failed, verified } = self.counts;
        let (copied, moved) =
            if self.dry_run { ("would be mirrored", "would move") } else { ("mirrored", "sent") };
        let requested = self.requested_at.format("%Y-%m-%d %H:%M:%S UTC");
        let _ = writeln!(text, "{kind}: {} ({}, {requested})\n", self.run_id, self.reason);
        for (label, value) in [
            ("images", images.to_string()),
            (copied, mirrored.to_string()),
            ("unchanged", unchanged.to_string()),
            ("not found", not_found.to_string()),
            ("failed", failed.to_string()),
            ("verified", verified.to_string()),
            (moved, size(self.bytes_sent)),
            ("saved", size(self.bytes_saved)),
            ("duration", duration),
        ] {
            let _ = writeln!(text, "  {label:<18} {value}");
        }
        let trouble = self.images.iter().filter(|image| image.reason.is_some());
        for (index, image) in trouble.enumerate() {
            if index == 0 {
                let _ = writeln!(text, "\nNot mirrored:");
            }
            let (outcome, reason) = (image.outcome.unwrap_or("open"), image.reason.as_deref());
            let _ = writeln!(
                text,
                "  {}@{}\n    {outcome}: {}",
                image.repository,
                image.digest,
                reason.unwrap_or_default()
            );
        }
        text
    }
}

/// Bytes for people, in powers of 1000 as registries bill them.
fn size(bytes: i64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(dry_run: bool) -> Report {
        Report {
            run_id: "mirror-2025-10-04".into(),
            reason: "schedule".into(),
            dry_run,
            requested_at: "2025-10-04T02:00:00Z".parse().unwrap(),
            ended_at: Some("2025-10-04T02:18:32Z".parse().unwrap()),
            duration_ms: 1_112_000,
            counts: Counts {
                images: 100,
                mirrored: 23,
                unchanged: 75,
                not_found: 1,
                failed: 1,
                verified: 5,
            },
            bytes_sent: 24_500_000_000,
            bytes_saved: 512,
            images: vec![ReportedImage {
                repository: "mecapy/functions/user-a-func-1".into(),
                digest: "sha256:0".into(),
                tags: Vec::new(),
                tasks: 1,
                outcome: Some("failed"),
                error_code: Some("push-failed".into()),
                reason: Some("the registry said no".into()),
                bytes_sent: 0,
                bytes_saved: 0,
                verified: false,
                duration_ms: 1,
            }],
        }
    }

    #[test]
    fn a_person_reads_what_moved_and_what_did_not() {
        let text = report(false).text();
        for line in [
            "Mirror report: mirror-2025-10-04 (schedule, 2025-10-04 02:00:00 UTC)",
            "  mirrored           23\n",
            "  sent               24.5 GB\n",
            "  saved              512 B\n",
            "  duration           18 min 32 s\n",
            "  mecapy/functions/user-a-func-1@sha256:0\n    failed: the registry said no\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(report(true).text().contains("would be mirrored  23\n"), "{}", report(true).text());
    }
}
