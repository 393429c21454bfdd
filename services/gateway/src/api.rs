//! What the gateway does, whoever asks by whatever protocol.

mod bases;
mod builds;
mod cleanup;
mod dead_letters;
mod details;
mod functions;
mod idempotency;
mod lists;
mod rebuilds;
mod sessions;
mod system;
mod tasks;
mod traces;
mod waiting;
mod watch;
mod watch_task;
mod webhooks;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Bus, Live, Outbox, Outgoing, Results};
use mecapy_objects::Objects;
use mecapy_proto::FunctionId;
use mecapy_store::{PgConnection, PgPool, audit, functions as stored};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::validate::Rules;
use crate::{Backlog, Caller, Error, Hub, Options};

pub(crate) use cleanup::{CleanupAction, CleanupItems, CleanupRun, why_not_applied};
pub(crate) use dead_letters::LetterAction;
pub(crate) use details::{BuildDetails, BuildText, FunctionDetails, TaskDetails};
pub(crate) use idempotency::IdempotencyKey;
pub(crate) use lists::{BuildQuery, FunctionQuery, TaskQuery};
pub(crate) use sessions::{LogIn, Session};
pub(crate) use system::{Advisories, ConsumerBacklog, Mirrored, Snapshot, Storage, Work};
pub(crate) use tasks::{LogStream, TaskRequest};
pub(crate) use waiting::MAX_WAIT;
pub(crate) use watch::BuildEvent;
pub(crate) use watch_task::TaskEvent;
pub(crate) use webhooks::{WebhookPage, WebhookRequest};

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
    sessions: sessions::Sessions,
    system: system::System,
    storage_limit_bytes: u64,
    webhooks: mecapy_webhooks::Options,
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
    /// What the registry may hold.
    pub storage_limit_bytes: u64,
    /// Which receivers may be called.
    pub webhooks: mecapy_webhooks::Options,
    /// Ends what waits.
    pub shutdown: CancellationToken,
}

impl Api {
    /// Follows events and its own backlog from now on.
    pub fn start(deps: Deps, options: &Options) -> Self {
        let Deps { bus, pool, outbox, live, objects, storage_limit_bytes, webhooks, shutdown } =
            deps;
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
            results: Results::new(bus.clone()),
            system: system::System::new(bus),
            sessions: sessions::Sessions::new(options),
            storage_limit_bytes,
            webhooks,
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

/// Notes what somebody does, as part of the transaction that does it.
async fn note(
    conn: &mut PgConnection,
    caller: &Caller,
    action: &str,
    target: &str,
    detail: serde_json::Value,
) -> Result<(), Error> {
    Ok(audit::record(conn, &act(caller, action, target, detail)).await?)
}

fn act<'a>(
    caller: &'a Caller,
    action: &'a str,
    target: &'a str,
    detail: serde_json::Value,
) -> audit::Action<'a> {
    let (owner, role) = (caller.owner.as_str(), caller.role.as_str());
    audit::Action { owner, role, action, target, detail }
}
