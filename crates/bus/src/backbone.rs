//! What every service of the chain stands on: NATS, PostgreSQL, the outbox.

use std::time::Duration;

use mecapy_proto::Event;
use mecapy_service::{Condition, Context, chain};
use mecapy_store::PgPool;

use crate::{Bus, Consumer, ConsumerOptions, Error, Handler, Live, Options, Outbox};

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Connected in the background: a service starts in any order, and says what it waits for.
#[derive(Debug, Clone)]
pub struct Backbone {
    pub bus: Bus,
    pub pool: PgPool,
    pub outbox: Outbox,
    pub live: Live,
}

impl Backbone {
    pub async fn start(
        context: &Context,
        nats: &Options,
        postgres: &mecapy_store::Options,
    ) -> Result<Self, Error> {
        let bus = Bus::connect(context.service, nats, context.health.condition("nats")).await?;
        let pool = mecapy_store::connect_lazy(postgres)?;
        tokio::spawn(watch_database(pool.clone(), context.health.condition("postgres")));
        let outbox =
            Outbox::start(bus.clone(), pool.clone(), context.service, context.shutdown.clone());
        let live = Live::new(bus.clone());
        Ok(Self { bus, pool, outbox, live })
    }

    /// Consumes until the service is told to stop, and what runs has ended.
    pub async fn consume<E, H>(&self, context: &Context, options: ConsumerOptions, handler: H)
    where
        E: Event,
        H: Handler<E>,
    {
        let condition = context.health.condition(options.durable.name);
        Consumer::new(options, handler, self.outbox.clone(), condition)
            .run::<E>(context.shutdown.clone(), context.hand_back.clone())
            .await;
    }
}

async fn watch_database(pool: PgPool, condition: Condition) {
    loop {
        match mecapy_store::schema_is_current(&pool).await {
            Ok(true) => condition.met(),
            Ok(false) => condition.missing("the schema is not there yet: run `mecapy setup`"),
            Err(error) => condition.missing(chain(&error)),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
