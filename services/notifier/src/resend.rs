//! A dead letter that was replayed: its delivery begins another day.

use std::sync::Arc;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::v1::WebhookResend;
use mecapy_store::deliveries;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::A_DAY;

#[derive(Debug, Clone)]
pub struct Resend {
    pub wake: Arc<Notify>,
}

impl Handler<WebhookResend> for Resend {
    async fn handle(&self, event: WebhookResend, _: &Delivery) -> Result<Outcome, HandlerError> {
        let id = Uuid::try_parse(&event.delivery_id)
            .map_err(|_| HandlerError::permanent("delivery_id is not a UUID"))?;
        let round = i32::try_from(event.round)
            .map_err(|_| HandlerError::permanent("there is no such round"))?;
        let wake = Arc::clone(&self.wake);
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                if deliveries::resend(conn, id, Some(round), A_DAY).await?.is_none() {
                    tracing::info!(delivery.id = %id, "a delivery to send again is gone, or was sent again already");
                }
                Ok(Outgoing::none())
            })
        })
        .then(move || wake.notify_one()))
    }
}
