//! The consume loop: pulls as many messages as it has free slots, and binds again when its consumer is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::pull::Batch;
use futures::{FutureExt as _, StreamExt as _};
use mecapy_proto::Event;
use mecapy_service::Condition;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::topology::{self, Durable};
use crate::{Error, Handler, Outbox, delivery, metric_definitions as metrics};

/// How long a pull waits for messages. A lost consumer, or a server that forgot the pull, is noticed after it.
const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// A pull that says nothing this long after it expired is dead.
const PULL_SLACK: Duration = Duration::from_secs(3);
const REBIND_AFTER: Duration = Duration::from_secs(1);
/// At the end, a server that says nothing is not waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

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
}

impl<H> Consumer<H> {
    pub fn new(options: ConsumerOptions, handler: H, outbox: Outbox, condition: Condition) -> Self {
        Self { options, handler: Arc::new(handler), outbox, condition }
    }

    /// Runs until `shutdown`, then lets what runs finish; `hand_back` gives the rest to other replicas.
    pub async fn run<E>(self, shutdown: CancellationToken, hand_back: CancellationToken)
    where
        E: Event,
        H: Handler<E>,
    {
        metrics::register_consumer(self.options.durable.name);
        let slots = Arc::new(Semaphore::new(self.options.concurrency));
        let running = TaskTracker::new();
        while !shutdown.is_cancelled() {
            let end = self.bound::<E>(&slots, &running, &shutdown, &hand_back).await;
            let Err(error) = end else { break };
            self.condition.missing(error.to_string());
            metrics::rebinds(self.options.durable.name).increment(1);
            tokio::select! {
                () = tokio::time::sleep(REBIND_AFTER) => {}
                () = shutdown.cancelled() => {}
            }
        }
        running.close();
        running.wait().await;
        self.outbox.bus().flush().await;
    }

    /// Consumes as long as the consumer is there.
    async fn bound<E>(
        &self,
        slots: &Arc<Semaphore>,
        running: &TaskTracker,
        shutdown: &CancellationToken,
        hand_back: &CancellationToken,
    ) -> Result<(), Error>
    where
        E: Event,
        H: Handler<E>,
    {
        let bind = topology::bind(self.outbox.bus(), self.options.durable);
        let Some(consumer) = shutdown.run_until_cancelled(bind).await else { return Ok(()) };
        let consumer = consumer?;
        self.condition.met();
        while !shutdown.is_cancelled() {
            self.pull::<E>(&consumer, slots, running, shutdown, hand_back).await?;
        }
        Ok(())
    }

    /// One pull: for as many messages as there are free slots. On a busy consumer a few slots are waited for,
    /// so that a pull brings several messages. What has been sent for it when the end comes is handed back.
    async fn pull<E>(
        &self,
        consumer: &PullConsumer,
        slots: &Arc<Semaphore>,
        running: &TaskTracker,
        shutdown: &CancellationToken,
        hand_back: &CancellationToken,
    ) -> Result<(), Error>
    where
        E: Event,
        H: Handler<E>,
    {
        let lost = |cause: String| {
            Error::jetstream(format!("consumer {}", self.options.durable.name), cause)
        };
        let few = u32::try_from(self.options.concurrency / 8).unwrap_or(1).max(1);
        let free = Arc::clone(slots).acquire_many_owned(few);
        let Some(free) = shutdown.run_until_cancelled(free).await else { return Ok(()) };
        let mut permits = free.map_err(|error| lost(error.to_string()))?;
        while let Ok(permit) = Arc::clone(slots).try_acquire_owned() {
            permits.merge(permit);
        }
        // No heartbeat: with it, a message that comes during the wait is not returned.
        let mut messages = consumer
            .batch()
            .max_messages(permits.num_permits())
            .expires(PULL_EXPIRES)
            .messages()
            .await
            .map_err(|error| lost(error.to_string()))?;
        while let Some(permit) = permits.split(1) {
            let next = tokio::time::timeout(PULL_EXPIRES + PULL_SLACK, messages.next());
            let Some(next) = shutdown.run_until_cancelled(next).await else {
                hand_back_the_rest(messages, consumer.clone()).await;
                return Ok(());
            };
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(lost(error.to_string())),
                Ok(None) | Err(_) => return Ok(()),
            };
            let (durable, handler, outbox) =
                (self.options.durable, Arc::clone(&self.handler), self.outbox.clone());
            let hand_back = hand_back.clone();
            running.spawn(async move {
                delivery::process::<E, H>(message, durable, handler.as_ref(), &outbox, &hand_back)
                    .await;
                drop(permit);
            });
        }
        Ok(())
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
