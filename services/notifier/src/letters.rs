//! What was given up becomes a dead letter: `mecapy dlq` shows it, and a replay sends it again.

use std::time::Duration;

use mecapy_bus::{Backbone, Bus, dead_letters, topology};
use mecapy_proto::v1::WebhookResend;
use mecapy_service::{Context, chain};
use mecapy_store::{PgPool, deliveries};

const LOOK_EVERY: Duration = Duration::from_secs(2);
const BATCH: i64 = 50;

pub(crate) async fn keep_burying(backbone: &Backbone, context: &Context) {
    loop {
        match bury(&backbone.pool, &backbone.bus, context.service).await {
            // There may be more.
            Ok(buried) if buried > 0 && !context.shutdown.is_cancelled() => continue,
            Ok(_) => {}
            Err(error) => tracing::debug!(error = chain(&error), "dead letters wait"),
        }
        tokio::select! {
            () = context.shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// First the letter, then the mark that it is there: one that a dying process kept twice is there once, by its id.
async fn bury(pool: &PgPool, bus: &Bus, service: &str) -> Result<usize, mecapy_bus::Error> {
    let mut transaction = pool.begin().await.map_err(mecapy_store::Error::from)?;
    let letters = deliveries::letters_due(&mut transaction, BATCH).await?;
    let mut kept = Vec::with_capacity(letters.len());
    for letter in &letters {
        let event = WebhookResend {
            delivery_id: letter.id.to_string(),
            round: letter.round.unsigned_abs(),
            event_id: letter.event_id.clone(),
        };
        let reason = format!(
            "{} was not delivered within a day: {}",
            letter.event_id,
            letter.error.as_deref().unwrap_or("no answer")
        );
        let tries = letter.attempt.unsigned_abs().into();
        dead_letters::keep(bus, service, topology::WEBHOOK_RESEND, &event, &reason, tries).await?;
        tracing::error!(delivery.id = %letter.id, reason, "a delivery is given up");
        kept.push(letter.id);
    }
    deliveries::letters_kept(&mut transaction, &kept).await?;
    transaction.commit().await.map_err(mecapy_store::Error::from)?;
    Ok(kept.len())
}
