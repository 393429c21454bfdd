//! The consume loop: pulls as many messages as it has free slots, and binds again when its consumer is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use async_nats::jetstream::{AckKind, Message};
use futures::future::Either;
use futures::{FutureExt as _, StreamExt as _};
use mecapy_proto::Event;
use mecapy_service::Condition;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::delivery::{self, Origin};
use crate::offers::{Offer, Offers};
use crate::topology::{self, Durable};
use crate::{Error, Flow, Handler, Outbox, Pause, metric_definitions as metrics};

/// How long a pull waits for messages. A lost consumer, or a server that forgot the pull, is noticed after it.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// A pull that says nothing this long after it expired is dead.
const PULL_SLACK: Duration = Duration::from_secs(3);
const REBIND_AFTER: Duration = Duration::from_secs(1);
/// At the end, a server that says nothing is not waited for; one that is slow is.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
pub struct ConsumerOptions {
    pub durable: Durable,
    /// How many messages are handled at once.
    pub concurrency: usize,
}

/// Consumes the events of one subject with one handler.
#[derive(Debug)]
pub struct Consumer<H> {
    options: ConsumerOptions,
    handler: Arc<H>,
    outbox: Outbox,
    condition: Condition,
    takes_offers_as: Option<String>,
    pause: Pause,
}

/// What runs, and what ends it.
struct Work<'a> {
    slots: Arc<Semaphore>,
    running: TaskTracker,
    hand_back: &'a CancellationToken,
}

impl<H> Consumer<H> {
    pub fn new(options: ConsumerOptions, handler: H, outbox: Outbox, condition: Condition) -> Self {
        let (takes_offers_as, pause) = (None, Pause::default());
        Self { options, handler: Arc::new(handler), outbox, condition, takes_offers_as, pause }
    }

    /// Takes what other replicas offer to the one of this name, while a slot is free.
    #[must_use]
    pub fn taking_offers_as(mut self, replica: &str) -> Self {
        self.takes_offers_as = Some(replica.to_owned());
        self
    }

    /// Takes nothing while this is set: neither of the queue nor of other replicas.
    #[must_use]
    pub fn paused_by(mut self, pause: Pause) -> Self {
        self.pause = pause;
        self
    }

    /// Runs until `shutdown`, then lets what runs finish; `hand_back` gives the rest to other replicas.
    pub async fn run<E>(self, shutdown: CancellationToken, hand_back: CancellationToken)
    where
        E: Event,
        H: Handler<E>,
    {
        metrics::register_consumer(self.options.durable.name);
        let work = Work {
            slots: Arc::new(Semaphore::new(self.options.concurrency)),
            running: TaskTracker::new(),
            hand_back: &hand_back,
        };
        while !shutdown.is_cancelled() {
            let _ = shutdown.run_until_cancelled(self.rest(&work)).await;
            let Err(error) = self.until_paused::<E>(&work, &shutdown).await else { continue };
            self.condition.missing(error.to_string());
            metrics::rebinds(self.options.durable.name).increment(1);
            tokio::select! {
                () = tokio::time::sleep(REBIND_AFTER) => {}
                () = shutdown.cancelled() => {}
            }
        }
        work.running.close();
        work.running.wait().await;
        self.outbox.bus().flush().await;
    }

    /// Returns when there is no pause, and tells meanwhile that nothing is in hand any more.
    async fn rest(&self, work: &Work<'_>) {
        if self.pause.flow() == Flow::Takes {
            return;
        }
        // It waits for nobody but an operator.
        self.condition.met();
        let every_slot = u32::try_from(self.options.concurrency).unwrap_or(u32::MAX);
        let emptied = async {
            if work.slots.acquire_many(every_slot).await.is_ok() {
                self.pause.rests();
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = emptied => {}
            () = self.pause.ends() => {}
        }
    }

    /// Consumes until there is a pause, as it does until the end of the process.
    async fn until_paused<E>(
        &self,
        work: &Work<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), Error>
    where
        E: Event,
        H: Handler<E>,
    {
        let stop = shutdown.child_token();
        let paused = async {
            self.pause.begins().await;
            stop.cancel();
        };
        let bound = self.bound::<E>(work, &stop);
        tokio::pin!(bound);
        tokio::select! {
            end = &mut bound => end,
            () = paused => bound.await,
        }
    }

    /// Consumes as long as the consumer is there.
    async fn bound<E>(&self, work: &Work<'_>, stop: &CancellationToken) -> Result<(), Error>
    where
        E: Event,
        H: Handler<E>,
    {
        let (bus, durable) = (self.outbox.bus(), self.options.durable);
        let bind = async {
            let consumer = topology::bind(bus, durable).await?;
            let offers = match &self.takes_offers_as {
                Some(replica) => Some(Offers::listen(bus, durable, replica).await?),
                None => None,
            };
            Ok::<_, Error>((consumer, offers))
        };
        let Some(bound) = stop.run_until_cancelled(bind).await else { return Ok(()) };
        let (consumer, mut offers) = bound?;
        self.condition.met();
        while !stop.is_cancelled() {
            self.pull::<E>(&consumer, &mut offers, work, stop).await?;
        }
        Ok(())
    }

    /// One pull: for as many messages as there are free slots. On a busy consumer a few slots are waited for,
    /// so that a pull brings several messages. What has been sent for it when the end comes is handed back.
    async fn pull<E>(
        &self,
        consumer: &PullConsumer,
        offers: &mut Option<Offers>,
        work: &Work<'_>,
        stop: &CancellationToken,
    ) -> Result<(), Error>
    where
        E: Event,
        H: Handler<E>,
    {
        let lost = |cause: String| {
            Error::jetstream(format!("consumer {}", self.options.durable.name), cause)
        };
        let free = self.free_slots(offers, &work.slots);
        let Some(free) = stop.run_until_cancelled(free).await else { return Ok(()) };
        let mut permits = free.map_err(|error| lost(error.to_string()))?;
        // No heartbeat: with it, a message that comes during the wait is not returned.
        let mut messages = consumer
            .batch()
            .max_messages(permits.num_permits())
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| lost(error.to_string()))?;
        let mut took_an_offer = false;
        while let Some(permit) = permits.split(1) {
            let next = async {
                let pulled = tokio::time::timeout(PULL_EXPIRES + PULL_SLACK, messages.next());
                tokio::select! {
                    next = pulled => Either::Left(next.ok().flatten()),
                    offer = next_offer(offers) => Either::Right(offer),
                }
            };
            let Some(next) = stop.run_until_cancelled(next).await else {
                hand_back_the_rest(messages, consumer.clone()).await;
                return Ok(());
            };
            match next {
                Either::Left(Some(Ok(message))) => {
                    self.process::<E>(message, Origin::Queue, permit, work);
                }
                Either::Left(Some(Err(error))) => return Err(lost(error.to_string())),
                // The pull is over.
                Either::Left(None) => return Ok(()),
                Either::Right(offer) => {
                    took_an_offer = true;
                    self.process::<E>(offer.take().await, Origin::Replica, permit, work);
                }
            }
        }
        // The pull was for more messages than there are slots now.
        if took_an_offer {
            work.running.spawn(hand_back_until_it_ends(messages));
        }
        Ok(())
    }

    /// All that are free, once some are. Until then, nothing that is offered can be taken.
    async fn free_slots(
        &self,
        offers: &mut Option<Offers>,
        slots: &Arc<Semaphore>,
    ) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        let few = u32::try_from(self.options.concurrency / 8).unwrap_or(1).max(1);
        let free = Arc::clone(slots).acquire_many_owned(few);
        tokio::pin!(free);
        let mut permits = loop {
            tokio::select! {
                biased;
                permits = &mut free => break permits?,
                offer = next_offer(offers) => offer.refuse().await,
            }
        };
        while let Ok(permit) = Arc::clone(slots).try_acquire_owned() {
            permits.merge(permit);
        }
        Ok(permits)
    }

    fn process<E>(
        &self,
        message: Message,
        origin: Origin,
        permit: OwnedSemaphorePermit,
        work: &Work<'_>,
    ) where
        E: Event,
        H: Handler<E>,
    {
        let (durable, handler, outbox) =
            (self.options.durable, Arc::clone(&self.handler), self.outbox.clone());
        let hand_back = work.hand_back.clone();
        work.running.spawn(async move {
            delivery::process::<E, H>(
                message,
                durable,
                handler.as_ref(),
                &outbox,
                &hand_back,
                origin,
            )
            .await;
            drop(permit);
        });
    }
}

async fn next_offer(offers: &mut Option<Offers>) -> Offer {
    match offers {
        Some(offers) => offers.next().await,
        None => std::future::pending().await,
    }
}

/// What a pull still brings until the server has ended it: there is no slot for it here. It is read to its end, since
/// what the server sends before it knows that nobody reads any more would come to another replica late.
async fn hand_back_until_it_ends(mut messages: Batch) {
    let ends = tokio::time::sleep(PULL_EXPIRES + PULL_SLACK);
    tokio::pin!(ends);
    loop {
        let message = tokio::select! {
            message = messages.next() => message,
            () = &mut ends => return,
        };
        let Some(Ok(message)) = message else { return };
        if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
            tracing::debug!(%error, "a message that came too late was not handed back");
        }
    }
}

/// What the server sent for a pull before it knows that nobody reads it any more. Dropped, it would come to another
/// replica only when its time for an ack is over.
async fn hand_back_the_rest(mut messages: Batch, mut consumer: PullConsumer) {
    // What comes after the server's answer to a call is what it sent after the call.
    let answered = tokio::time::timeout(ANSWER_WITHIN, consumer.info());
    tokio::pin!(answered);
    let mut late = Vec::new();
    loop {
        tokio::select! {
            biased;
            message = messages.next() => match message {
                Some(Ok(message)) => late.push(message),
                Some(Err(_)) | None => break,
            },
            _ = &mut answered => break,
        }
    }
    while let Some(Some(Ok(message))) = messages.next().now_or_never() {
        late.push(message);
    }
    // The pull ends first: it would get them again.
    drop(messages);
    for message in late {
        if let Err(error) = message.ack_with(AckKind::Nak(None)).await {
            tracing::debug!(%error, "a message that came too late was not handed back");
        }
    }
}
