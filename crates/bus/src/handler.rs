//! What a service gives to the bus. No type of NATS in what it sees.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;

use async_nats::jetstream::Message as Received;
use chrono::{DateTime, Utc};
use mecapy_proto::Event;
use mecapy_store::PgConnection;
use mecapy_store::outbox::Message;
use tokio_util::sync::CancellationToken;

use crate::topology::Durable;
use crate::{Bus, offers};

/// Handles the events of one subject.
pub trait Handler<E: Event>: Send + Sync + 'static {
    /// Whether the handler's own state tells it that an event was handled before. Then the inbox is not asked
    /// before the work, which spares a round trip; at the commit it has its say all the same.
    const KNOWS_DUPLICATES: bool = false;

    /// What handling an event is of the build that the event is about: that it was done, and its steps
    /// ([`mecapy_service::step`]), is noted with the build. None: its events are not about a build.
    const STAGE: Option<&'static str> = None;

    /// Does the outside work, which must bear being done twice, and returns what to write.
    ///
    /// It is called again for the same event as long as its outcome isn't committed.
    fn handle(
        &self,
        event: E,
        delivery: &Delivery,
    ) -> impl Future<Output = Result<Outcome, HandlerError>> + Send;
}

/// What is known of a message besides its event.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message_id: String,
    /// 1 for the first.
    pub count: u64,
    /// Cancelled when the process must end: stop, and the message goes to another replica.
    pub hand_back: CancellationToken,
    /// None: another replica offered the message, and here it stays.
    offering: Option<Offering>,
}

#[derive(Debug, Clone)]
struct Offering {
    bus: Bus,
    durable: Durable,
    message: Received,
}

impl Delivery {
    pub fn new(message_id: impl Into<String>, count: u64, hand_back: CancellationToken) -> Self {
        Self { message_id: message_id.into(), count, hand_back, offering: None }
    }

    /// Of a message that may be offered to other replicas.
    pub(crate) fn with_offering(mut self, bus: Bus, durable: Durable, message: Received) -> Self {
        self.offering = Some(Offering { bus, durable, message });
        self
    }

    /// Whether [`Self::pass_on`] may succeed. A message is passed on once at most.
    pub fn can_be_passed_on(&self) -> bool {
        self.offering.is_some()
    }

    /// Offers the message to the replica that consumes under this name. True: it is that one's now, and what is left here
    /// is to return [`Outcome::passed_on`].
    pub async fn pass_on(&self, replica: &str) -> bool {
        match &self.offering {
            Some(Offering { bus, durable, message }) => {
                offers::offer(bus, *durable, replica, message).await
            }
            None => false,
        }
    }
}

/// Why an event was not handled.
#[derive(Debug)]
pub enum HandlerError {
    /// It may go better later: the message comes again, with backoff.
    Transient(Box<dyn StdError + Send + Sync>),
    /// It will never go better: the message becomes a dead letter.
    Permanent(String),
}

impl HandlerError {
    pub fn transient(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Transient(error.into())
    }

    pub fn permanent(reason: impl Into<String>) -> Self {
        Self::Permanent(reason.into())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(error) => {
                write!(f, "{error}")?;
                let mut source = error.source();
                while let Some(cause) = source {
                    write!(f, ": {cause}")?;
                    source = cause.source();
                }
                Ok(())
            }
            Self::Permanent(reason) => f.write_str(reason),
        }
    }
}

/// What reads and writes of the database fail with is worth another try.
impl From<mecapy_store::Error> for HandlerError {
    fn from(error: mecapy_store::Error) -> Self {
        Self::transient(error)
    }
}

/// Messages to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outgoing(Vec<Message>);

impl Outgoing {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn event<E: Event>(event: &E) -> Self {
        Self::none().and(event)
    }

    #[must_use]
    pub fn and<E: Event>(mut self, event: &E) -> Self {
        self.0.push(Message {
            subject: E::SUBJECT.to_owned(),
            message_id: event.message_id(),
            payload: event.encode_to_vec(),
            traceparent: None,
        });
        self
    }

    /// An event that was sent before, and may have been lost. Under an id of its own, since the stream may know the
    /// first one and would drop it. That it is handled once is for the inbox, which goes by the event and not by
    /// this id.
    pub fn again<E: Event>(event: &E, now: DateTime<Utc>) -> Self {
        let mut outgoing = Self::event(event);
        for message in &mut outgoing.0 {
            message.message_id = format!("{}/again/{}", message.message_id, now.timestamp_millis());
        }
        outgoing
    }

    /// In the trace of what asked for it first, and not in that of who sends it now.
    #[must_use]
    pub fn in_trace(mut self, traceparent: Option<String>) -> Self {
        for message in &mut self.0 {
            message.traceparent.clone_from(&traceparent);
        }
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The subject of a message that tells of a failure.
    pub(crate) fn failure(&self) -> Option<&str> {
        let mut subjects = self.0.iter().map(|message| message.subject.as_str());
        subjects.find(|subject| subject.ends_with(".failed"))
    }

    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.0
    }
}

type Effect = Box<
    dyn for<'c> FnOnce(
            &'c mut PgConnection,
        ) -> Pin<
            Box<dyn Future<Output = Result<Outgoing, mecapy_store::Error>> + Send + 'c>,
        > + Send,
>;

type After = Box<dyn FnOnce() + Send>;
pub(crate) type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a handled event changes: part of one transaction with the inbox and the outbox.
pub struct Outcome {
    /// None: another replica has the message now.
    effect: Option<Effect>,
    after: Option<After>,
    rest: Option<Rest>,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outcome")
    }
}

impl Outcome {
    /// Nothing changes: the event is for something that has moved on, or is not ours.
    pub fn nothing() -> Self {
        Self::commit(|_| Box::pin(async { Ok(Outgoing::none()) }))
    }

    /// Another replica took the message ([`Delivery::pass_on`]), and acknowledges it.
    pub fn passed_on() -> Self {
        Self { effect: None, after: None, rest: None }
    }

    /// The changes, as a function on the transaction; what it returns is sent after the commit.
    pub fn commit<F>(effect: F) -> Self
    where
        F: for<'c> FnOnce(
                &'c mut PgConnection,
            ) -> Pin<
                Box<dyn Future<Output = Result<Outgoing, mecapy_store::Error>> + Send + 'c>,
            > + Send
            + 'static,
    {
        Self { effect: Some(Box::new(effect)), after: None, rest: None }
    }

    /// What follows once the changes are committed and their messages are out; it must not block. Where the changes
    /// don't come about (a duplicate, a failed commit, the end of the process), it is dropped.
    #[must_use]
    pub fn then(mut self, after: impl FnOnce() + Send + 'static) -> Self {
        self.after = Some(Box::new(after));
        self
    }

    /// What is done after the ack, and before the slot takes another message. Where the changes don't come about, it
    /// is dropped.
    #[must_use]
    pub fn and_rest(mut self, rest: impl Future<Output = ()> + Send + 'static) -> Self {
        self.rest = Some(Box::pin(rest));
        self
    }

    pub(crate) fn is_passed_on(&self) -> bool {
        self.effect.is_none()
    }

    pub(crate) fn take_after(&mut self) -> Option<After> {
        self.after.take()
    }

    pub(crate) fn take_rest(&mut self) -> Option<Rest> {
        self.rest.take()
    }

    /// Makes the changes, and says what is to be sent: for the bus, and for tests of handlers.
    pub async fn apply(self, conn: &mut PgConnection) -> Result<Outgoing, mecapy_store::Error> {
        match self.effect {
            Some(effect) => effect(conn).await,
            None => Ok(Outgoing::none()),
        }
    }
}
