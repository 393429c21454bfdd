//! Who did what, for operators.

use axum::extract::{Query, State};
use maud::html;
use serde::Deserialize;

use super::layout::{self, Frame, Section};
use super::parts::{badge, empty, pager, table, time};
use super::problem::Answer;
use super::text;
use crate::Gateway;
use crate::api::Session;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    page_token: String,
}

pub(super) async fn page(
    State(gateway): State<Gateway>,
    session: Session,
    Query(query): Query<ListQuery>,
) -> Answer {
    let listed = gateway.api.audit(&session.caller, &query.page_token).await?;
    let rows = html! {
        @for row in &listed.rows {
            tr {
                td { (time(row.at)) }
                td { (text::line(&row.owner)) " " span.quiet { (text::line(&row.role)) } }
                th scope="row" { (text::line(&row.action)) }
                td { code { (text::line(&row.target)) } }
                td { (badge(&row.outcome)) }
                td { code { (text::line(&row.detail.to_string())) } }
            }
        }
        @if listed.rows.is_empty() { (empty(6, "Nobody has done anything yet.")) }
    };
    let headers = ["When", "Who", "What", "Of", "Outcome", "More"];
    let filters = [("page_token", query.page_token.as_str())];
    let content = html! {
        (table("audit", "What people did, the newest first", &headers, &rows))
        (pager("/console/audit", &filters, listed.next.as_deref()))
    };
    let frame = Frame { session: &session, section: Section::Audit, title: "Audit", live: None };
    Ok(layout::page(&frame, &content))
}
