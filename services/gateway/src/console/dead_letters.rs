//! Messages that could not be handled: look at them, send them again, drop them.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_bus::dead_letters::DeadLetter;
use serde::Deserialize;

use super::layout::{self, Frame, Section};
use super::parts::{csrf, empty, facts, notice, pager, table};
use super::problem::Answer;
use super::session::Act;
use super::text;
use crate::api::{LetterAction, Session};
use crate::{Error, Gateway};

/// Of a body, in a page.
const MAX_BODY: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    page_token: String,
    notice: String,
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let after = if query.page_token.is_empty() { 0 } else { number(&query.page_token)? };
    let listed = gateway.api.dead_letters(&session.caller, after).await?;
    let letters = &listed.rows;
    let may = session.caller.must_operate().is_ok();
    let rows = html! {
        @for letter in letters {
            tr {
                @if may {
                    td { input type="checkbox" name="id" value=(letter.id) aria-label={ "Dead letter " (letter.id) }; }
                }
                th scope="row" { a href={ "/console/dead-letters/" (letter.id) } { (letter.id) } }
                td { (text::line(&letter.subject)) }
                td { (text::line(&letter.reason)) }
                td { (text::line(&letter.service)) }
                td.number { (letter.deliveries) }
                td { (text::line(&letter.at)) }
            }
        }
        @if letters.is_empty() { (empty(7, "There are none.")) }
    };
    let headers: &[&str] = if may {
        &["Choose", "Number", "Subject", "Reason", "Service", "Deliveries", "When"]
    } else {
        &["Number", "Subject", "Reason", "Service", "Deliveries", "When"]
    };
    let filters = [("page_token", query.page_token.as_str())];
    let content = html! {
        (notice(&query.notice))
        @if may && !letters.is_empty() {
            form method="get" action="/console/dead-letters/confirm" {
                (table("letters", "Dead letters, the oldest first", headers, &rows))
                p.buttons {
                    button type="submit" name="action" value="replay" { "Replay those that are chosen…" }
                    button type="submit" name="action" value="drop" { "Drop those that are chosen…" }
                }
            }
        } @else {
            (table("letters", "Dead letters, the oldest first", headers, &rows))
        }
        (pager("/console/dead-letters", &filters, listed.next.as_deref()))
    };
    let frame = Frame {
        session: &session,
        section: Section::DeadLetters,
        title: "Dead letters",
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
) -> Answer {
    let letter = gateway.api.dead_letter(&session.caller, number(&id)?).await?;
    let content = html! {
        (facts("summary", &[
            ("Subject", html! { (text::line(&letter.subject)) }),
            ("Reason", html! { (text::block(&letter.reason)) }),
            ("Service", html! { (text::line(&letter.service)) ", consumer " (text::line(&letter.consumer)) }),
            ("Deliveries", html! { (letter.deliveries) }),
            ("When", html! { (text::line(&letter.at)) }),
            ("Trace", html! {
                @match trace_id(&letter) { Some(id) => code { (text::line(id)) }, None => "–" }
            }),
            ("About", about(&letter)),
        ]))
        @if session.caller.must_operate().is_ok() {
            div.buttons {
                (action_button(&session, &letter))
                a.danger href={ "/console/dead-letters/confirm?action=drop&id=" (letter.id) } { "Drop it…" }
            }
        }
        h2 { "Body" }
        pre.log tabindex="0" { (body(&letter)) }
    };
    let title = format!("Dead letter {}", letter.id);
    let frame =
        Frame { session: &session, section: Section::DeadLetters, title: &title, live: None };
    Ok(layout::page(&frame, &content))
}

/// What its body is about: there its waterfall is, with this trace in it.
fn about(letter: &DeadLetter) -> Markup {
    let id = |key: &str| letter.body[key].as_str().and_then(|id| id.parse::<uuid::Uuid>().ok());
    html! {
        @match (id("taskId"), id("buildId")) {
            (Some(id), _) => a href={ "/console/tasks/" (id) } { "task " (id) },
            (None, Some(id)) => a href={ "/console/builds/" (id) } { "build " (id) },
            (None, None) => "–",
        }
    }
}

fn action_button(session: &Session, letter: &DeadLetter) -> Markup {
    html! {
        form.inline method="post" action="/console/dead-letters/replay" {
            (csrf(session))
            input type="hidden" name="id" value=(letter.id);
            button type="submit" { "Replay it" }
        }
    }
}

fn body(letter: &DeadLetter) -> String {
    let text = match &letter.body {
        serde_json::Value::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let shown = &text[..text.floor_char_boundary(MAX_BODY)];
    let more = text.len() - shown.len();
    let mut shown = text::block(shown);
    if more > 0 {
        shown.push_str(&format!("\n… ({more} bytes more)"));
    }
    shown
}

/// The second part of `00-<trace>-<span>-01`.
fn trace_id(letter: &DeadLetter) -> Option<&str> {
    letter.traceparent.as_deref()?.split('-').nth(1)
}

/// What is to be done to which, before it is done. Read from the address, where an id may stand more than once.
pub(super) async fn confirm(
    State(gateway): State<Gateway>,
    session: Session,
    uri: axum::http::Uri,
) -> Answer {
    session.caller.must_operate()?;
    let query = uri.query().unwrap_or_default();
    let pairs: Vec<_> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let ids = pairs.iter().filter(|(name, _)| name == "id").map(|(_, value)| number(value));
    let ids = ids.collect::<Result<Vec<u64>, Error>>()?;
    let is_drop = pairs.iter().any(|(name, value)| name == "action" && value == "drop");
    let action = if is_drop { LetterAction::Drop } else { LetterAction::Replay };
    let mut letters = Vec::with_capacity(ids.len());
    for id in ids {
        match gateway.api.dead_letter(&session.caller, id).await {
            Ok(letter) => letters.push(letter),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let content = html! {
        @if letters.is_empty() {
            p { "None is chosen that is still there." }
        } @else {
            p {
                @match action {
                    LetterAction::Drop => { "These are dropped for good:" }
                    LetterAction::Replay => { "These are sent again to where they were to go:" }
                }
            }
            ul.names {
                @for letter in &letters {
                    li { (letter.id) ": " (text::line(&letter.subject)) " – " (text::line(&letter.reason)) }
                }
            }
            form method="post" action={ "/console/dead-letters/" (action.as_str()) } {
                (csrf(&session))
                @for letter in &letters { input type="hidden" name="id" value=(letter.id); }
                button.danger[is_drop] type="submit" {
                    @match action { LetterAction::Drop => "Drop", LetterAction::Replay => "Replay" }
                    " " (letters.len())
                }
            }
        }
        p { a href="/console/dead-letters" { "Leave them" } }
    };
    let frame = Frame {
        session: &session,
        section: Section::DeadLetters,
        title: "Are you sure?",
        live: None,
    };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn replay(State(gateway): State<Gateway>, act: Act) -> Answer {
    settle(&gateway, &act, LetterAction::Replay).await
}

pub(super) async fn drop_them(State(gateway): State<Gateway>, act: Act) -> Answer {
    settle(&gateway, &act, LetterAction::Drop).await
}

async fn settle(gateway: &Gateway, act: &Act, action: LetterAction) -> Answer {
    let ids = act.form.all("id").map(number).collect::<Result<Vec<u64>, Error>>()?;
    gateway.api.settle_letters(&act.session.caller, &ids, action).await?;
    let said = match action {
        LetterAction::Replay => "replayed",
        LetterAction::Drop => "dropped",
    };
    Ok(Redirect::to(&format!("/console/dead-letters?notice={said}")).into_response())
}

fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::NotFound("such dead letter: it has a number".to_owned()))
}
