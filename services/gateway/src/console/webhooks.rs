//! Webhooks, what was delivered to them, and sending it again. They are made over HTTP or with the CLI: the answer has
//! the secret, which no page shows.

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Redirect};
use maud::{Markup, html};
use mecapy_store::deliveries::DeliveryState;
use serde::Deserialize;
use uuid::Uuid;

use super::builds::Noticed;
use super::layout::{self, Frame, Section};
use super::parts::{badge, button, choice, empty, facts, maybe_time, notice, pager, table, time};
use super::problem::Answer;
use super::session::Act;
use super::text::{self, duration};
use crate::api::{Session, WebhookPage};
use crate::http::{delivery_id, webhook_id};
use crate::view::webhooks::{Delivery, Webhook};
use crate::{Gateway, Role};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    page_token: String,
    status: String,
    notice: String,
}

impl ListQuery {
    fn page(&self) -> WebhookPage {
        WebhookPage { size: 0, token: self.page_token.clone() }
    }
}

pub(super) async fn list(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let caller = &session.caller;
    let (webhooks, next) = gateway.api.webhooks(caller, None, &query.page()).await?;
    let all = caller.role != Role::Owner;
    let rows = html! {
        @for webhook in &webhooks {
            tr {
                th scope="row" { a href={ "/console/webhooks/" (webhook.webhook_id) } { (text::line(&webhook.url)) } }
                @if all { td { (text::line(&webhook.owner)) } }
                td { (of_function(webhook)) }
                td { (text::line(&webhook.events.join(", ").replace('_', " "))) }
                td { (state(webhook)) }
                td { (time(webhook.created_at)) }
            }
        }
        @if webhooks.is_empty() { (empty(6, "There are none. They are made with mecapy webhooks add, or POST /webhooks.")) }
    };
    let headers: &[&str] = if all {
        &["Called", "Owner", "Function", "Told of", "State", "Since"]
    } else {
        &["Called", "Function", "Told of", "State", "Since"]
    };
    let filters = [("page_token", query.page_token.as_str())];
    let content = html! {
        (table("webhooks", "Webhooks, the oldest first", headers, &rows))
        (pager("/console/webhooks", &filters, next.as_deref()))
    };
    let frame =
        Frame { session: &session, section: Section::Webhooks, title: "Webhooks", live: None };
    Ok(layout::page(&frame, &content))
}

fn of_function(webhook: &Webhook) -> Markup {
    html! {
        @match webhook.function_id {
            Some(id) => a href={ "/console/functions/" (id) } { (id) },
            None => "all",
        }
    }
}

fn state(webhook: &Webhook) -> Markup {
    html! {
        (badge(if webhook.enabled { "enabled" } else { "disabled" }))
        @if let Some(reason) = &webhook.disabled_reason { " " (text::line(reason)) }
        @else if let Some(since) = webhook.failing_since { " nothing was delivered since " (time(since)) }
    }
}

pub(super) async fn one(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
) -> Answer {
    let (caller, id) = (&session.caller, webhook_id(&id)?);
    let status = DeliveryState::parse(&query.status).map(DeliveryState::as_str);
    let webhook = gateway.api.webhook(caller, id).await?;
    let (deliveries, next) = gateway.api.deliveries(caller, id, status, &query.page()).await?;
    let path = format!("/console/webhooks/{id}");
    let rows = html! {
        @for delivery in &deliveries {
            tr {
                th scope="row" { a href={ "/console/deliveries/" (delivery.delivery_id) } { (text::line(&delivery.event_id)) } }
                td { (badge(delivery.status)) }
                td.number { (delivery.tries) }
                td { (last(delivery)) }
                td { (time(delivery.created_at)) }
                td { (maybe_time(delivery.next_attempt_at)) }
            }
        }
        @if deliveries.is_empty() { (empty(6, "Nothing of that kind was sent in the last 30 days.")) }
    };
    let headers = ["Event", "State", "Tries", "Last answer", "Made", "Next try"];
    let states: Vec<&str> = DeliveryState::ALL.iter().map(|state| state.as_str()).collect();
    let filters =
        [("status", status.unwrap_or_default()), ("page_token", query.page_token.as_str())];
    let content = html! {
        (notice(&query.notice))
        (facts("summary", &[
            ("State", state(&webhook)),
            ("Owner", html! { (text::line(&webhook.owner)) }),
            ("Function", of_function(&webhook)),
            ("Told of", html! { (text::line(&webhook.events.join(", ").replace('_', " "))) }),
            ("Description", html! { (text::line(&webhook.description)) }),
            ("Since", time(webhook.created_at)),
        ]))
        @if !webhook.enabled && caller.must_act().is_ok() {
            (button(&session, &format!("{path}/enable"), "Have it told again"))
        }
        form.filters method="get" action=(path) role="search" {
            (choice("status", "State", &states, status.unwrap_or_default()))
            button type="submit" { "Show" }
        }
        (table("deliveries", "What was sent, the newest first", &headers, &rows))
        (pager(&path, &filters, next.as_deref()))
    };
    let title = text::line(&webhook.url);
    let frame = Frame { session: &session, section: Section::Webhooks, title: &title, live: None };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn enable(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    let id = webhook_id(&id)?;
    gateway.api.enable_webhook(&act.session.caller, id).await?;
    Ok(Redirect::to(&format!("/console/webhooks/{id}?notice=enabled")).into_response())
}

fn last(delivery: &Delivery) -> Markup {
    html! {
        @if let Some(status) = delivery.last_status { (status) " " }
        @if let Some(error) = &delivery.last_error { (text::line(error)) }
    }
}

pub(super) async fn delivery(
    State(gateway): State<Gateway>,
    session: Session,
    Path(id): Path<String>,
    Query(query): Query<Noticed>,
) -> Answer {
    let caller = &session.caller;
    let delivery = gateway.api.delivery(caller, delivery_id(&id)?).await?;
    let id: Uuid = delivery.delivery_id;
    let attempts = delivery.attempts.as_deref().unwrap_or_default();
    let rows = html! {
        @for attempt in attempts {
            tr {
                td.number { (attempt.attempt) }
                td { (time(attempt.began_at)) }
                td.number { (duration(attempt.duration_ms as f64)) }
                td { @if let Some(status) = attempt.status { (status) } }
                td { @if let Some(error) = &attempt.error { (text::line(error)) } }
            }
        }
        @if attempts.is_empty() { (empty(5, "It was not tried yet.")) }
    };
    let content = html! {
        (notice(&query.notice))
        (facts("summary", &[
            ("Event", html! { (text::line(&delivery.event_id)) }),
            ("Webhook", html! { a href={ "/console/webhooks/" (delivery.webhook_id) } { code { (delivery.webhook_id) } } }),
            ("State", badge(delivery.status)),
            ("Made", time(delivery.created_at)),
            ("Ended", maybe_time(delivery.ended_at)),
            ("Next try", maybe_time(delivery.next_attempt_at)),
            ("Given up", maybe_time(delivery.give_up_at)),
        ]))
        @if caller.must_act().is_ok() {
            (button(&session, &format!("/console/deliveries/{id}/resend"), "Send it again"))
        }
        (table("attempts", "Tries", &["Try", "When", "Took", "Answer", "Error"], &rows))
        @if let Some(message) = &delivery.message {
            h2 { "Message" }
            pre.log tabindex="0" { (text::tail(message.get().as_bytes()).text) }
        }
    };
    let frame =
        Frame { session: &session, section: Section::Webhooks, title: "Delivery", live: None };
    Ok(layout::page(&frame, &content))
}

pub(super) async fn resend(
    State(gateway): State<Gateway>,
    Path(id): Path<String>,
    act: Act,
) -> Answer {
    let id = delivery_id(&id)?;
    gateway.api.resend_delivery(&act.session.caller, id).await?;
    Ok(Redirect::to(&format!("/console/deliveries/{id}?notice=resent")).into_response())
}
