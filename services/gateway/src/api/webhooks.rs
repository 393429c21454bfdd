//! Webhooks, and what was delivered to them. The notifier delivers; here is what owners see and ask for.

use std::time::Duration;

use chrono::Utc;
use mecapy_proto::{ErrorCode, FunctionId};
use mecapy_service::Secret;
use mecapy_store::deliveries::{self, DeliveryState, NewDelivery};
use mecapy_store::webhooks::{self, NewWebhook, Notice, Webhook};
use mecapy_store::{Postgres, Transaction};
use mecapy_webhooks::cloud_event::{CloudEvent, TEST_TYPE};
use mecapy_webhooks::signature;
use mecapy_webhooks::target::Target;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Api, note};
use crate::view::webhooks as view;
use crate::{Caller, Error};

/// Of an owner. Each event of a function is a message to each of them.
const MOST: i64 = 50;
/// How long a secret is still signed with after another was given.
const OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a message is tried that is sent again.
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_DESCRIPTION_CHARS: usize = 200;
const DEFAULT_PAGE: u32 = 50;
const MAX_PAGE: u32 = 200;

/// A webhook as it is asked for.
#[derive(Debug, Clone)]
pub(crate) struct WebhookRequest {
    pub url: String,
    pub description: String,
    /// None: all of the owner's.
    pub function: Option<FunctionId>,
    /// None: all that there are.
    pub events: Option<Vec<String>>,
}

/// Which rows of a list.
#[derive(Debug, Clone, Default)]
pub(crate) struct WebhookPage {
    /// 0: the default.
    pub size: u32,
    pub token: String,
}

impl WebhookPage {
    fn size(&self) -> u32 {
        if self.size == 0 { DEFAULT_PAGE } else { self.size.min(MAX_PAGE) }
    }

    fn position(&self) -> Result<Option<Uuid>, Error> {
        match self.token.as_str() {
            "" => Ok(None),
            token => Uuid::try_parse(token)
                .map(Some)
                .map_err(|_| Error::field_is("page_token", "the token is not from the last page")),
        }
    }

    /// Of one row more than a page has, if there are more: the page, and the token of the next.
    fn cut<T>(&self, mut rows: Vec<T>, id: impl Fn(&T) -> Uuid) -> (Vec<T>, Option<String>) {
        let more = rows.len() > self.size() as usize;
        rows.truncate(self.size() as usize);
        let next = rows.last().filter(|_| more).map(|last| id(last).to_string());
        (rows, next)
    }
}

impl Api {
    /// Its secret is in this answer, and in no other.
    pub(crate) async fn create_webhook(
        &self,
        caller: &Caller,
        request: WebhookRequest,
    ) -> Result<view::Webhook, Error> {
        caller.must_act()?;
        let target = Target::parse(&request.url, self.0.webhooks).map_err(|refused| {
            Error::refused(ErrorCode::WebhookRefused, "url", refused.to_string())
        })?;
        check_description(&request.description)?;
        let events = events(request.events)?;
        let owner = match request.function {
            // An operator may make one for somebody else's function: it is that one's then.
            Some(id) => self.visible(caller, id).await?.owner,
            None => caller.owner.to_string(),
        };
        let secret = new_secret()?;
        let new = NewWebhook {
            owner,
            function: request.function,
            url: target.as_str().to_owned(),
            description: request.description,
            events,
            secret: secret.clone(),
        };
        let mut transaction = self.begin().await?;
        let Some(webhook) = webhooks::create(&mut transaction, &new, MOST).await? else {
            let detail = format!("{} has {MOST} webhooks: remove one first", new.owner);
            return Err(Error::refused(ErrorCode::TooManyWebhooks, "url", detail));
        };
        // The host alone: some keep a key in the rest of the URL.
        let detail = json!({ "owner": webhook.owner, "host": target.url().host_str() });
        self.noted(transaction, caller, "create-webhook", webhook.id, detail).await?;
        tracing::info!(webhook.id = %webhook.id, owner = webhook.owner, "a webhook is made");
        Ok(view::Webhook::with_secret(webhook, caller, &secret))
    }

    pub(crate) async fn webhook(&self, caller: &Caller, id: Uuid) -> Result<view::Webhook, Error> {
        let webhook = self.visible_webhook(caller, id).await?;
        Ok(view::Webhook::of(webhook, caller))
    }

    /// Those that the caller may see, oldest first, and the token of the next page.
    pub(crate) async fn webhooks(
        &self,
        caller: &Caller,
        function: Option<FunctionId>,
        page: &WebhookPage,
    ) -> Result<(Vec<view::Webhook>, Option<String>), Error> {
        let after = page.position()?;
        let rows =
            webhooks::list(&self.0.pool, caller.scope(), function, after, page.size() + 1).await?;
        let (rows, next) = page.cut(rows, |webhook| webhook.id);
        Ok((rows.into_iter().map(|webhook| view::Webhook::of(webhook, caller)).collect(), next))
    }

    /// With all that was delivered to it, and all that waits.
    pub(crate) async fn delete_webhook(&self, caller: &Caller, id: Uuid) -> Result<(), Error> {
        let (detail, mut transaction) = self.to_change(caller, id).await?;
        if !webhooks::delete(&mut transaction, id).await? {
            return Err(no_webhook(id));
        }
        self.noted(transaction, caller, "delete-webhook", id, detail).await
    }

    /// Another secret, which is in this answer alone.
    pub(crate) async fn rotate_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<view::Webhook, Error> {
        let (detail, mut transaction) = self.to_change(caller, id).await?;
        let secret = new_secret()?;
        let rotated = webhooks::rotate(&mut transaction, id, &secret, OVERLAP).await?;
        let rotated = rotated.ok_or_else(|| no_webhook(id))?;
        self.noted(transaction, caller, "rotate-webhook", id, detail).await?;
        Ok(view::Webhook::with_secret(rotated, caller, &secret))
    }

    /// Has one that was disabled told again, of what happens from now on.
    pub(crate) async fn enable_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<view::Webhook, Error> {
        let (detail, mut transaction) = self.to_change(caller, id).await?;
        let enabled = webhooks::enable(&mut transaction, id).await?;
        let enabled = enabled.ok_or_else(|| no_webhook(id))?;
        self.noted(transaction, caller, "enable-webhook", id, detail).await?;
        Ok(view::Webhook::of(enabled, caller))
    }

    /// A message that says nothing but that it arrived; tried once.
    pub(crate) async fn test_webhook(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<view::Delivery, Error> {
        caller.must_act()?;
        let webhook = self.visible_webhook(caller, id).await?;
        let event_id = format!("{TEST_TYPE}/{}", Uuid::now_v7());
        let subject = webhook.id.to_string();
        let body = CloudEvent {
            id: &event_id,
            kind: TEST_TYPE,
            function: webhook.function_id.unwrap_or_default(),
            function_name: "",
            owner: &webhook.owner,
            subject: &subject,
            time: Utc::now(),
            data: json!({ "webhookId": subject }),
        };
        let new = NewDelivery {
            event_id: event_id.clone(),
            event_type: TEST_TYPE.to_owned(),
            body: body.into_json(),
            lasts: Duration::ZERO,
        };
        let mut transaction = self.begin().await?;
        let made = deliveries::insert(&mut transaction, &[id], &new).await?;
        let made = made.first().copied().ok_or_else(|| no_webhook(id))?;
        self.noted(transaction, caller, "test-webhook", id, json!({})).await?;
        self.delivery(caller, made).await
    }

    /// What was sent to a webhook, newest first, and the token of the next page.
    pub(crate) async fn deliveries(
        &self,
        caller: &Caller,
        webhook: Uuid,
        state: Option<&str>,
        page: &WebhookPage,
    ) -> Result<(Vec<view::Delivery>, Option<String>), Error> {
        self.visible_webhook(caller, webhook).await?;
        let state = state.map(delivery_state).transpose()?;
        let before = page.position()?;
        let rows = deliveries::list(&self.0.pool, webhook, state, before, page.size() + 1).await?;
        let (rows, next) = page.cut(rows, |delivery| delivery.id);
        Ok((rows.into_iter().map(view::Delivery::of).collect(), next))
    }

    /// One, with its message and how each try went.
    pub(crate) async fn delivery(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<view::Delivery, Error> {
        let delivery = self.visible_delivery(caller, id).await?;
        let attempts = deliveries::attempts(&self.0.pool, id).await?;
        let body = deliveries::body(&self.0.pool, id).await?;
        Ok(view::Delivery::whole(delivery, attempts, body))
    }

    /// Sends one again, whatever became of it: at once, and for a day.
    pub(crate) async fn resend_delivery(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<view::Delivery, Error> {
        caller.must_act()?;
        let delivery = self.visible_delivery(caller, id).await?;
        let lasts = if delivery.event_type == TEST_TYPE { Duration::ZERO } else { A_DAY };
        let mut transaction = self.begin().await?;
        let sent = deliveries::resend(&mut transaction, id, None, lasts).await?;
        let sent = sent.ok_or_else(|| no_delivery(id))?;
        let detail = json!({ "webhook_id": delivery.webhook_id, "event_id": delivery.event_id });
        self.noted(transaction, caller, "resend-delivery", id, detail).await?;
        Ok(view::Delivery::of(sent))
    }

    /// Of a webhook that the caller may change: what is noted of it, and a transaction.
    async fn to_change(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<(Value, Transaction<'static, Postgres>), Error> {
        caller.must_act()?;
        let webhook = self.visible_webhook(caller, id).await?;
        Ok((json!({ "owner": webhook.owner }), self.begin().await?))
    }

    /// Commits what somebody did, with a note of it.
    async fn noted(
        &self,
        mut transaction: Transaction<'static, Postgres>,
        caller: &Caller,
        action: &str,
        target: Uuid,
        detail: Value,
    ) -> Result<(), Error> {
        note(&mut transaction, caller, action, &target.to_string(), detail).await?;
        Ok(transaction.commit().await.map_err(mecapy_store::Error::from)?)
    }

    async fn visible_webhook(&self, caller: &Caller, id: Uuid) -> Result<Webhook, Error> {
        let webhook = webhooks::get(&self.0.pool, id).await?;
        webhook.filter(|webhook| caller.may_see(&webhook.owner)).ok_or_else(|| no_webhook(id))
    }

    async fn visible_delivery(
        &self,
        caller: &Caller,
        id: Uuid,
    ) -> Result<deliveries::Delivery, Error> {
        let delivery = deliveries::get(&self.0.pool, id).await?.ok_or_else(|| no_delivery(id))?;
        let webhook = self.visible_webhook(caller, delivery.webhook_id).await;
        webhook.map(|_| delivery).map_err(|error| match error {
            Error::NotFound(_) => no_delivery(id),
            other => other,
        })
    }
}

fn new_secret() -> Result<Secret, Error> {
    signature::new_secret().map_err(|error| Error::Internal(error.into()))
}

fn no_webhook(id: Uuid) -> Error {
    Error::NotFound(format!("webhook {id}"))
}

fn no_delivery(id: Uuid) -> Error {
    Error::NotFound(format!("delivery {id}"))
}

fn check_description(text: &str) -> Result<(), Error> {
    if text.chars().count() <= MAX_DESCRIPTION_CHARS && !text.contains('\0') {
        return Ok(());
    }
    let detail = format!("the description is at most {MAX_DESCRIPTION_CHARS} characters of text");
    Err(Error::field_is("description", detail))
}

fn events(names: Option<Vec<String>>) -> Result<Vec<Notice>, Error> {
    let all = || Notice::ALL.iter().map(|notice| notice.as_str()).collect::<Vec<_>>().join(", ");
    let Some(names) = names else { return Ok(Notice::ALL.to_vec()) };
    let mut events: Vec<Notice> = names
        .iter()
        .map(|name| {
            Notice::parse(name).ok_or_else(|| {
                let name: String = name.chars().take(80).collect();
                Error::field_is(
                    "events",
                    format!("there is no event {name:?}; there are {}", all()),
                )
            })
        })
        .collect::<Result<_, _>>()?;
    events.sort_unstable();
    events.dedup();
    if events.is_empty() {
        return Err(Error::field_is("events", format!("name at least one of {}", all())));
    }
    Ok(events)
}

fn delivery_state(name: &str) -> Result<DeliveryState, Error> {
    DeliveryState::parse(name).ok_or_else(|| {
        let all: Vec<&str> = DeliveryState::ALL.iter().map(|state| state.as_str()).collect();
        Error::field_is("status", format!("status is one of {}", all.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_named_and_each_is_there_once() {
        let given = |names: &[&str]| events(Some(names.iter().map(|n| (*n).to_owned()).collect()));
        assert_eq!(events(None).unwrap(), Notice::ALL);
        assert_eq!(
            given(&["task_ended", "ready", "ready"]).unwrap(),
            [Notice::Ready, Notice::TaskEnded]
        );
        for bad in [&[][..], &["push.done"], &["READY"], &["ready", ""]] {
            assert_eq!(given(bad).unwrap_err().field(), Some("events"), "{bad:?}");
        }
    }

    #[test]
    fn a_page_has_a_token_only_where_there_are_more() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let page = WebhookPage { size: 2, token: String::new() };
        let (rows, next) = page.cut(ids.clone(), |id| *id);
        assert_eq!((rows.len(), next), (2, Some(ids[1].to_string())));
        let (rows, next) = page.cut(ids[..2].to_vec(), |id| *id);
        assert_eq!((rows.len(), next), (2, None));
        let bad = WebhookPage { size: 2, token: "x".into() };
        assert_eq!(bad.position().unwrap_err().field(), Some("page_token"));
    }
}
