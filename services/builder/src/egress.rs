//! The network that a step of a build has: a loopback, and on it a proxy that leads to the package index and nowhere
//! else.
//!
//! ```text
//! uv in a step of a build ─▶ 127.0.0.1:3128 ─▶ relay.py, in a container without a network, which the step joins
//!                                                  │ its stdin and stdout, as frames (tunnel)
//!                                                  ▼
//!                          this process: allowed? (allowed) ─▶ the index, by the operators' proxy where there is one
//! ```
//!
//! A step has no address, no route and no name service, so that nothing can be reached past the proxy, whatever ports
//! the machine or other containers have open. It needs no right but that to run containers, and works wherever the
//! engine runs. TLS is between uv and the index: the proxy sees host and port alone. Credentials of the operators'
//! proxy stay in this process.
//!
//! A relay serves one step at a time: no build sees another's loopback or takes its connections, and what was refused
//! ([`Refused`]) is known of the step that asked for it. One whose step has ended serves the next.

mod allowed;
mod proxy;
mod refused;
mod tunnel;
mod upstream;

use std::sync::{Arc, Mutex, PoisonError};

use mecapy_engine::{Companion, Engine, Limits, RunRequest};
use tokio::task::JoinHandle;

use crate::Error;
use crate::options::Options;
use allowed::Allowed;
use proxy::Proxy;
use refused::Session;
use tunnel::Tunnel;
use upstream::Upstream;

pub(crate) use allowed::host_and_port;
pub(crate) use refused::Refused;
pub(crate) use upstream::proxy_address;

/// Where builds find the proxy.
pub const PROXY_URL: &str = "http://127.0.0.1:3128";
const PORT: &str = "3128";
const LABEL: &str = "org.mecapy.egress";
/// No start takes that long.
const NOT_STARTED_SECONDS: i64 = 600;
const RELAY: &str = include_str!("../templates/relay.py");
/// Its buffers are far below that.
const RELAY_MEMORY_BYTES: u64 = 256 << 20;

/// The networks of this process's builds. There are as many as there were steps at once.
#[derive(Debug)]
pub struct Egress {
    engine: Engine,
    proxy: Arc<Proxy>,
    idle: Idle,
}

type Idle = Arc<Mutex<Vec<Relay>>>;

#[derive(Debug)]
struct Relay {
    companion: Companion,
    serving: JoinHandle<()>,
    /// Whom it serves.
    session: Arc<Mutex<Arc<Session>>>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// The network of one step. Dropped without [`end`](Self::end), it is taken down.
#[derive(Debug)]
pub struct Network {
    name: String,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    relay: Relay,
    session: Arc<Session>,
    idle: Idle,
}

impl Network {
    /// One of the operators': what a step asks for in there, nobody knows.
    pub fn of_operators(name: String) -> Self {
        Self { name, lease: None }
    }

    /// As the engine names it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// To be called when the step's containers are gone: another step may have it. What this one was refused.
    pub fn end(self) -> Refused {
        self.lease.map(Lease::end).unwrap_or_default()
    }
}

impl Lease {
    fn end(self) -> Refused {
        self.session.ended.cancel();
        let refused = self.session.refused();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(self.relay);
        refused
    }
}

impl Egress {
    pub fn new(engine: Engine, options: &Options) -> Self {
        let proxy = Proxy { allowed: Allowed::of(options), upstream: Upstream::of(options) };
        Self { engine, proxy: Arc::new(proxy), idle: Idle::default() }
    }

    /// A network for one step. `image`: one with Python, that the engine has.
    pub async fn network(&self, image: &str) -> Result<Network, Error> {
        let relay = match self.idle() {
            Some(relay) => relay,
            None => self.start(image).await?,
        };
        let session = Arc::new(Session::default());
        *relay.session.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&session);
        let name = relay.companion.network();
        let lease = Lease { relay, session, idle: Arc::clone(&self.idle) };
        Ok(Network { name, lease: Some(lease) })
    }

    fn idle(&self) -> Option<Relay> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|relay| !relay.serving.is_finished());
        idle.pop()
    }

    async fn start(&self, image: &str) -> Result<Relay, Error> {
        self.sweep().await;
        let command = ["python", "-I", "-S", "-c", RELAY, PORT];
        let request = RunRequest {
            image: image.to_owned(),
            name: format!("mecapy-egress-{}", uuid::Uuid::now_v7().simple()),
            cmd: command.map(str::to_owned).to_vec(),
            labels: [(LABEL.to_owned(), String::new())].into(),
            limits: Limits { memory_bytes: RELAY_MEMORY_BYTES, ..Limits::default() },
            ..RunRequest::default()
        };
        let started = self.engine.start_companion(request).await;
        let (companion, output, input) =
            started.map_err(Error::engine("making the network of builds"))?;
        let tunnel = Tunnel::open(output, input).await.map_err(Error::Egress)?;
        let session = Arc::new(Mutex::new(Arc::new(Session::default())));
        let (proxy, serves) = (Arc::clone(&self.proxy), Arc::clone(&session));
        let serving = tokio::spawn(async move {
            let end = tunnel
                .serve(move |opened| {
                    let session =
                        Arc::clone(&serves.lock().unwrap_or_else(PoisonError::into_inner));
                    let proxy = Arc::clone(&proxy);
                    async move {
                        let ended = session.ended.clone();
                        tokio::select! {
                            () = proxy.serve(opened, session) => {}
                            () = ended.cancelled() => {}
                        }
                    }
                })
                .await;
            tracing::warn!(end, "a network of builds has ended; the next build makes another");
        });
        Ok(Relay { companion, serving, session })
    }

    /// Removes what a builder left that died between making a container and starting it. Others go by themselves.
    async fn sweep(&self) {
        let old = chrono::Utc::now().timestamp() - NOT_STARTED_SECONDS;
        let found = self.engine.containers(&[LABEL]).await.unwrap_or_default();
        for left in found.iter().filter(|found| !found.running && found.created_at < old) {
            if let Err(error) = self.engine.remove_container(&left.id).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(container.name = left.name, error, "a container stays");
            }
        }
    }

    /// Takes down what serves nobody.
    pub fn close(&self) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
