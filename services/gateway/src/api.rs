//! What the gateway does, whoever asks by whatever protocol.

mod builds;
mod functions;
mod idempotency;
mod tasks;
mod waiting;
mod watch;
mod watch_task;

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Bus, Live, Outbox, Outgoing, Results};
use mecapy_objects::Objects;
use mecapy_proto::FunctionId;
use mecapy_store::{PgConnection, PgPool, functions as stored};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::validate::Rules;
use crate::{Backlog, Caller, Error, Hub, Options};

pub(crate) use idempotency::IdempotencyKey;
pub(crate) use tasks::{LogStream, TaskRequest};
pub(crate) use waiting::MAX_WAIT;
pub(crate) use watch::BuildEvent;
pub(crate) use watch_task::TaskEvent;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Api(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    outbox: Outbox,
    live: Live,
    objects: Objects,
    results: Results,
    hub: Hub,
    backlog: Backlog,
    rules: Rules,
    /// A wake-up may be missed: then this is how late a waiter is.
    look_every: Duration,
    shutdown: CancellationToken,
}

/// What it stands on.
#[derive(Debug)]
pub struct Deps {
    pub bus: Bus,
    pub pool: PgPool,
    pub outbox: Outbox,
    pub live: Live,
    pub objects: Objects,
    /// Ends what waits.
    pub shutdown: CancellationToken,
}

impl Api {
    /// Follows events and its own backlog from now on.
    pub fn start(deps: Deps, options: &Options) -> Self {
        let Deps { bus, pool, outbox, live, objects, shutdown } = deps;
        let hub = Hub::start(live.clone(), shutdown.clone());
        let backlog = Backlog::start(
            pool.clone(),
            outbox.service(),
            options.max_waiting_messages,
            shutdown.clone(),
        );
        let rules = Rules {
            python_versions: options.python_versions.clone(),
            variants: options.variants.clone(),
            max_task_timeout: options.max_task_timeout(),
        };
        Self(Arc::new(Inner {
            pool,
            outbox,
            live,
            objects,
            results: Results::new(bus),
            hub,
            backlog,
            rules,
            look_every: options.look_every(),
            shutdown,
        }))
    }

    /// A function that the caller may see.
    async fn visible(&self, caller: &Caller, id: FunctionId) -> Result<stored::Function, Error> {
        let function = stored::get(&self.0.pool, id).await?;
        function
            .filter(|function| caller.may_see(&function.owner))
            .ok_or_else(|| Error::UnknownFunction(id.to_string()))
    }

    async fn begin(
        &self,
    ) -> Result<mecapy_store::Transaction<'static, mecapy_store::Postgres>, Error> {
        self.0.pool.begin().await.map_err(|error| mecapy_store::Error::from(error).into())
    }

    /// Commits a transaction with what it sends. The sending itself does not hold the answer: what is not sent
    /// when this process ends, the relay sends.
    async fn commit(
        &self,
        mut transaction: mecapy_store::Transaction<'static, mecapy_store::Postgres>,
        outgoing: Outgoing,
    ) -> Result<(), Error> {
        let conn: &mut PgConnection = &mut transaction;
        let written = self.0.outbox.write(conn, outgoing).await?;
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        let outbox = self.0.outbox.clone();
        tokio::spawn(async move { outbox.send(written).await }.in_current_span());
        Ok(())
    }
}
