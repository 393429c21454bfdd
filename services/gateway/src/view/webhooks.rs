//! Webhooks and deliveries as callers see them.

use chrono::{DateTime, Utc};
use mecapy_service::Secret;
use mecapy_store::deliveries::{self, DeliveryState};
use mecapy_store::webhooks;
use serde::Serialize;
use serde_json::value::RawValue;
use url::Url;
use uuid::Uuid;

use crate::Caller;

#[derive(Debug, Clone, Serialize)]
pub struct Webhook {
    pub webhook_id: Uuid,
    pub owner: String,
    /// Null: all functions of the owner.
    pub function_id: Option<i64>,
    /// For who may change nothing, without what follows the host: some keep a key there.
    pub url: String,
    pub description: String,
    pub events: Vec<String>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    /// Since when no message was delivered, although some were tried.
    pub failing_since: Option<DateTime<Utc>>,
    /// Until then messages are signed with the secret before as well.
    pub previous_secret_until: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    /// There where it was just made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Shown>,
}

/// A secret for the one who asked for it: shown in the answer, and in no log.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Shown(String);

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Webhook {
    pub(crate) fn of(webhook: webhooks::Webhook, caller: &Caller) -> Self {
        Self {
            webhook_id: webhook.id,
            owner: webhook.owner,
            function_id: webhook.function_id,
            url: if caller.must_act().is_ok() { webhook.url } else { host_of(&webhook.url) },
            description: webhook.description,
            events: webhook.events,
            enabled: webhook.enabled,
            disabled_reason: webhook.disabled_reason,
            failing_since: webhook.failing_since,
            previous_secret_until: webhook.previous_until.filter(|until| *until > Utc::now()),
            created_at: webhook.created_at,
            secret: None,
        }
    }

    pub(crate) fn with_secret(
        webhook: webhooks::Webhook,
        caller: &Caller,
        secret: &Secret,
    ) -> Self {
        Self { secret: Some(Shown(secret.expose().to_owned())), ..Self::of(webhook, caller) }
    }
}

fn host_of(url: &str) -> String {
    let origin = Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    format!("{origin}/…")
}

#[derive(Debug, Clone, Serialize)]
pub struct Delivery {
    pub delivery_id: Uuid,
    pub webhook_id: Uuid,
    /// As on the bus, and in the message.
    pub event_id: String,
    pub event_type: String,
    pub status: &'static str,
    pub tries: i32,
    /// Null once it has ended.
    pub next_attempt_at: Option<DateTime<Utc>>,
    pub give_up_at: Option<DateTime<Utc>>,
    /// What the receiver answered last.
    pub last_status: Option<i32>,
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
    /// Of one alone, not in lists: the last hundred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<Attempt>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Attempt {
    pub attempt: i32,
    pub began_at: DateTime<Utc>,
    pub duration_ms: i64,
    pub status: Option<i32>,
    pub error: Option<String>,
}

impl Delivery {
    pub(crate) fn of(delivery: deliveries::Delivery) -> Self {
        let waits = delivery.state == DeliveryState::Pending;
        Self {
            delivery_id: delivery.id,
            webhook_id: delivery.webhook_id,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            status: delivery.state.as_str(),
            tries: delivery.attempt,
            next_attempt_at: waits.then_some(delivery.next_attempt_at),
            give_up_at: waits.then_some(delivery.give_up_at),
            last_status: delivery.status,
            last_error: delivery.error,
            created_at: delivery.created_at,
            ended_at: delivery.ended_at,
            attempts: None,
            message: None,
        }
    }

    pub(crate) fn whole(
        delivery: deliveries::Delivery,
        attempts: Vec<deliveries::Attempt>,
        body: Option<String>,
    ) -> Self {
        let attempts = attempts
            .into_iter()
            .map(|attempt| Attempt {
                attempt: attempt.attempt,
                began_at: attempt.began_at,
                duration_ms: attempt.duration_ms,
                status: attempt.status,
                error: attempt.error,
            })
            .collect();
        let message = body.and_then(|body| RawValue::from_string(body).ok());
        Self { attempts: Some(attempts), message, ..Self::of(delivery) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_url_its_host_is_shown_and_nothing_that_may_be_a_key() {
        for (url, shown) in [
            ("https://hooks.example.com/services/T0/B0/key", "https://hooks.example.com/…"),
            ("https://hooks.example.com:8443/?key=k", "https://hooks.example.com:8443/…"),
            ("http://[2606:4700::1111]/x", "http://[2606:4700::1111]/…"),
            ("key", "/…"),
        ] {
            assert_eq!(host_of(url), shown);
        }
    }

    #[test]
    fn a_secret_is_in_the_answer_and_in_no_log() {
        let shown = Shown("whsec_c2VjcmV0".to_owned());
        assert_eq!(serde_json::to_string(&shown).unwrap(), "\"whsec_c2VjcmV0\"");
        assert_eq!(format!("{shown:?}"), "***");
    }
}
