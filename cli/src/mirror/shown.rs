//! Runs and images, as they are shown.

use mecapy_store::mirror_runs::{Image, Outcome, Run, Totals};
use serde_json::{Value, json};

use crate::table;
use crate::terminal::fields;

pub const HEADER: &[&str] = &[
    "run",
    "reason",
    "requested",
    "state",
    "images",
    "mirrored",
    "unchanged",
    "not found",
    "failed",
    "sent",
];

pub fn row(run: &Run, totals: Totals) -> Vec<String> {
    vec![
        run.id.clone(),
        run.reason.clone(),
        run.requested_at.format("%Y-%m-%d %H:%M:%S").to_string(),
        state(run),
        totals.images.to_string(),
        totals.mirrored.to_string(),
        totals.unchanged.to_string(),
        totals.not_found.to_string(),
        totals.failed.to_string(),
        size(totals.bytes_sent),
    ]
}

fn state(run: &Run) -> String {
    if run.dry_run { format!("{}, dry run", run.state) } else { run.state.clone() }
}

fn duration_ms(run: &Run) -> Option<i64> {
    run.ended_at.map(|ended| (ended - run.requested_at).num_milliseconds())
}

pub fn json_summary(run: &Run, totals: Totals) -> Value {
    json!({
        "run_id": run.id,
        "reason": run.reason,
        "dry_run": run.dry_run,
        "state": run.state,
        "requested_at": run.requested_at.to_rfc3339(),
        "ended_at": run.ended_at.map(|at| at.to_rfc3339()),
        "duration_ms": duration_ms(run),
        "verify_percent": run.verify_percent,
        "counts": {
            "images": totals.images, "open": totals.open, "mirrored": totals.mirrored,
            "unchanged": totals.unchanged, "not_found": totals.not_found, "failed": totals.failed,
            "verified": totals.verified,
        },
        "bytes_sent": totals.bytes_sent,
        "bytes_saved": totals.bytes_saved,
    })
}

pub fn json(run: &Run, totals: Totals, images: &[Image]) -> Result<Value, mecapy_store::Error> {
    let images = images.iter().map(|image| {
        Ok(json!({
            "repository": image.repository,
            "digest": image.digest,
            "tags": image.tags,
            "tasks": image.tasks,
            "outcome": image.outcome()?.map(Outcome::as_str),
            "error_code": image.error_code,
            "reason": image.error_message,
            "bytes_sent": image.bytes_sent,
            "bytes_saved": image.bytes_saved,
            "verified": image.verified,
            "duration_ms": image.duration_ms,
        }))
    });
    let images = images.collect::<Result<Vec<_>, mecapy_store::Error>>()?;
    let mut whole = json_summary(run, totals);
    whole["images"] = Value::from(images);
    Ok(whole)
}

pub fn text(run: &Run, totals: Totals, images: &[Image]) -> String {
    let (copied, moved) =
        if run.dry_run { ("would be mirrored", "would move") } else { ("mirrored", "sent") };
    let mut rows = vec![
        ("run", run.id.clone()),
        ("reason", run.reason.clone()),
        ("state", state(run)),
        ("requested", run.requested_at.format("%Y-%m-%d %H:%M:%S UTC").to_string()),
    ];
    rows.extend(duration_ms(run).map(|ms| ("duration", format!("{:.1} s", ms as f64 / 1000.0))));
    rows.push(("images", totals.images.to_string()));
    rows.push((copied, totals.mirrored.to_string()));
    rows.push(("unchanged", totals.unchanged.to_string()));
    rows.push(("not found", totals.not_found.to_string()));
    rows.push(("failed", totals.failed.to_string()));
    if run.verify_percent > 0 {
        rows.push(("verified", totals.verified.to_string()));
    }
    rows.push((moved, size(totals.bytes_sent)));
    rows.push(("saved", size(totals.bytes_saved)));
    let mut text = fields(&rows);
    if !images.is_empty() {
        let rows: Vec<_> = images.iter().map(image_row).collect();
        text.push('\n');
        text.push_str(&table::render(
            &["repository", "digest", "tags", "tasks", "outcome", "sent", "ms", "reason"],
            &rows,
        ));
    }
    text
}

fn image_row(image: &Image) -> Vec<String> {
    let outcome = match image.outcome() {
        Ok(Some(outcome)) => outcome.as_str().replace('_', " "),
        Ok(None) => "open".to_owned(),
        Err(error) => error.to_string(),
    };
    vec![
        image.repository.clone(),
        short(&image.digest),
        image.tags.join(" "),
        image.tasks.to_string(),
        outcome,
        size(image.bytes_sent),
        image.duration_ms.to_string(),
        image.error_message.clone().unwrap_or_default(),
    ]
}

/// What tells digests apart on one screen.
pub fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(12).collect()
}

/// Bytes for people.
pub fn size(bytes: i64) -> String {
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

    #[test]
    fn bytes_are_shown_in_the_unit_that_fits() {
        for (bytes, shown) in
            [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (24_500_000_000, "24.5 GB")]
        {
            assert_eq!(size(bytes), shown);
        }
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
