//! One call to a registry: credentials, time limits and metrics.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, IF_NONE_MATCH, RANGE,
};
use reqwest::{Method, Request, Response, StatusCode};
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use url::Url;

use crate::auth::{TokenRequest, TokenResponse};
use crate::challenge::{Challenge, Scope};
use crate::manifest::ACCEPT_MANIFESTS;
use crate::patience::Patience;
use crate::registry::Registry;
use crate::{Digest, Error, metric_definitions as metrics, retry};

/// Error bodies and tokens are small; more than this is not read.
pub(crate) const MAX_SMALL_BODY: u64 = 256 * 1024;

/// What to ask. It can be asked again, so its body is in memory.
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    /// What the call is about, for errors: `manifest a/b:latest`.
    pub(crate) subject: String,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) scope: Scope,
    pub(crate) accepts_manifests: bool,
    /// Ask for the bytes from here on.
    pub(crate) from_byte: Option<u64>,
    /// Only where it leads elsewhere: 304 says that it leads here.
    pub(crate) unless: Option<Digest>,
    pub(crate) body: Option<(Bytes, String)>,
}

impl Call {
    pub(crate) fn new(
        operation: &'static str,
        subject: String,
        method: Method,
        url: Url,
        scope: Scope,
    ) -> Self {
        Self {
            operation,
            subject,
            method,
            url,
            scope,
            accepts_manifests: false,
            from_byte: None,
            unless: None,
            body: None,
        }
    }

    pub(crate) fn accepting_manifests(mut self) -> Self {
        self.accepts_manifests = true;
        self
    }

    pub(crate) fn with_body(mut self, body: Bytes, content_type: &str) -> Self {
        self.body = Some((body, content_type.to_owned()));
        self
    }

    fn request(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        if self.accepts_manifests {
            request.headers_mut().insert(ACCEPT, HeaderValue::from_static(ACCEPT_MANIFESTS));
        }
        if let Some(from) = self.from_byte
            && let Ok(value) = HeaderValue::from_str(&format!("bytes={from}-"))
        {
            request.headers_mut().insert(RANGE, value);
        }
        if let Some(digest) = &self.unless
            && let Ok(value) = HeaderValue::from_str(&format!("\"{digest}\""))
        {
            request.headers_mut().insert(IF_NONE_MATCH, value);
        }
        match &self.body {
            Some((body, content_type)) => {
                if let Ok(value) = HeaderValue::from_str(content_type) {
                    request.headers_mut().insert(CONTENT_TYPE, value);
                }
                *request.body_mut() = Some(body.clone().into());
            }
            // Some registries answer 411 to a POST that does not say that it is empty.
            None if self.method == Method::POST => {
                request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            None => {}
        }
        request
    }
}

impl Registry {
    /// Asks until it works or fails for good. Every status that is not a success is an error, but 304 where a digest was
    /// named.
    pub(crate) async fn call(&self, call: &Call) -> Result<Response, Error> {
        retry::transient(self.host(), call.operation, || self.call_once(call)).await
    }

    pub(crate) async fn call_once(&self, call: &Call) -> Result<Response, Error> {
        let mut is_second_try = false;
        loop {
            let authorization = self.authorization(&call.url, &call.scope).await?;
            let mut request = call.request();
            if let Some(value) = &authorization {
                request.headers_mut().insert(AUTHORIZATION, value.clone());
            }
            let response = self.execute(call.operation, &call.subject, request).await?;
            // What a host that the registry led to asks for is none of ours to answer: the answer would be our password.
            let is_asked =
                response.status() == StatusCode::UNAUTHORIZED && self.origin().owns(response.url());
            if is_asked && !is_second_try {
                is_second_try = true;
                let headers = response.headers();
                if self.auth().learn(headers, &call.scope, authorization.as_ref()).await {
                    continue;
                }
            }
            if response.status() == StatusCode::NOT_MODIFIED && call.unless.is_some() {
                return Ok(response);
            }
            return self.succeeded(&call.method, &call.subject, response).await;
        }
    }

    /// Credentials for `url`, if it is the registry's own.
    pub(crate) async fn authorization(
        &self,
        url: &Url,
        scope: &Scope,
    ) -> Result<Option<HeaderValue>, Error> {
        if self.origin().owns(url) { self.auth().header(self, scope).await } else { Ok(None) }
    }

    /// Sends a request, and waits for its answer as long as the registry is waited for.
    async fn execute(
        &self,
        operation: &'static str,
        subject: &str,
        request: Request,
    ) -> Result<Response, Error> {
        self.pace().open().await;
        let method = request.method().clone();
        let sending = async {
            match tokio::time::timeout(self.patience(), self.http().execute(request)).await {
                Ok(result) => result.map_err(|e| Error::transport(self.host(), subject, e)),
                Err(_) => Err(self.timed_out(subject)),
            }
        };
        self.measured(operation, &method, sending).await
    }

    /// Counts a request and its time, and makes it a span of the trace that it is of.
    pub(crate) async fn measured(
        &self,
        operation: &'static str,
        method: &Method,
        sending: impl Future<Output = Result<Response, Error>>,
    ) -> Result<Response, Error> {
        let started = Instant::now();
        let span =
            if self.has_spans() { span(self.host(), operation, method) } else { Span::none() };
        let result = sending.instrument(span.clone()).await;
        tell(&span, result.as_ref().ok().map(Response::status));
        let status = match &result {
            Ok(response) => response.status().as_str().to_owned(),
            Err(_) => "none".to_owned(),
        };
        metrics::requested(self.host(), operation, status, started.elapsed());
        result
    }

    /// The whole body, at most `limit` bytes.
    pub(crate) async fn body(
        &self,
        subject: &str,
        mut response: Response,
        limit: u64,
    ) -> Result<Bytes, Error> {
        let mut body = BytesMut::new();
        let mut patience = Patience::new(self.patience());
        loop {
            let piece = match patience.wait(response.chunk()).await {
                Some(result) => result.map_err(|e| Error::transport(self.host(), subject, e))?,
                None => return Err(self.timed_out(subject)),
            };
            let Some(piece) = piece else { return Ok(body.freeze()) };
            patience.moved(piece.len());
            if (body.len() + piece.len()) as u64 > limit {
                return Err(Error::TooLarge {
                    host: self.host().to_owned(),
                    subject: subject.to_owned(),
                    limit,
                });
            }
            body.extend_from_slice(&piece);
        }
    }

    pub(crate) fn timed_out(&self, subject: &str) -> Error {
        Error::TimedOut {
            host: self.host().to_owned(),
            subject: subject.to_owned(),
            after: self.patience(),
        }
    }

    pub(crate) fn nonsense(&self, subject: &str, reason: impl Into<String>) -> Error {
        Error::Protocol {
            host: self.host().to_owned(),
            subject: subject.to_owned(),
            reason: reason.into(),
        }
    }
}

/// The calls that authentication itself makes.
impl Registry {
    /// GET `/v2/` without credentials, to see what the registry asks for.
    pub(crate) async fn fetch_challenge(&self) -> Result<Challenge, Error> {
        let subject = "its API";
        let request = Request::new(Method::GET, self.origin().url("")?);
        let response = self.execute("challenge", subject, request).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED if !self.origin().owns(response.url()) => {
                Err(self.nonsense(subject, "it leads to another host, and that one wants a login"))
            }
            StatusCode::UNAUTHORIZED => Challenge::read(response.headers())
                .ok_or_else(|| self.nonsense(subject, "it wants a login we can't give")),
            _ => {
                self.succeeded(&Method::GET, subject, response).await?;
                Ok(Challenge::Open)
            }
        }
    }

    pub(crate) async fn fetch_token(&self, request: TokenRequest) -> Result<TokenResponse, Error> {
        let subject = "a token";
        let mut get = Request::new(Method::GET, request.url);
        if let Some(value) = request.authorization {
            get.headers_mut().insert(AUTHORIZATION, value);
        }
        let response = self.execute("token", subject, get).await?;
        let response = self.succeeded(&Method::GET, subject, response).await?;
        let body = self.body(subject, response, MAX_SMALL_BODY).await?;
        // Not the parser's error: it may quote the token.
        serde_json::from_slice(&body)
            .map_err(|_| self.nonsense(subject, "the token service did not send its JSON"))
    }

    pub(crate) fn no_token(&self, reason: &str) -> Error {
        Error::Unauthorized {
            host: self.host().to_owned(),
            subject: "a token".to_owned(),
            detail: reason.to_owned(),
        }
    }
}

/// As OpenTelemetry's conventions for clients of HTTP have it. What is of no trace begins none.
fn span(host: &str, operation: &'static str, method: &Method) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    let (address, port) = match host.rsplit_once(':') {
        Some((address, port)) => (address, port.parse::<i64>().ok()),
        None => (host, None),
    };
    tracing::info_span!(
        "registry call",
        otel.name = format!("{method} {operation}"),
        otel.kind = "client",
        otel.status_code = Empty,
        http.request.method = method.as_str(),
        http.response.status_code = Empty,
        server.address = address,
        server.port = port,
        error.type = Empty,
    )
}

/// What is not there, and a call that has to show its credentials first, are answers like any other.
fn tell(span: &Span, status: Option<StatusCode>) {
    let Some(status) = status else {
        span.record("otel.status_code", "ERROR").record("error.type", "no_answer");
        return;
    };
    span.record("http.response.status_code", i64::from(status.as_u16()));
    let is_expected = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND);
    if !is_expected && (status.is_client_error() || status.is_server_error()) {
        span.record("otel.status_code", "ERROR").record("error.type", status.as_str());
    }
}
