//! Events of the chain become deliveries: one for each webhook that wants to know.

use std::sync::Arc;

use mecapy_bus::{Delivery, Handler, HandlerError, Outcome, Outgoing};
use mecapy_proto::{Event, v1};
use mecapy_store::PgPool;
use mecapy_store::deliveries::{self, NewDelivery};
use mecapy_store::webhooks::{self, Notice};
use mecapy_webhooks::cloud_event::CloudEvent;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{A_DAY, metric_definitions as metrics};

/// An event that owners may be told of.
pub trait Telling: Event {
    /// None: nobody is told of it.
    fn notice(&self) -> Option<Notice>;

    fn function(&self) -> i64;

    /// The build's id, or the task's.
    fn subject(&self) -> &str;
}

macro_rules! telling {
    ($type:ident, $subject:ident, $event:ident => $notice:expr) => {
        impl Telling for v1::$type {
            fn notice(&self) -> Option<Notice> {
                let $event = self;
                $notice
            }

            fn function(&self) -> i64 {
                self.function_id
            }

            fn subject(&self) -> &str {
                &self.$subject
            }
        }
    };
}

// Base images are nobody's function.
telling!(PushDone, build_id, event => event.base.is_empty().then_some(Notice::Ready));
telling!(ScanDone, build_id, event => {
    let is_rejected = event.verdict() == v1::Verdict::Rejected;
    (is_rejected && event.base.is_empty()).then_some(Notice::Rejected)
});
telling!(BuildFailed, build_id, event => event.base.is_empty().then_some(Notice::Failed));
telling!(PushFailed, build_id, event => event.base.is_empty().then_some(Notice::Failed));
telling!(ScanRevoked, build_id, event => event.base.is_empty().then_some(Notice::Revoked));
telling!(TaskDone, task_id, _event => Some(Notice::TaskEnded));

/// Writes what is to be delivered. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Notices {
    pub pool: PgPool,
    pub wake: Arc<Notify>,
}

impl<E: Telling> Handler<E> for Notices {
    /// An event and a webhook are one row.
    const KNOWS_DUPLICATES: bool = true;

    async fn handle(&self, event: E, delivery: &Delivery) -> Result<Outcome, HandlerError> {
        let Some(notice) = event.notice() else { return Ok(Outcome::nothing()) };
        let subject = event.subject();
        let id = Uuid::try_parse(subject).ok();
        let interest = webhooks::interest(&self.pool, event.function(), notice, id).await?;
        let Some(interest) = interest else { return Ok(Outcome::nothing()) };
        let data = serde_json::to_value(&event).map_err(|error| {
            HandlerError::permanent(format!("the event can't be written as JSON: {error}"))
        })?;
        let body = CloudEvent {
            id: &delivery.message_id,
            kind: E::SUBJECT,
            function: event.function(),
            function_name: &interest.function_name,
            owner: &interest.owner,
            subject,
            time: interest.at,
            data,
        };
        let new = NewDelivery {
            event_id: delivery.message_id.clone(),
            event_type: E::SUBJECT.to_owned(),
            body: body.into_json(),
            lasts: A_DAY,
        };
        let (webhooks, wake) = (interest.webhooks, Arc::clone(&self.wake));
        let number = webhooks.len() as u64;
        Ok(Outcome::commit(move |conn| {
            Box::pin(async move {
                deliveries::insert(conn, &webhooks, &new).await?;
                Ok(Outgoing::none())
            })
        })
        .then(move || {
            metrics::deliveries(notice).increment(number);
            wake.notify_one();
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_told_of_functions_and_never_of_base_images() {
        let base = || "3.11-slim".to_owned();
        assert_eq!(v1::PushDone::default().notice(), Some(Notice::Ready));
        assert_eq!(v1::BuildFailed::default().notice(), Some(Notice::Failed));
        assert_eq!(v1::PushFailed::default().notice(), Some(Notice::Failed));
        assert_eq!(v1::ScanRevoked::default().notice(), Some(Notice::Revoked));
        assert_eq!(v1::TaskDone::default().notice(), Some(Notice::TaskEnded));
        assert_eq!(v1::PushDone { base: base(), ..Default::default() }.notice(), None);
        assert_eq!(v1::BuildFailed { base: base(), ..Default::default() }.notice(), None);
        assert_eq!(v1::PushFailed { base: base(), ..Default::default() }.notice(), None);
        assert_eq!(v1::ScanRevoked { base: base(), ..Default::default() }.notice(), None);
    }

    #[test]
    fn a_scan_is_told_of_when_it_rejects() {
        let scan =
            |verdict: v1::Verdict| v1::ScanDone { verdict: verdict.into(), ..Default::default() };
        assert_eq!(scan(v1::Verdict::Rejected).notice(), Some(Notice::Rejected));
        assert_eq!(scan(v1::Verdict::Passed).notice(), None);
        assert_eq!(scan(v1::Verdict::Unspecified).notice(), None);
    }
}
