//! Pictures, as SVG: a waterfall's bars, days of use, and storage against its limit. Colours are classes of the style.

use chrono::NaiveDate;
use maud::{Markup, html};

use super::parts::{badge, bytes};
use super::text::{self, duration};
use crate::api::Storage;
use crate::waterfall::{Span, Status, Waterfall};

/// A row for each stage and step: so the picture can be read without seeing it.
pub(super) fn waterfall(waterfall: &Waterfall) -> Markup {
    html! {
        div.scroll #waterfall data-part tabindex="0" role="region" aria-label="Waterfall" {
            table.waterfall {
                caption { "Where the time went: " (duration(waterfall.duration_ms)) " in all" }
                thead {
                    tr {
                        th scope="col" { "Step" } th scope="col" { "By" } th scope="col" { "When" }
                        th scope="col" { "Took" } th scope="col" { "Ended" }
                    }
                }
                tbody {
                    @for span in &waterfall.spans {
                        tr {
                            th scope="row" class=[(span.depth > 0).then_some("step")] {
                                (text::line(&span.name))
                                @if span.attempt > 1 { span.quiet { " (" (span.attempt) ")" } }
                            }
                            td {
                                (text::line(&span.service))
                                @if let Some(worker) = &span.worker { " " (text::line(worker)) }
                            }
                            td.bar { (bar(waterfall, span)) }
                            td.number { (duration(span.duration_ms)) }
                            td { (badge(span.status.as_str())) }
                        }
                    }
                    @if waterfall.spans.is_empty() { (super::parts::empty(5, "Nothing has begun yet.")) }
                }
            }
            @if let Some(trace) = &waterfall.trace_id {
                p.quiet { "Trace " code { (text::line(trace)) } }
            }
        }
    }
}

fn bar(waterfall: &Waterfall, span: &Span) -> Markup {
    let (left, width) = waterfall.share(span);
    let kind = match span.status {
        Status::Failed | Status::Rejected | Status::DeadLettered | Status::Lost => "bad",
        Status::Running => "busy",
        Status::Retried | Status::HandedBack => "warn",
        Status::Done if span.service.is_empty() => "waiting",
        Status::Done => "good",
    };
    let number = |percent: f64| format!("{:.2}", percent * 10.0);
    // What took nearly nothing can be seen too.
    let (x, width) = (number(left.min(99.5)), number(width.max(0.4)));
    html! {
        svg viewBox="0 0 1000 12" preserveAspectRatio="none" aria-hidden="true" {
            rect class={ "bar " (kind) } x=(x) y="1" width=(width) height="10" {}
        }
    }
}

/// Tasks a day.
pub(super) fn usage(days: &[(NaiveDate, i64)]) -> Markup {
    let most = days.iter().map(|(_, tasks)| *tasks).max().unwrap_or_default().max(1);
    let all: i64 = days.iter().map(|(_, tasks)| *tasks).sum();
    let newest = days.last().map(|(day, _)| *day);
    html! {
        figure.plot {
            svg viewBox="0 0 300 40" role="img" aria-label={ (all) " tasks in 30 days, at most " (most) " in a day" } {
                @if let Some(newest) = newest {
                    @for (day, tasks) in days {
                        @let back = (newest - *day).num_days().clamp(0, 29);
                        @let height = (*tasks as f64 / most as f64 * 36.0).max(1.0);
                        rect.bar.good x=((29 - back) * 10) width="8" y=(format!("{:.1}", 38.0 - height)) height=(format!("{height:.1}")) {
                            title { (day.to_string()) ": " (tasks) }
                        }
                    }
                }
            }
            figcaption { (all) " tasks in the last 30 days" }
        }
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 84.0;
/// Of a day's name, as large as on a narrow screen.
const DAY_WIDTH: f64 = 110.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;

/// What the registry holds, its limit, and where that leads: the trend, and its quartiles.
pub(super) fn storage(storage: &Storage) -> Markup {
    let Some(((first, _), (newest, holds))) = storage.samples.first().zip(storage.samples.last())
    else {
        return html! { p.quiet { "Nothing is known of the registry's size yet: the janitor's first run tells it." } };
    };
    let past = (*newest - *first).num_days().max(1) as f64;
    let ahead = storage
        .forecast
        .and_then(|forecast| forecast.days)
        .map_or(past.max(14.0), |days| f64::from(days).mul_add(1.1, 1.0))
        .clamp(14.0, 4.0 * past.max(14.0));
    let limit = storage.limit_bytes as f64;
    let most = storage.samples.iter().map(|(_, bytes)| *bytes as f64).fold(limit, f64::max) * 1.1;
    let x = |day: f64| LEFT + (day + past) / (past + ahead) * (WIDTH - LEFT - 8.0);
    let y = |bytes: f64| TOP + (1.0 - bytes.clamp(0.0, most) / most) * (HEIGHT - TOP - BOTTOM);
    let point = |day: f64, bytes: f64| format!("{:.1},{:.1}", x(day), y(bytes));
    let line: Vec<String> = storage
        .samples
        .iter()
        .map(|(day, bytes)| point((*day - *newest).num_days() as f64, *bytes as f64))
        .collect();
    let now = *holds as f64;
    // The slopes of the faster and the slower quarter, from when each would be full.
    let slope = |days: Option<u32>| days.map_or(0.0, |days| (limit - now) / f64::from(days.max(1)));
    let spread = storage.forecast.map(|forecast| {
        let (fast, slow) = (slope(forecast.earliest_days), slope(forecast.latest_days));
        let trend = forecast.bytes_per_day as f64;
        [
            point(0.0, now),
            point(ahead, now + fast * ahead),
            point(ahead, now + slow * ahead),
            point(ahead, now + trend * ahead),
        ]
    });
    let share = now / limit * 100.0;
    let label = format!(
        "Storage: {} of {}, {share:.0} percent. {}",
        bytes(*holds),
        bytes(storage.limit_bytes as i64),
        full(storage)
    );
    html! {
        figure.plot #storage data-part {
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(label) {
                @for part in 0..=4 {
                    @let bytes_here = most * f64::from(part) / 4.0;
                    line.grid x1=(LEFT) x2=(WIDTH) y1=(y(bytes_here)) y2=(y(bytes_here)) {}
                    text.label x=(LEFT - 6.0) y=(y(bytes_here) + 4.0) text-anchor="end" { (bytes(bytes_here as i64)) }
                }
                line.limit x1=(LEFT) x2=(WIDTH) y1=(y(limit)) y2=(y(limit)) {}
                text.label x=(LEFT + 4.0) y=(y(limit) - 5.0) { "limit" }
                @if let Some([from, fast, slow, trend]) = &spread {
                    polygon.spread points={ (from) " " (fast) " " (slow) } {}
                    polyline.trend points={ (from) " " (trend) } {}
                }
                line.grid x1=(x(0.0)) x2=(x(0.0)) y1=(TOP) y2=(HEIGHT - BOTTOM) {}
                polyline.line points=(line.join(" ")) {}
                // Where there is room for it beside today's.
                @if x(0.0) - LEFT > 1.5 * DAY_WIDTH {
                    text.label x=(LEFT) y=(HEIGHT - 8.0) { (first.to_string()) }
                }
                text.label x=(x(0.0)) y=(HEIGHT - 8.0) text-anchor=(if x(0.0) - LEFT > DAY_WIDTH / 2.0 { "middle" } else { "start" }) {
                    (newest.to_string())
                }
                text.label x=(WIDTH - 4.0) y=(HEIGHT - 8.0) text-anchor="end" {
                    ((*newest + chrono::Days::new(ahead as u64)).to_string())
                }
            }
            figcaption { (label) }
        }
    }
}

/// When it is full, in words.
pub(super) fn full(storage: &Storage) -> String {
    let Some(forecast) = storage.forecast else {
        return "When it is full is not known: there are too few daily samples.".to_owned();
    };
    let Some(days) = forecast.days else {
        return "It does not grow towards its limit.".to_owned();
    };
    let bound = |days: Option<u32>| days.map_or("never".to_owned(), |days| days.to_string());
    format!(
        "Full in {days} days ({} to {}), growing {} a day.",
        bound(forecast.earliest_days),
        bound(forecast.latest_days),
        bytes(forecast.bytes_per_day)
    )
}

#[cfg(test)]
mod tests {
    use mecapy_store::forecast::forecast;

    use super::*;

    fn of(samples: &[i64]) -> Storage {
        let first = NaiveDate::from_ymd_opt(2026, 1, 1).unwrap();
        let samples: Vec<_> = samples
            .iter()
            .enumerate()
            .map(|(day, bytes)| (first + chrono::Days::new(day as u64), *bytes * 1_000_000_000))
            .collect();
        let limit_bytes = 90_000_000_000;
        let forecast = forecast(&samples, limit_bytes);
        Storage { limit_bytes, samples, forecast, runs: Vec::new() }
    }

    #[test]
    fn storage_says_how_full_it_is_and_when_it_will_be() {
        let shown = storage(&of(&[10, 20, 30, 40])).into_string();
        assert!(
            shown.contains("Storage: 40.00GB of 90.00GB, 44 percent. Full in 5 days (5 to 5)"),
            "{shown}"
        );
        assert!(shown.contains("class=\"trend\"") && shown.contains("class=\"spread\""));
    }

    #[test]
    fn days_are_named_where_there_is_room_for_their_names() {
        let few = storage(&of(&[10, 20])).into_string();
        assert!(!few.contains("2026-01-01") && few.contains("2026-01-02"), "{few}");
        assert!(few.contains("text-anchor=\"start\""), "{few}");
        let many = storage(&of(&(10..70).collect::<Vec<_>>())).into_string();
        assert!(many.contains("2026-01-01") && many.contains("2026-03-01"), "{many}");
        assert!(many.contains("text-anchor=\"middle\"") && !many.contains("text-anchor=\"start\""));
    }

    #[test]
    fn storage_of_few_days_or_none_is_no_trend() {
        assert!(storage(&of(&[])).into_string().contains("Nothing is known"));
        for samples in [&[10][..], &[10, 20]] {
            let shown = storage(&of(samples)).into_string();
            assert!(
                shown.contains("too few daily samples") && !shown.contains("spread"),
                "{shown}"
            );
            assert!(!shown.contains("NaN") && !shown.contains("inf"), "{shown}");
        }
        let still = storage(&of(&[10, 10, 10])).into_string();
        assert!(still.contains("does not grow") && !still.contains("NaN"), "{still}");
        assert!(storage(&of(&[90, 100, 110])).into_string().contains("Full in 0 days"));
    }
}
