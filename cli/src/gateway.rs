//! The gateway's HTTP API, as a client has it.

mod error;
mod events;
mod model;
mod page;
mod sse;
mod webhooks;
mod workers;

use std::time::Duration;

use mecapy_proto::{BuildId, FunctionId, TaskId};
use mecapy_service::Secret;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder, Url};
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use error::{Error, Problem};
pub use events::{BuildEvent, BuildEvents, TaskEvent, TaskEvents};
pub use model::{Failure, Function, NewFunction, Span, Task, Waterfall};
pub use webhooks::{Delivery, NewWebhook, Webhook};
pub use workers::Worker;

use crate::exit::Stop;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// For an answer that the gateway does not hold back.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What the gateway answered: read, and as it came.
#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub raw: String,
}

#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: Url,
    token: Option<HeaderValue>,
}

impl Client {
    pub fn new(url: &str, token: Option<&Secret>) -> Result<Self, Stop> {
        let usage = |problem: String| Stop::Usage(format!("--url {url}: {problem}"));
        let parsed: Url = url.parse().map_err(|error| usage(format!("{error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") || parsed.host_str().is_none() {
            return Err(usage("must be http://host:port or https://host".to_owned()));
        }
        let mut http = reqwest::Client::builder()
            .user_agent(concat!("mecapy/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_LIMIT);
        if parsed.host_str().is_some_and(is_loopback) {
            // A proxy of the environment can't know this machine's own ports.
            http = http.no_proxy();
        }
        let token = token
            .map(|token| {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
                    .map_err(|_| {
                        Stop::Usage("the token has characters that no token has".to_owned())
                    })?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        let http = http.build().map_err(|error| usage(mecapy_service::chain(&error)))?;
        Ok(Self { http, url: parsed, token })
    }

    /// With `key`, what is sent twice is submitted once.
    pub async fn submit(
        &self,
        function: &NewFunction<'_>,
        key: &str,
    ) -> Result<Answer<Function>, Error> {
        self.once(|| {
            self.request(Method::POST, &["functions"]).header(IDEMPOTENCY_KEY, key).json(function)
        })
        .await
    }

    pub async fn function(&self, id: FunctionId) -> Result<Answer<Function>, Error> {
        self.json(self.request(Method::GET, &["functions", &id.to_string()])).await
    }

    /// One page; `token` is from the page before.
    pub async fn delete_function(&self, id: FunctionId) -> Result<(), Error> {
        self.bytes(self.request(Method::DELETE, &["functions", &id.to_string()])).await.map(drop)
    }

    /// The build's states and log lines, from now on.
    pub async fn build_events(&self, id: BuildId) -> Result<BuildEvents, Error> {
        let answer = self.events(&["builds", &id.to_string(), "events"], "").await?;
        Ok(BuildEvents::new(answer, self.url.clone()))
    }

    /// The task's states, and what its function writes: all of it, or what came after the event with this id.
    pub async fn task_events(&self, id: TaskId, last: &str) -> Result<TaskEvents, Error> {
        let answer = self.events(&["tasks", &id.to_string(), "events"], last).await?;
        Ok(TaskEvents::new(answer, self.url.clone()))
    }

    async fn events(&self, path: &[&str], last: &str) -> Result<reqwest::Response, Error> {
        let mut request = self.request(Method::GET, path).header(ACCEPT, "text/event-stream");
        if !last.is_empty() {
            request = request.header("last-event-id", last);
        }
        // No limit for the whole: builds and tasks take their time. The events have a limit for silence.
        let answer = tokio::time::timeout(ANSWER_LIMIT, request.send())
            .await
            .map_err(|_| self.unreachable("no answer".to_owned(), true))?
            .map_err(|error| self.failed(&error))?;
        self.checked(answer).await
    }

    /// `body` is the JSON of the task: inputs as they were written, not as we would write them.
    /// With `key`, what is sent twice is run once.
    pub async fn run_task(
        &self,
        id: FunctionId,
        body: &str,
        key: &str,
    ) -> Result<Answer<Task>, Error> {
        self.once(|| {
            self.request(Method::POST, &["functions", &id.to_string(), "tasks"])
                .header(CONTENT_TYPE, "application/json")
                .header(IDEMPOTENCY_KEY, key)
                .body(body.to_owned())
        })
        .await
    }

    /// The task now; with `wait`, once it has ended or that time is over.
    pub async fn task(&self, id: TaskId, wait: Option<Duration>) -> Result<Answer<Task>, Error> {
        let mut request = self.request(Method::GET, &["tasks", &id.to_string()]);
        if let Some(wait) = wait {
            request = request
                .header("prefer", format!("wait={}", wait.as_secs()))
                .timeout(wait + ANSWER_LIMIT);
        }
        self.json(request).await
    }

    /// JSON, as the function wrote it.
    pub async fn task_result(&self, id: TaskId) -> Result<String, Error> {
        let answer: Answer<serde::de::IgnoredAny> =
            self.json(self.request(Method::GET, &["tasks", &id.to_string(), "result"])).await?;
        Ok(answer.raw)
    }

    /// What the function wrote to this stream ("stdout", "stderr").
    pub async fn task_log(&self, id: TaskId, stream: &str) -> Result<Vec<u8>, Error> {
        let request = self
            .request(Method::GET, &["tasks", &id.to_string(), "logs"])
            .query(&[("stream", stream)]);
        self.bytes(request).await
    }

    /// What a build wrote, as far as it is stored.
    pub async fn build_log(&self, id: BuildId) -> Result<Vec<u8>, Error> {
        self.bytes(self.request(Method::GET, &["builds", &id.to_string(), "logs"])).await
    }

    /// How one of `kind` ("builds", "tasks") went.
    pub async fn trace(&self, kind: &str, id: Uuid) -> Result<Answer<Waterfall>, Error> {
        self.json(self.request(Method::GET, &[kind, &id.to_string(), "trace"])).await
    }

    /// The build that is begun, or on its way already.
    pub async fn rebuild_function(&self, id: FunctionId) -> Result<Answer<Function>, Error> {
        self.json(self.request(Method::POST, &["functions", &id.to_string(), "rebuild"])).await
    }

    pub async fn cancel_build(&self, id: BuildId) -> Result<Answer<Function>, Error> {
        self.json(self.request(Method::POST, &["builds", &id.to_string(), "cancel"])).await
    }

    pub async fn cancel_task(&self, id: TaskId) -> Result<Answer<Task>, Error> {
        self.json(self.request(Method::POST, &["tasks", &id.to_string(), "cancel"])).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.url.clone();
        // Below the path that the URL has: a gateway may stand behind a prefix.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.header("authorization", token),
            None => request,
        }
    }

    /// Sends a request that has an idempotency key; once more where the answer was lost on the way.
    async fn once<T: DeserializeOwned>(
        &self,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Answer<T>, Error> {
        match self.json(request()).await {
            Err(Error::Unreachable { may_have_arrived: true, .. }) => self.json(request()).await,
            answer => answer,
        }
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Answer<T>, Error> {
        let raw = String::from_utf8_lossy(&self.bytes(request).await?).into_owned();
        match serde_json::from_str(&raw) {
            Ok(value) => Ok(Answer { value, raw }),
            Err(error) => {
                Err(Error::NotOurs { url: self.url.to_string(), cause: error.to_string() })
            }
        }
    }

    async fn bytes(&self, request: RequestBuilder) -> Result<Vec<u8>, Error> {
        let (http, request) = request.build_split();
        let mut request = request.map_err(|error| self.failed(&error))?;
        request.timeout_mut().get_or_insert(ANSWER_LIMIT);
        let answer = http.execute(request).await.map_err(|error| self.failed(&error))?;
        let bytes =
            self.checked(answer).await?.bytes().await.map_err(|error| self.failed(&error))?;
        Ok(bytes.into())
    }

    /// The answer, if it is a good one.
    async fn checked(&self, answer: reqwest::Response) -> Result<reqwest::Response, Error> {
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let body = answer.bytes().await.unwrap_or_default();
        Err(Error::Refused(Problem::read(status, &body)))
    }

    fn failed(&self, error: &reqwest::Error) -> Error {
        self.unreachable(error::innermost(error), !error.is_connect())
    }

    fn unreachable(&self, cause: String, may_have_arrived: bool) -> Error {
        Error::Unreachable { url: self.url.to_string(), cause, may_have_arrived }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(url: &str) -> String {
        mecapy_service::install_tls();
        let client = Client::new(url, None).unwrap();
        client.request(Method::GET, &["functions", "7"]).build().unwrap().url().to_string()
    }

    #[test]
    fn paths_go_below_the_one_that_the_url_has() {
        assert_eq!(path("http://127.0.0.1:8080"), "http://127.0.0.1:8080/functions/7");
        assert_eq!(path("https://host/mecapy/"), "https://host/mecapy/functions/7");
        assert_eq!(path("https://host/mecapy"), "https://host/mecapy/functions/7");
    }

    #[test]
    fn a_url_or_token_that_cannot_work_is_refused_before_anything_is_sent() {
        mecapy_service::install_tls();
        for url in ["", "127.0.0.1:8080", "ftp://host", "http://"] {
            assert!(matches!(Client::new(url, None), Err(Stop::Usage(_))), "{url:?}");
        }
        assert!(matches!(
            Client::new("http://host", Some(&Secret::new("a\nb"))),
            Err(Stop::Usage(_))
        ));
    }

    #[test]
    fn loopback_is_known_in_each_of_its_forms() {
        for host in ["localhost", "127.0.0.1", "127.8.0.1", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["example.org", "10.0.0.1", "localhost.example.org"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
