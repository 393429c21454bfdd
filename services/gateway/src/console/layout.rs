//! What every page has around it.

use axum::response::{Html, IntoResponse as _, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets::{SCRIPT, STYLE};
use super::parts::csrf;
use crate::Role;
use crate::api::Session;

/// An empty picture: browsers then ask for none.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'%3E%3Crect width='8' height='8' rx='2' fill='%232563eb'/%3E%3C/svg%3E";

/// Where a page belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    Overview,
    Functions,
    Builds,
    Tasks,
    Webhooks,
    Workers,
    Bases,
    Mirror,
    Registry,
    DeadLetters,
    Advisories,
    Audit,
}

/// Section, name, address, and who sees it.
const SECTIONS: &[(Section, &str, &str, &[Role])] = {
    const ALL: &[Role] = Role::ALL;
    const SYSTEM: &[Role] = &[Role::Viewer, Role::Operator];
    &[
        (Section::Overview, "Overview", "/console", ALL),
        (Section::Functions, "Functions", "/console/functions", ALL),
        (Section::Builds, "Builds", "/console/builds", ALL),
        (Section::Tasks, "Tasks", "/console/tasks", ALL),
        (Section::Webhooks, "Webhooks", "/console/webhooks", ALL),
        (Section::Workers, "Workers", "/console/workers", SYSTEM),
        (Section::Bases, "Base images", "/console/bases", SYSTEM),
        (Section::Mirror, "Mirror", "/console/mirror", SYSTEM),
        (Section::Registry, "Registry", "/console/registry", SYSTEM),
        (Section::DeadLetters, "Dead letters", "/console/dead-letters", SYSTEM),
        (Section::Advisories, "Advisories", "/console/advisories", SYSTEM),
        (Section::Audit, "Audit", "/console/audit", &[Role::Operator]),
    ]
};

#[derive(Debug)]
pub(super) struct Frame<'f> {
    pub session: &'f Session,
    pub section: Section,
    pub title: &'f str,
    /// The events that tell when to look again.
    pub live: Option<String>,
}

pub(super) fn page(frame: &Frame<'_>, content: &Markup) -> Response {
    let caller = &frame.session.caller;
    let body = html! {
        body data-live=[frame.live.as_deref()] {
            a.skip href="#main" { "Skip to the content" }
            header.top {
                a.brand href="/console" { "MecaPy" }
                nav aria-label="Main" {
                    ul {
                        @for (section, name, path, roles) in SECTIONS {
                            @if roles.contains(&caller.role) {
                                li {
                                    a href=(path) aria-current=[(*section == frame.section).then_some("page")] { (name) }
                                }
                            }
                        }
                    }
                }
                form.who method="post" action="/console/logout" {
                    (csrf(frame.session))
                    span { (caller.owner.as_str()) " (" (caller.role.as_str()) ")" }
                    button.plain type="submit" { "Log out" }
                }
            }
            main #main tabindex="-1" {
                div.title {
                    h1 { (frame.title) }
                    @if frame.live.is_some() {
                        p.live #live role="status" { a href="" { "Look again" } }
                    }
                }
                (content)
            }
        }
    };
    Html(document(frame.title, true, &body).into_string()).into_response()
}

/// For whoever is not logged in, and for errors.
pub(super) fn bare(title: &str, content: &Markup) -> Html<String> {
    let body = html! {
        body.bare {
            main #main {
                p { a.brand href="/console" { "MecaPy" } }
                h1 { (title) }
                (content)
            }
        }
    };
    Html(document(title, false, &body).into_string())
}

fn document(title: &str, with_script: bool, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · MecaPy" }
                link rel="icon" href=(ICON);
                link rel="stylesheet" href=(STYLE.path());
                @if with_script { script src=(SCRIPT.path()) defer {} }
            }
            (body)
        }
    }
}
