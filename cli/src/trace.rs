//! `mecapy trace`: how a build or a task went, step by step.

use std::fmt::Write as _;

use console::Term;
use uuid::Uuid;

use crate::exit::Exit;
use crate::gateway::{Answer, Client, Error, Span, Waterfall};
use crate::session::Session;
use crate::terminal::clean_line;

/// Where there is no terminal to ask.
const WIDTH: usize = 100;
/// A bar shorter than this tells nothing.
const MIN_BAR: usize = 10;

pub async fn run(id: Uuid, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    let waterfall = find(&client, id).await?;
    session.output.show(&waterfall.raw, || render(&waterfall.value, width()));
    Ok(Exit::Done)
}

/// The id does not say what it is of.
async fn find(client: &Client, id: Uuid) -> Result<Answer<Waterfall>, Error> {
    match client.trace("builds", id).await {
        Err(Error::Refused(problem)) if problem.status == 404 => client.trace("tasks", id).await,
        answer => answer,
    }
}

fn width() -> usize {
    let columns = || std::env::var("COLUMNS").ok()?.parse().ok();
    let of_terminal = Term::stdout().size_checked().map(|(_, columns)| usize::from(columns));
    of_terminal.or_else(columns).unwrap_or(WIDTH)
}

fn render(waterfall: &Waterfall, width: usize) -> String {
    let mut text = format!(
        "{} {}: {}, {}{}\n",
        waterfall.kind,
        waterfall.id,
        waterfall.status,
        time(waterfall.duration_ms),
        if waterfall.ended_at.is_some() { "" } else { " so far" }
    );
    if let Some(trace) = &waterfall.trace_id {
        let _ = writeln!(text, "trace {trace}");
    }
    text.push('\n');
    let rows: Vec<[String; 5]> = waterfall.spans.iter().map(cells).collect();
    let header = ["STEP", "SERVICE", "START", "TAKES", ""].map(str::to_owned);
    let column = |column: usize| {
        let cells =
            std::iter::once(&header).chain(&rows).map(move |row| row[column].chars().count());
        cells.max().unwrap_or_default()
    };
    let [names, services, starts, takes, ends] = [0, 1, 2, 3, 4].map(column);
    // What a line has beside its bar, with two spaces between columns.
    let beside = names + services + starts + takes + 2 * 4 + if ends == 0 { 0 } else { ends + 2 };
    let bar_width = width.saturating_sub(beside).max(MIN_BAR);
    let bars = waterfall.spans.iter().map(|span| bar(span, waterfall.duration_ms, bar_width));
    let bars = std::iter::once(String::new()).chain(bars);
    for ([name, service, start, took, end], bar) in std::iter::once(&header).chain(&rows).zip(bars)
    {
        let line = format!(
            "{name:names$}  {service:services$}  {start:>starts$}  {took:>takes$}  {bar:bar_width$}  {end}"
        );
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn cells(span: &Span) -> [String; 5] {
    let indent = "  ".repeat(usize::from(span.depth));
    let end = match (span.status.as_str(), span.attempt) {
        ("done", 0 | 1) => String::new(),
        ("done", attempt) => format!("try {attempt}"),
        (status, 0 | 1) => status.replace('_', " "),
        (status, attempt) => format!("{}, try {attempt}", status.replace('_', " ")),
    };
    [
        format!("{indent}{}", clean_line(&span.name)),
        clean_line(span.worker.as_deref().unwrap_or(&span.service)),
        format!("+{}", time(span.offset_ms)),
        time(span.duration_ms),
        clean_line(&end),
    ]
}

/// As long as the span is of the whole, but never nothing.
fn bar(span: &Span, whole_ms: f64, width: usize) -> String {
    let share = |ms: f64| if whole_ms > 0.0 { (ms / whole_ms).clamp(0.0, 1.0) } else { 0.0 };
    let cell = |share: f64| (share * width as f64).round() as usize;
    let from = cell(share(span.offset_ms)).min(width - 1);
    let to = cell(share(span.offset_ms + span.duration_ms)).clamp(from + 1, width);
    let mark = if span.depth == 0 { '█' } else { '▒' };
    let mut bar = " ".repeat(from);
    bar.extend(std::iter::repeat_n(mark, to - from));
    bar
}

fn time(ms: f64) -> String {
    match ms {
        ..9.95 => format!("{ms:.1} ms"),
        ..999.5 => format!("{ms:.0} ms"),
        ..99_950.0 => format!("{:.1} s", ms / 1e3),
        _ => format!("{:.0} s", ms / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waterfall() -> Waterfall {
        serde_json::from_str(
            r#"{
                "kind": "build", "id": "b", "status": "failed", "trace_id": "4bf92f35",
                "started_at": "2025-10-04T02:00:00Z", "ended_at": "2025-10-04T02:00:01Z",
                "duration_ms": 1000.0, "of_tomorrow": 1,
                "spans": [
                    {"name": "queue", "service": "", "depth": 0, "offset_ms": 0, "duration_ms": 100.0, "status": "done", "attempt": 1},
                    {"name": "build", "service": "builder", "depth": 0, "offset_ms": 100.0, "duration_ms": 400.0, "status": "retried", "attempt": 1},
                    {"name": "build", "service": "builder", "depth": 0, "offset_ms": 500.0, "duration_ms": 500.0, "status": "failed", "attempt": 2},
                    {"name": "lo\u001b[31mck", "service": "builder", "depth": 1, "offset_ms": 999.9, "duration_ms": 0.1, "status": "done", "attempt": 2}
                ]
            }"#,
        )
        .unwrap()
    }

    #[test]
    fn bars_are_as_wide_as_the_terminal_lets_them() {
        let expected = "\
build b: failed, 1.0 s
trace 4bf92f35

STEP    SERVICE    START   TAKES
queue            +0.0 ms  100 ms  █
build   builder  +100 ms  400 ms   █████       retried
build   builder  +500 ms  500 ms        █████  failed, try 2
  lock  builder   +1.0 s  0.1 ms            ▒  try 2
";
        let narrow = render(&waterfall(), 60);
        assert_eq!(narrow, expected, "{narrow}");
        let wide = render(&waterfall(), 120);
        assert!(wide.lines().all(|line| line.chars().count() <= 120), "{wide}");
        let build = wide.lines().find(|line| line.contains("retried")).unwrap();
        assert!(build.matches('█').count() > 20, "{wide}");
        // Too narrow for anything: bars stay readable.
        assert!(render(&waterfall(), 5).contains("████"));
    }

    #[test]
    fn what_goes_on_says_so() {
        let mut waterfall = waterfall();
        waterfall.ended_at = None;
        waterfall.trace_id = None;
        waterfall.spans.clear();
        assert!(render(&waterfall, 80).starts_with("build b: failed, 1.0 s so far\n\nSTEP"));
    }

    #[test]
    fn times_read_as_people_write_them() {
        for (ms, text) in [
            (0.04, "0.0 ms"),
            (3.12, "3.1 ms"),
            (183.4, "183 ms"),
            (42_300.0, "42.3 s"),
            (123_456.0, "123 s"),
        ] {
            assert_eq!(time(ms), text);
        }
    }

    #[test]
    fn nothing_takes_no_time_and_is_shown() {
        let mut waterfall = waterfall();
        waterfall.duration_ms = 0.0;
        assert!(render(&waterfall, 60).contains('█'));
    }
}
