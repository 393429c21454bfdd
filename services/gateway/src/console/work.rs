//! What the pages of builds and of tasks have in common: both are of a function, go through states and leave texts.

use axum::extract::Path;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use maud::{Markup, html};
use mecapy_proto::FunctionId;
use mecapy_store::StoredFailure;

use super::layout::{self, Frame, Section};
use super::parts::{badge, error_code, log, pager};
use super::text;
use crate::Error;
use crate::api::Session;
use crate::http::function_id;

/// A list of them: filters, a table, the way to the next page.
pub(super) struct List<'l> {
    pub session: &'l Session,
    pub section: Section,
    pub title: &'l str,
    pub path: &'l str,
    /// What was chosen; these stay from page to page.
    pub filters: &'l [(&'l str, &'l str)],
    /// The fields by which one chooses.
    pub fields: Markup,
    pub table: Markup,
    pub next: Option<&'l str>,
}

impl List<'_> {
    pub(super) fn page(&self) -> Response {
        let content = html! {
            form.filters method="get" action=(self.path) role="search" {
                (self.fields)
                button type="submit" { "Show" }
            }
            (self.table)
            (pager(self.path, self.filters, self.next))
        };
        let frame = Frame {
            session: self.session,
            section: self.section,
            title: self.title,
            live: Some("/console/events".to_owned()),
        };
        layout::page(&frame, &content)
    }
}

/// The function that a list is narrowed to, as it was written.
pub(super) fn of_function(written: &str) -> Result<Option<FunctionId>, Error> {
    match written.trim() {
        "" => Ok(None),
        number => function_id(number).map(Some),
    }
}

pub(super) fn function_field(number: &str) -> Markup {
    html! { label { "Function" input type="number" name="function" min="1" value=(number); } }
}

/// Cells of a list: the function, the state.
pub(super) fn function_cell(id: i64, name: &str, owner: &str) -> Markup {
    html! {
        td { a href={ "/console/functions/" (id) } { (text::line(name)) } " " span.quiet { (text::line(owner)) } }
    }
}

pub(super) fn state_cell(state: &str, error_code: Option<&str>) -> Markup {
    html! {
        td {
            (badge(state))
            @if let Some(code) = error_code { " " (text::line(code)) }
        }
    }
}

/// The state of one of them, and whether somebody wants its end.
pub(super) fn state(state: &str, end_is_asked_for: bool) -> Markup {
    html! {
        (badge(state))
        @if end_is_asked_for { " its end is asked for" }
    }
}

pub(super) fn image(name: Option<&str>) -> Markup {
    html! {
        @match name { Some(name) if !name.is_empty() => code { (text::line(name)) }, _ => "–" }
    }
}

/// Its log: as it is stored, or as it comes.
pub(super) fn log_part(stored: Option<&Bytes>, has_ended: bool, whole: &str) -> Markup {
    html! {
        section #log-part {
            h2 { "Log" }
            @match (stored, has_ended) {
                (Some(stored), _) => (log("log", stored, whole)),
                (None, false) => pre.log #log tabindex="0" aria-live="off" {},
                (None, true) => p.quiet { "It left no log, or it can't be read just now." },
            }
        }
    }
}

/// Why it ended badly, with the evidence.
pub(super) fn failure(
    id: &str,
    title: &str,
    failure: Option<&StoredFailure>,
    exit_code: Option<i32>,
) -> Markup {
    html! {
        div id=(id) data-part {
            @if let Some(failure) = failure {
                section.problem {
                    h2 { (title) }
                    p {
                        (error_code(&failure.code)) ": " (text::block(&failure.message))
                        @if let Some(code) = exit_code { " (exit code " (code) ")" }
                    }
                    @if !failure.log.is_empty() { pre.log tabindex="0" { (text::block(&failure.log.join("\n"))) } }
                }
            }
        }
    }
}

/// A text as it is, to be kept or read by a program. Never as markup: a browser shows it as it is, whatever is in it.
pub(super) fn plain(text: Bytes) -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// An id and the name of a text in an address.
pub(super) type Named = Path<(String, String)>;
