//! Who looks at a page, and who acts: log-in, log-out, and the one place that lets something be changed.

use std::net::SocketAddr;

use axum::body::to_bytes;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Query, Request, State};
use axum::http::header::{COOKIE, RETRY_AFTER, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::problem::{Answer, Problem};
use super::{guard, layout};
use crate::api::{LogIn, Session};
use crate::{Error, Gateway};

/// Room for the numbers of all dead letters of a page.
const MAX_FORM_BYTES: usize = 64 * 1024;
const RETRY_AFTER_SECONDS: u32 = 60;

/// Of a secure cookie: a browser then takes it only over TLS, of this host alone.
const SECURE_COOKIE: &str = "__Host-mecapy";
const PLAIN_COOKIE: &str = "mecapy";

impl FromRequestParts<Gateway> for Session {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, gateway: &Gateway) -> Result<Self, Response> {
        let found = match cookie(&parts.headers, gateway) {
            Some(cookie) => gateway.api.session(&gateway.tokens, &cookie).await,
            None => Ok(None),
        };
        match found {
            Ok(Some(session)) => Ok(session),
            Ok(None) if parts.method == Method::GET => {
                let here = parts.uri.path_and_query().map_or("/console", |uri| uri.as_str());
                let next: String = url::form_urlencoded::byte_serialize(here.as_bytes()).collect();
                Err(Redirect::to(&format!("/console/login?next={next}")).into_response())
            }
            Ok(None) => Err(Redirect::to("/console/login").into_response()),
            // Never as nobody: the page would say that one is logged out.
            Err(error) => Err(Problem::from(error).into_response()),
        }
    }
}

fn cookie(headers: &HeaderMap, gateway: &Gateway) -> Option<String> {
    let name = cookie_name(gateway);
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
}

fn cookie_name(gateway: &Gateway) -> &'static str {
    if gateway.api.has_secure_cookie() { SECURE_COOKIE } else { PLAIN_COOKIE }
}

/// With an empty value it goes.
fn set_cookie(gateway: &Gateway, value: &str) -> Result<HeaderValue, Error> {
    let secure = if gateway.api.has_secure_cookie() { "; Secure" } else { "" };
    let seconds = if value.is_empty() { 0 } else { gateway.api.session_lasts().as_secs() };
    let name = cookie_name(gateway);
    let text =
        format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::from_str(&text).map_err(|error| Error::Internal(error.into()))
}

/// The fields of a form.
#[derive(Debug)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Refuses what another site has sent.
    async fn read(request: Request) -> Result<Self, Problem> {
        if !guard::is_from_here(request.headers()) {
            return Err(Error::Forbidden("another site has sent this: nothing was done").into());
        }
        let body = to_bytes(request.into_body(), MAX_FORM_BYTES).await.map_err(|_| {
            Error::BodyTooLarge { limit: MAX_FORM_BYTES, hint: "a form needs no more" }
        })?;
        Ok(Self(url::form_urlencoded::parse(&body).into_owned().collect()))
    }

    pub(super) fn get(&self, name: &'static str) -> &str {
        self.all(name).next().unwrap_or_default()
    }

    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A form that one of our pages has sent, of whoever is logged in: every change comes by here.
#[derive(Debug)]
pub(super) struct Act {
    pub session: Session,
    pub form: Form,
}

impl FromRequest<Gateway> for Act {
    type Rejection = Response;

    async fn from_request(request: Request, gateway: &Gateway) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = Session::from_request_parts(&mut parts, gateway).await?;
        let form = Form::read(Request::from_parts(parts, body)).await;
        let form = form.map_err(Problem::into_response)?;
        if !session.is_its_csrf(form.get("csrf")) {
            let error = Error::Forbidden(
                "this form is not of your session, or is too old: go back, look again, and send it once more",
            );
            return Err(Problem::from(error).into_response());
        }
        Ok(Self { session, form })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Next {
    #[serde(default)]
    next: String,
}

pub(super) async fn form(Query(query): Query<Next>) -> Response {
    layout::bare("Log in", &login_form(local(&query.next), None)).into_response()
}

fn login_form(next: &str, problem: Option<&str>) -> Markup {
    html! {
        @if let Some(problem) = problem { p.warn #problem role="alert" { (problem) } }
        form.login method="post" action="/console/login" {
            input type="hidden" name="next" value=(next);
            label for="token" { "API token" }
            input #token type="password" name="token" autocomplete="current-password" required autofocus
                aria-describedby=[problem.map(|_| "problem")];
            button type="submit" { "Log in" }
        }
    }
}

pub(super) async fn log_in(
    State(gateway): State<Gateway>,
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    request: Request,
) -> Answer {
    let form = Form::read(request).await?;
    let next = local(form.get("next"));
    let refused = |status: StatusCode, problem: &str| {
        (status, layout::bare("Log in", &login_form(next, Some(problem)))).into_response()
    };
    match gateway.api.log_in(&gateway.tokens, form.get("token"), from.ip()).await? {
        LogIn::Done { cookie, caller } => {
            tracing::info!(owner = %caller.owner, role = caller.role.as_str(), "a log-in to the console");
            let cookie = set_cookie(&gateway, &cookie)?;
            Ok(([(SET_COOKIE, cookie)], Redirect::to(next)).into_response())
        }
        LogIn::WrongToken => Ok(refused(StatusCode::UNAUTHORIZED, "No token is like this one.")),
        LogIn::TooMany => {
            let problem = "No token is like this one, and too many wrong ones came from your address: wait for a minute.";
            let mut response = refused(StatusCode::TOO_MANY_REQUESTS, problem);
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_SECONDS.into());
            Ok(response)
        }
    }
}

pub(super) async fn log_out(State(gateway): State<Gateway>, act: Act) -> Answer {
    gateway.api.log_out(&act.session).await?;
    let cookie = set_cookie(&gateway, "")?;
    Ok(([(SET_COOKIE, cookie)], Redirect::to("/console/login")).into_response())
}

/// Where to go after the log-in: a page of the console, and nowhere else.
fn local(next: &str) -> &str {
    let is_ours = next == "/console"
        || next.strip_prefix("/console").is_some_and(|rest| rest.starts_with(['/', '?']));
    let is_plain = next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours && is_plain { next } else { "/console" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_in_leads_to_a_page_of_ours_and_nowhere_else() {
        for ours in ["/console", "/console/tasks?state=failed", "/console?x=1"] {
            assert_eq!(local(ours), ours);
        }
        for other in
            ["", "//evil", "https://evil", "/consolevil", "/", "/console/\\evil", "/console/\r\nx"]
        {
            assert_eq!(local(other), "/console", "{other}");
        }
    }
}
