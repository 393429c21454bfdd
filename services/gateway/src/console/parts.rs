//! Pieces that several pages have.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::text;
use crate::api::Session;
use crate::{pages, view};

/// What a form carries, so that no other site can send it.
pub(super) fn csrf(session: &Session) -> Markup {
    html! { input type="hidden" name="csrf" value=(session.csrf()); }
}

/// A button that changes something at once.
pub(super) fn button(session: &Session, action: &str, label: &str) -> Markup {
    html! {
        form.inline method="post" action=(action) {
            (csrf(session))
            button type="submit" { (label) }
        }
    }
}

/// A state, with a colour that says the same.
pub(super) fn badge(state: &str) -> Markup {
    let kind = match state {
        "ready" | "succeeded" | "done" | "mirrored" | "unchanged" | "free" | "closed"
        | "undone" | "delivered" | "enabled" | "PASSED" => "good",
        "failed" | "rejected" | "timed_out" | "oom" | "lost" | "open" | "CRITICAL" | "REJECTED"
        | "refused" | "undo_failed" | "not_found" | "not ready" | "dead letter" | "dead"
        | "disabled" => "bad",
        "cancelled" | "HIGH" | "FAILOVER" | "stopping" | "draining" | "drained" | "half-open"
        | "skipped" | "revoked" | "retried" | "handed back" => "warn",
        "building" | "scanning" | "publishing" | "running" | "planning" | "applying" | "busy"
        | "begun" => "busy",
        _ => "quiet",
    };
    html! { span class={ "badge " (kind) } { (text::line(state).replace('_', " ")) } }
}

pub(super) fn time(at: DateTime<Utc>) -> Markup {
    html! {
        time datetime=(at.to_rfc3339()) { (at.format("%Y-%m-%d %H:%M:%S").to_string()) " UTC" }
    }
}

pub(super) fn maybe_time(at: Option<DateTime<Utc>>) -> Markup {
    html! { @match at { Some(at) => (time(at)), None => "–" } }
}

pub(super) fn bytes(count: i64) -> String {
    view::size(count.unsigned_abs())
}

/// Of a digest or an id, what tells it apart.
pub(super) fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    text::line(hex).chars().take(12).collect()
}

/// A table that scrolls by itself where the screen is narrow.
pub(super) fn table(id: &str, caption: &str, headers: &[&str], rows: &Markup) -> Markup {
    html! {
        div.scroll id=(id) data-part tabindex="0" role="region" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for header in headers { th scope="col" { (header) } } } }
                tbody { (rows) }
            }
        }
    }
}

/// A table's only row, where there is nothing.
pub(super) fn empty(columns: usize, what: &str) -> Markup {
    html! { tr { td.empty colspan=(columns) { (what) } } }
}

/// Names and values.
pub(super) fn facts(id: &str, facts: &[(&str, Markup)]) -> Markup {
    html! {
        dl.facts id=(id) data-part {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// To the next page. `query` are the filters, which stay.
pub(super) fn pager(path: &str, query: &[(&str, &str)], next: Option<&str>) -> Markup {
    html! {
        nav.pager aria-label="Pages" {
            @if query.iter().any(|(name, value)| *name == "page_token" && !value.is_empty()) {
                a href=(link(path, query, None)) { "First page" }
            }
            @if let Some(next) = next {
                a rel="next" href=(link(path, query, Some(next))) { "Next page" }
            }
        }
    }
}

pub(super) fn link(path: &str, query: &[(&str, &str)], page_token: Option<&str>) -> String {
    let mut serializer = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in query {
        if !value.is_empty() && *name != "page_token" {
            serializer.append_pair(name, value);
        }
    }
    if let Some(token) = page_token {
        serializer.append_pair("page_token", token);
    }
    match serializer.finish() {
        query if query.is_empty() => path.to_owned(),
        query => format!("{path}?{query}"),
    }
}

/// A choice of a filter; the first is any.
pub(super) fn choice(name: &str, label: &str, options: &[&str], chosen: &str) -> Markup {
    html! {
        label {
            (label)
            select name=(name) {
                option value="" { "any" }
                @for option in options {
                    option value=(option) selected[*option == chosen] { (option.replace('_', " ")) }
                }
            }
        }
    }
}

/// What was done, as the page that was led to says it.
pub(super) fn notice(code: &str) -> Markup {
    let said = match code {
        "cancelled" => "Its end is asked for.",
        "deleted" => "The function is deleted. Its images go with the next cleanup.",
        "replayed" => "Replayed: what fails again comes back as a new dead letter.",
        "dropped" => "Dropped.",
        "draining" => "It takes no more tasks, and finishes those that it has.",
        "resumed" => "It takes tasks again.",
        "rebuilding" => "Built again: until the build is ready, the function runs as it does now.",
        "enabled" => "It is told again, of what happens from now on.",
        "resent" => "It is sent again, at once and for a day.",
        _ => return html! {},
    };
    html! { p.notice role="status" { (said) } }
}

/// What can't be seen, and why.
pub(super) fn unseen(what: &str, why: &str) -> Markup {
    html! { p.warn { (what) " can't be seen just now: " (text::line(why)) } }
}

/// A code of an error, which leads to its page where it has one.
pub(super) fn error_code(code: &str) -> Markup {
    html! {
        @if pages::page(code).is_some() { a href={ "/errors/" (code) } { (code) } } @else { (text::line(code)) }
    }
}

/// A log, or its end.
pub(super) fn log(id: &str, log: &[u8], whole: &str) -> Markup {
    let tail = text::tail(log);
    html! {
        @if tail.left_out > 0 {
            p.quiet { "The last part; " a href=(whole) { "all " (bytes(log.len() as i64)) } }
        } @else {
            p.quiet { a href=(whole) { "As a file" } }
        }
        pre.log id=(id) tabindex="0" { (tail.text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_filters_and_escapes_them() {
        let query = [("state", "failed"), ("name", "a&b=\"<"), ("page_token", "old")];
        assert_eq!(
            link("/x", &query, Some("1.2")),
            "/x?state=failed&name=a%26b%3D%22%3C&page_token=1.2"
        );
        assert_eq!(link("/x", &[("state", "")], None), "/x");
    }

    #[test]
    fn a_state_that_nobody_knows_is_text() {
        let shown = badge("<script>").into_string();
        assert!(shown.contains("&lt;script&gt;") && shown.contains("class=\"badge quiet\""));
    }
}
