//! The network that builds run in: a loopback, and on it a proxy that leads to the package index and nowhere else.
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

mod allowed;
mod proxy;
mod tunnel;
mod upstream;

use std::sync::Arc;

use mecapy_engine::{Companion, Engine, Limits, RunRequest};
use tokio::task::JoinHandle;

use crate::Error;
use crate::options::Options;
use allowed::Allowed;
use proxy::Proxy;
use tunnel::Tunnel;
use upstream::Upstream;

pub(crate) use allowed::host_and_port;
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

/// The network of this process's builds. It is made with the first of them.
#[derive(Debug)]
pub struct Egress {
    engine: Engine,
    proxy: Arc<Proxy>,
    running: tokio::sync::Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    companion: Companion,
    serving: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Egress {
    pub fn new(engine: Engine, options: &Options) -> Self {
        let proxy = Proxy { allowed: Allowed::of(options), upstream: Upstream::of(options) };
        Self { engine, proxy: Arc::new(proxy), running: tokio::sync::Mutex::default() }
    }

    /// The network, as the engine names it. `image`: one with Python, that the engine has.
    pub async fn network(&self, image: &str) -> Result<String, Error> {
        let mut running = self.running.lock().await;
        if let Some(running) = running.as_ref().filter(|running| !running.serving.is_finished()) {
            return Ok(running.companion.network());
        }
        self.sweep().await;
        let doing = "making the network of builds";
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
        let (companion, output, input) = started.map_err(Error::engine(doing))?;
        let tunnel = Tunnel::open(output, input).await.map_err(Error::Egress)?;
        let proxy = Arc::clone(&self.proxy);
        let serving = tokio::spawn(async move {
            let end = tunnel.serve(move |connection| Arc::clone(&proxy).serve(connection)).await;
            tracing::warn!(end, "the network of builds has ended; the next build makes another");
        });
        let made = running.insert(Running { companion, serving });
        Ok(made.companion.network())
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

    /// Takes it down.
    pub async fn close(&self) {
        self.running.lock().await.take();
    }
}
