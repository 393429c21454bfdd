//! The two servers, and what they stand on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::serve::ListenerExt as _;
use mecapy_bus::Backbone;
use mecapy_objects::Objects;
use mecapy_service::{Condition, Context, chain};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{Api, Config, Deps, Tokens, console, grpc, http, metric_definitions};

const LOOK_EVERY: Duration = Duration::from_secs(5);

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// What both servers answer from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gateway {
    pub api: Api,
    pub tokens: Arc<Tokens>,
}

/// Runs the gateway until it is told to stop, and what it holds has been answered.
pub async fn run(config: Config, context: Context) -> Result<(), AnyError> {
    metric_definitions::register();
    let tokens = config.gateway.tokens()?;
    let http = bind("gateway.listen", config.gateway.listen).await?;
    let grpc = bind("gateway.grpc_listen", config.gateway.grpc_listen).await?;
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    let objects = Objects::new(&config.s3);
    tokio::spawn(watch_objects(objects.clone(), context.health.condition("s3")));
    let deps = Deps {
        bus: backbone.bus.clone(),
        pool: backbone.pool.clone(),
        outbox: backbone.outbox.clone(),
        live: backbone.live.clone(),
        objects,
        storage_limit_bytes: config.janitor.storage_limit_bytes,
        webhooks: config.webhooks,
        shutdown: context.shutdown.clone(),
    };
    let api = Api::start(deps, &config.gateway);
    tracing::info!(http = %http.local_addr()?, grpc = %grpc.local_addr()?, "the gateway listens");
    let gateway = Gateway { api, tokens: Arc::new(tokens) };
    gateway.serve(http, grpc, context.shutdown, context.hand_back).await?;
    backbone.bus.flush().await;
    Ok(())
}

impl Gateway {
    /// Answers until `shutdown`, then what is being answered; `hand_back` cuts that off.
    pub async fn serve(
        self,
        http: TcpListener,
        grpc: TcpListener,
        shutdown: CancellationToken,
        hand_back: CancellationToken,
    ) -> Result<(), AnyError> {
        let router = http::router(self.clone())
            .merge(console::router(self.clone()))
            .into_make_service_with_connect_info::<SocketAddr>();
        let over_http = async {
            let stopped = shutdown.clone().cancelled_owned();
            // Small answers and events go out at once.
            let http = http.tap_io(|stream| drop(stream.set_nodelay(true)));
            axum::serve(http, router).with_graceful_shutdown(stopped).await.map_err(AnyError::from)
        };
        let over_grpc = grpc::serve(self, grpc, shutdown.clone());
        tokio::select! {
            result = async { tokio::try_join!(over_http, over_grpc) } => result.map(|_| ()),
            () = hand_back.cancelled() => Ok(()),
        }
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener, AnyError> {
    TcpListener::bind(address).await.map_err(|error| format!("{key}: {address}: {error}").into())
}

async fn watch_objects(objects: Objects, condition: Condition) {
    loop {
        match objects.ping().await {
            Ok(()) => condition.met(),
            Err(error) => condition.missing(chain(&error)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
