//! Webhooks over the gateway's API.

use mecapy_service::Secret;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Answer, Client, Error};

#[derive(Debug, Serialize)]
pub struct NewWebhook<'a> {
    pub url: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function_id: Option<i64>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub events: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'a str>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Webhook {
    pub webhook_id: Uuid,
    pub owner: Option<String>,
    pub function_id: Option<i64>,
    pub url: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub events: Vec<String>,
    pub enabled: bool,
    pub disabled_reason: Option<String>,
    pub failing_since: Option<String>,
    pub previous_secret_until: Option<String>,
    pub created_at: Option<String>,
    /// There where it was just made.
    pub secret: Option<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Delivery {
    pub delivery_id: Uuid,
    pub event_id: String,
    pub event_type: String,
    pub status: String,
    pub tries: i64,
    pub next_attempt_at: Option<String>,
    pub last_status: Option<i32>,
    pub last_error: Option<String>,
    pub created_at: Option<String>,
    pub ended_at: Option<String>,
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    pub message: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Attempt {
    pub began_at: String,
    pub duration_ms: i64,
    pub status: Option<i32>,
    pub error: Option<String>,
}

impl Client {
    pub async fn add_webhook(&self, webhook: &NewWebhook<'_>) -> Result<Answer<Webhook>, Error> {
        self.json(self.request(Method::POST, &["webhooks"]).json(webhook)).await
    }

    pub async fn webhook(&self, id: Uuid) -> Result<Answer<Webhook>, Error> {
        self.json(self.request(Method::GET, &["webhooks", &id.to_string()])).await
    }

    pub async fn delete_webhook(&self, id: Uuid) -> Result<(), Error> {
        self.bytes(self.request(Method::DELETE, &["webhooks", &id.to_string()])).await.map(drop)
    }

    /// Gives it another secret ("secret"), or has it told again ("enable").
    pub async fn change_webhook(&self, id: Uuid, how: &str) -> Result<Answer<Webhook>, Error> {
        self.json(self.request(Method::POST, &["webhooks", &id.to_string(), how])).await
    }

    pub async fn test_webhook(&self, id: Uuid) -> Result<Answer<Delivery>, Error> {
        self.json(self.request(Method::POST, &["webhooks", &id.to_string(), "test"])).await
    }

    pub async fn delivery(&self, id: Uuid) -> Result<Answer<Delivery>, Error> {
        self.json(self.request(Method::GET, &["deliveries", &id.to_string()])).await
    }

    pub async fn resend_delivery(&self, id: Uuid) -> Result<Answer<Delivery>, Error> {
        self.json(self.request(Method::POST, &["deliveries", &id.to_string(), "resend"])).await
    }
}
