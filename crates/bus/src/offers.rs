//! A message that another replica handles better is offered to it, and goes there when that has a free slot.
//!
//! ```text
//! queue ─▶ replica A ── offer, over core NATS ─▶ replica B: a slot is free ─ yes ─▶ B handles and acknowledges it
//!                            ◀── refused, or no answer ──── no ─╯
//!              ╰─▶ A handles it
//! ```
//!
//! For the queue it is the same delivery all the while: who took the message acknowledges it as who got it would. When
//! the answer is lost both have it, as after any redelivery; when who took it dies, it is delivered again.

use std::time::Duration;

use async_nats::jetstream::Message;
use async_nats::{Request, Subject, Subscriber};
use futures::StreamExt as _;

use crate::bucket::key;
use crate::topology::Durable;
use crate::{Bus, Error, envelope};

/// Where who takes the message acknowledges it.
const ACK_TO: &str = "Mecapy-Ack-To";
const TAKEN: &str = "taken";
const REFUSED: &str = "refused";
/// Longer than a loaded machine takes; that a replica is gone is known at once. After it, the message is handled where it is.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

fn subject(durable: Durable, replica: &str) -> String {
    format!("offer.{}.{}", durable.name, key(replica))
}

/// Offers the message to the replica of this name. False: it stays here.
pub(crate) async fn offer(bus: &Bus, durable: Durable, replica: &str, message: &Message) -> bool {
    let Some(ack_to) = &message.reply else { return false };
    let mut headers = message.headers.clone().unwrap_or_default();
    headers.insert(ACK_TO, ack_to.as_str());
    let request = Request::new()
        .headers(headers)
        .payload(message.payload.clone())
        .timeout(Some(ANSWER_WITHIN));
    match bus.client.send_request(subject(durable, replica), request).await {
        Ok(answer) => answer.payload == TAKEN,
        Err(error) => {
            tracing::debug!(replica, %error, "an offer was not answered");
            false
        }
    }
}

/// What other replicas offer to one.
pub(crate) struct Offers {
    bus: Bus,
    durable: Durable,
    subscriber: Subscriber,
}

/// A message of another replica that waits for an answer.
pub(crate) struct Offer {
    bus: Bus,
    message: Message,
    answer_to: Subject,
}

impl Offers {
    pub(crate) async fn listen(bus: &Bus, durable: Durable, replica: &str) -> Result<Self, Error> {
        let subject = subject(durable, replica);
        let subscriber = bus
            .client
            .subscribe(subject.clone())
            .await
            .map_err(|error| Error::jetstream(subject, error))?;
        Ok(Self { bus: bus.clone(), durable, subscriber })
    }

    /// The next one. Never ends: without a connection there are none.
    pub(crate) async fn next(&mut self) -> Offer {
        loop {
            let Some(offered) = self.subscriber.next().await else {
                return std::future::pending().await;
            };
            match read(offered, self.durable) {
                Some((message, answer_to)) => {
                    let message = Message { message, context: self.bus.jetstream.clone() };
                    return Offer { bus: self.bus.clone(), message, answer_to };
                }
                None => tracing::debug!("an offer without a place for its ack or answer was left"),
            }
        }
    }
}

/// The message as the queue gave it to who offers it, and where the answer goes.
fn read(
    mut offered: async_nats::Message,
    durable: Durable,
) -> Option<(async_nats::Message, Subject)> {
    let answer_to = offered.reply.take()?;
    let ack_to = envelope::get(offered.headers.as_ref(), ACK_TO)?;
    // Of this consumer's deliveries, and nothing else: an ack is published there.
    if !ack_to.starts_with("$JS.ACK.")
        || !ack_to.contains(&format!(".{}.{}.", durable.stream, durable.name))
    {
        return None;
    }
    let ack_to = Subject::from(ack_to);
    offered.reply = Some(ack_to);
    offered.subject = Subject::from(durable.subject);
    Some((offered, answer_to))
}

impl Offer {
    pub(crate) async fn take(self) -> Message {
        self.answer(TAKEN).await;
        self.message
    }

    pub(crate) async fn refuse(self) {
        self.answer(REFUSED).await;
    }

    async fn answer(&self, answer: &'static str) {
        let sent = self.bus.client.publish(self.answer_to.clone(), answer.into()).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "an offer was not answered");
        }
    }
}
