//! What every service of the chain stands on: NATS, PostgreSQL, the outbox.

use std::time::Duration;

use mecapy_proto::Event;
use mecapy_service::{Condition, Context, Schedule, chain};
use mecapy_store::PgPool;

use crate::{
    Bus, Consumer, ConsumerOptions, Error, Handler, Live, Options, Outbox, Pause, Replicas,
};

const LOOK_EVERY: Duration = Duration::from_secs(5);
const TICK_TRIES: usize = 60;

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
        tokio::spawn(Replicas::new(bus.clone()).beat(context.clone()));
        Ok(Self { bus, pool, outbox, live })
    }

    /// Publishes what `event` makes of the name of each tick, until the service is told to stop.
    pub async fn publish_ticks<E: Event>(
        &self,
        context: &Context,
        schedule: &Schedule,
        prefix: &str,
        event: impl Fn(String) -> E,
    ) {
        let on_tick = async |tick| {
            let name = schedule.tick_name(prefix, tick);
            // A tick is worth sending for some minutes; all replicas try.
            for _ in 0..TICK_TRIES {
                match self.publish_tick(&name, &event).await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(error = chain(&error), "a scheduled event waits"),
                }
                tokio::select! {
                    () = context.shutdown.cancelled() => return,
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            tracing::error!(subject = E::SUBJECT, "a scheduled event could not be sent");
        };
        schedule.run(&context.shutdown, on_tick).await;
    }

    /// Under a name that all replicas have, and nobody else can know before: whoever may publish could take a name that
    /// can be guessed, and the schedule's own event would be a duplicate.
    async fn publish_tick<E: Event>(
        &self,
        name: &str,
        event: &impl Fn(String) -> E,
    ) -> Result<(), Error> {
        let name = mecapy_store::schedule_key::seal(&self.pool, name).await?;
        self.bus.publish(&event(name)).await
    }

    /// Consumes until the service is told to stop, and what runs has ended.
    pub async fn consume<E, H>(&self, context: &Context, options: ConsumerOptions, handler: H)
    where
        E: Event,
        H: Handler<E>,
    {
        self.consumer(context, options, handler)
            .run::<E>(context.shutdown.clone(), context.hand_back.clone())
            .await;
    }

    /// As [`Self::consume`], and takes what other replicas offer to the one of this name. While it is paused it takes
    /// nothing.
    pub async fn consume_as<E, H>(
        &self,
        context: &Context,
        options: ConsumerOptions,
        replica: &str,
        pause: Pause,
        handler: H,
    ) where
        E: Event,
        H: Handler<E>,
    {
        self.consumer(context, options, handler)
            .taking_offers_as(replica)
            .paused_by(pause)
            .run::<E>(context.shutdown.clone(), context.hand_back.clone())
            .await;
    }

    fn consumer<H>(&self, context: &Context, options: ConsumerOptions, handler: H) -> Consumer<H> {
        let condition = context.health.condition(options.durable.name);
        Consumer::new(options, handler, self.outbox.clone(), condition)
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
