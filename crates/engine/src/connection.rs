//! The connection to the engine, with a limit on every call that should be quick.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as EngineError};
use serde::{Deserialize, Serialize};

use crate::auth::with_url_alphabet;
use crate::{Error, metric_definitions as metrics};

/// The client library puts one limit on every answer's first byte; ours are given call by call, so
/// this one must never be the one that strikes.
const NEVER_SECONDS: u64 = 7 * 24 * 3600;

/// Where the engine is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `unix:///path` or `tcp://host:port`; the local socket when absent.
    pub host: Option<String>,
    /// The limit for calls that should be quick: everything but build, pull, push and a run itself.
    pub call_timeout_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { host: None, call_timeout_seconds: 60 }
    }
}

/// A handle to the engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) docker: Docker,
    pub(crate) host: Arc<str>,
    pub(crate) call_timeout: Duration,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Engine {
    /// Connects and agrees on an API version. Fails when the engine isn't there: a service waits and
    /// tries again.
    pub async fn connect(options: &Options) -> Result<Self, Error> {
        metrics::register();
        let host = options.host.as_deref().unwrap_or("unix:///var/run/docker.sock");
        let docker = if host.starts_with("unix://") {
            Docker::connect_with_unix(host, NEVER_SECONDS, API_DEFAULT_VERSION)
        } else if host.starts_with("tcp://") || host.starts_with("http://") {
            Docker::connect_with_http(host, NEVER_SECONDS, API_DEFAULT_VERSION)
        } else {
            return Err(Error::Host { host: host.to_owned() });
        };
        let docker = docker
            .map_err(|error| Error::of_call("connect", host, error))?
            .with_request_modifier(with_url_alphabet);
        let engine = Self {
            docker,
            host: host.into(),
            call_timeout: Duration::from_secs(options.call_timeout_seconds),
        };
        let docker = engine.call("agree on a version", engine.docker.clone().negotiate_version());
        Ok(Self { docker: docker.await?, ..engine })
    }

    pub async fn ping(&self) -> Result<(), Error> {
        self.call("ping", self.docker.ping()).await.map(drop)
    }

    /// The names of the OCI runtimes that are registered with it, in order.
    pub async fn runtimes(&self) -> Result<Vec<String>, Error> {
        let info = self.call("info", self.docker.info()).await?;
        let mut names: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
        names.sort();
        Ok(names)
    }

    /// One quick call: limited, measured, its error told by name.
    pub(crate) async fn call<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, Error> {
        let began = Instant::now();
        let result = match tokio::time::timeout(self.call_timeout, answer).await {
            Ok(answer) => answer.map_err(|error| Error::of_call(call, &self.host, error)),
            Err(_) => Err(Error::NoAnswer { call, limit: self.call_timeout }),
        };
        metrics::called(call, result.is_ok(), began.elapsed());
        result
    }
}
