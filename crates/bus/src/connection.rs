//! The connection that everything else uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{ConnectOptions, Event};
use chrono::{DateTime, Utc};
use mecapy_service::{Condition, Secret};
use serde::{Deserialize, Serialize};

use crate::{Error, Outgoing, metric_definitions as metrics, publisher};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `nats://host:port`, several by commas; `tls://` for TLS. NATS 2.10 or newer, with JetStream.
    pub url: String,
    pub user: Option<String>,
    pub password: Option<Secret>,
}

impl Default for Options {
    fn default() -> Self {
        Self { url: "nats://127.0.0.1:4222".to_owned(), user: None, password: None }
    }
}

/// A connection to NATS that comes back by itself. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: jetstream::Context,
    /// Who publishes, for the headers.
    service: Arc<str>,
    connected: Arc<AtomicI64>,
}

impl Bus {
    /// Connects in the background, for as long as it takes; `condition` tells how it stands.
    pub async fn connect(
        service: &str,
        options: &Options,
        condition: Condition,
    ) -> Result<Self, Error> {
        let connected = Arc::new(AtomicI64::new(Utc::now().timestamp_millis()));
        let since = Arc::clone(&connected);
        let on_event = move |event: Event| {
            let (condition, since) = (condition.clone(), Arc::clone(&since));
            async move {
                match event {
                    Event::Connected => {
                        since.store(Utc::now().timestamp_millis(), Ordering::Relaxed);
                        condition.met();
                    }
                    Event::Disconnected => condition.missing("NATS is not connected"),
                    // A denied permission shows itself here alone: the call just times out.
                    Event::ServerError(error) => {
                        metrics::server_errors().increment(1);
                        tracing::error!(%error, "NATS refused something");
                    }
                    Event::ClientError(error) => tracing::warn!(%error, "NATS client"),
                    _ => {}
                }
            }
        };
        let connect = Self::connect_options(service, options)
            .retry_on_initial_connect()
            .event_callback(on_event);
        Self::finish(service, connect, options, connected).await
    }

    /// Connects now, or says why not: for the CLI.
    pub async fn connect_now(service: &str, options: &Options) -> Result<Self, Error> {
        let connected = Arc::new(AtomicI64::new(Utc::now().timestamp_millis()));
        Self::finish(service, Self::connect_options(service, options), options, connected).await
    }

    /// Since when it is connected without a break, as far as it was told; before the first connection, since it was
    /// made. What was sent before may have reached its stream only then.
    pub fn connected_since(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(self.connected.load(Ordering::Relaxed)).unwrap_or_default()
    }

    async fn finish(
        service: &str,
        connect: ConnectOptions,
        options: &Options,
        connected: Arc<AtomicI64>,
    ) -> Result<Self, Error> {
        let servers: Vec<&str> = options.url.split(',').map(str::trim).collect();
        let client =
            connect.connect(servers).await.map_err(|error| Error::Connect(error.to_string()))?;
        let jetstream = jetstream::context::ContextBuilder::new()
            .timeout(Duration::from_secs(5))
            .ack_timeout(Duration::from_secs(5))
            .build(client.clone());
        Ok(Self { client, jetstream, service: service.into(), connected })
    }

    fn connect_options(service: &str, options: &Options) -> ConnectOptions {
        let connect = ConnectOptions::new()
            .name(format!("mecapy-{service}"))
            // Its own inboxes, so that permissions can be given by service.
            .custom_inbox_prefix(format!("_INBOX.{service}"))
            .connection_timeout(Duration::from_secs(5))
            .ping_interval(Duration::from_secs(10));
        match (&options.user, &options.password) {
            (Some(user), password) => connect.user_and_password(
                user.clone(),
                password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default(),
            ),
            (None, _) => connect,
        }
    }

    /// Publishes an event that no row stands behind, like a schedule's tick or an operator's wish. Its key makes a
    /// second copy harmless.
    pub async fn publish<E: mecapy_proto::Event>(&self, event: &E) -> Result<(), Error> {
        for message in Outgoing::event(event).into_messages() {
            publisher::publish(self, &self.service, &message).await?;
        }
        Ok(())
    }

    /// Sends what is still buffered.
    pub async fn flush(&self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.client.flush()).await;
    }
}
