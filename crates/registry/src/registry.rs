//! The handle to one registry.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mecapy_service::Secret;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, ClientBuilder, Method};
use rustls::crypto::{CryptoProvider, ring};

use crate::auth::{Auth, Credentials};
use crate::challenge::Scope;
use crate::exchange::Call;
use crate::origin::Origin;
use crate::pace::Pace;
use crate::{Error, Options, metric_definitions as metrics};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const IDLE_CONNECTION_LIMIT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 5;

/// One registry. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    origin: Origin,
    auth: Auth,
    http: Client,
    pace: Arc<Pace>,
    patience: Duration,
    /// It answered 404 when it was asked for referrers of something that is there.
    lacks_referrers: AtomicBool,
    has_spans: bool,
}

impl Registry {
    /// Reads the CA bundle if there is one; does not connect.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let origin = Origin::new(options)?;
        let credentials = match (&options.username, &options.password) {
            (Some(username), Some(password)) => {
                Some(Credentials { username: username.clone(), password: password.clone() })
            }
            (None, None) => None,
            (Some(_), None) => {
                return Err(incomplete(options, "it has a username but no password"));
            }
            (None, Some(_)) => {
                return Err(incomplete(options, "it has a password but no username"));
            }
        };
        let http = http_client(options, origin.is_plain_http(), || Policy::custom(follow))?;
        metrics::register(origin.host());
        let pace = Pace::new(origin.host(), options.max_bytes_per_second);
        Ok(Self(Arc::new(Inner {
            origin,
            auth: Auth::new(credentials),
            http,
            pace,
            patience: Duration::from_secs(options.patience_seconds),
            lacks_referrers: AtomicBool::new(false),
            has_spans: true,
        })))
    }

    /// For whoever makes thousands of calls, which a trace would not hold. Of a handle that nobody else has yet.
    #[must_use]
    pub(crate) fn without_spans(mut self) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.has_spans = false;
        }
        self
    }

    pub(crate) fn has_spans(&self) -> bool {
        self.0.has_spans
    }

    /// Its name in image references.
    pub fn host(&self) -> &str {
        self.0.origin.host()
    }

    /// Username and password, for a Docker daemon that pulls or pushes by itself.
    pub fn credentials(&self) -> Option<(String, &Secret)> {
        let credentials = self.0.auth.credentials()?;
        Some((credentials.username.clone(), &credentials.password))
    }

    /// Whether it answers and takes our credentials.
    pub async fn ping(&self) -> Result<(), Error> {
        let url = self.origin().url("")?;
        let call = Call::new("ping", "its API".to_owned(), Method::GET, url, Scope::none());
        self.call(&call).await.map(drop)
    }

    /// Whether two handles lead to the same registry, so that blobs can be mounted.
    pub fn is_same_registry(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.host() == other.host()
    }

    pub(crate) fn origin(&self) -> &Origin {
        &self.0.origin
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.0.auth
    }

    pub(crate) fn pace(&self) -> &Arc<Pace> {
        &self.0.pace
    }

    /// How long it may take to begin an answer, and to go on with one.
    pub(crate) fn patience(&self) -> Duration {
        self.0.patience
    }

    pub(crate) fn lacks_referrers(&self) -> &AtomicBool {
        &self.0.lacks_referrers
    }

    pub(crate) fn http(&self) -> &Client {
        &self.0.http
    }
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Registry").field(&self.host()).finish()
    }
}

fn incomplete(options: &Options, reason: &str) -> Error {
    Error::Options { host: options.host.clone(), reason: reason.to_owned() }
}

pub(crate) fn http_client(
    options: &Options,
    is_plain_http: bool,
    redirects: fn() -> Policy,
) -> Result<Client, Error> {
    // reqwest is built without a provider of its own and takes the process's. Another part may
    // have set one already; then that one is used.
    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
    let roots = match &options.ca_bundle {
        Some(path) => {
            let unusable = |source| Error::CaBundle { path: path.clone(), source };
            let pem = std::fs::read(path).map_err(|e| unusable(e.into()))?;
            let roots = Certificate::from_pem_bundle(&pem).map_err(|e| unusable(e.into()))?;
            if roots.is_empty() {
                return Err(unusable("it holds no certificate".into()));
            }
            roots
        }
        None => Vec::new(),
    };
    let with_system_roots =
        client_builder().redirect(redirects()).tls_certs_merge(roots.clone()).build();
    // A minimal image may have no CA certificates at all. That is no reason to refuse plain HTTP.
    let client = if is_plain_http && with_system_roots.is_err() {
        client_builder().redirect(redirects()).tls_certs_only(roots).build()
    } else {
        with_system_roots
    };
    client.map_err(|e| incomplete(options, &format!("no HTTP client can be made: {e:?}")))
}

fn client_builder() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("mecapy/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_LIMIT)
        .pool_idle_timeout(IDLE_CONNECTION_LIMIT)
}

/// Blobs often live on another host, which the client reaches without our credentials: reqwest
/// removes them when host, port or scheme changes. What is left to refuse is the way out of TLS.
fn follow(attempt: Attempt) -> reqwest::redirect::Action {
    let leaves_tls = attempt.url().scheme() != "https"
        && attempt.previous().last().is_some_and(|from| from.scheme() == "https");
    if leaves_tls {
        attempt.error("a redirect from HTTPS to plain HTTP is not followed")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}
