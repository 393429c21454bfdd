//! The notifier: tells owners by HTTP what became of their functions and tasks.
//!
//! Invariants:
//! 1. An event and a webhook are one delivery, however often the event comes. It has one id, which the receiver sees at
//!    each try, and one body, which is signed anew at each try.
//! 2. A delivery is tried from its row alone: by any replica, by one at a time, and by another when that one dies. What
//!    became of a try is written only while it is the newest.
//! 3. It ends delivered, or given up after a day: then it is a dead letter as well, and nothing is lost. Where a webhook is
//!    disabled, what waits for it is given up without one, and can be sent again.
//! 4. Only an address that was checked after it was resolved is called, and no other ([`mecapy_webhooks::address`]). No
//!    redirect is followed, no proxy asked; a try is bounded in time, and what is read of an answer in bytes.
//! 5. A receiver that is slow or away holds up nobody else, and an owner with many of them no other owner: each may have
//!    so many tries at once.
//!
//! The way through: an event of the chain → [`Notices`] → a row a webhook that wants it (`crates/store/src/deliveries.rs`)
//! → [`Sender`] claims it → `attempt.rs`: sign, resolve, check, POST → `schedule.rs` (pure): delivered, again later, or
//! given up → the row; given up → `letters.rs` → the dead letters. One that is replayed comes back as `webhook.resend`
//! to [`Resend`], and begins another day.

mod attempt;
mod config;
mod letters;
mod metric_definitions;
mod notices;
mod resend;
mod resolver;
mod schedule;
mod sender;

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::topology::{self, Durable};
use mecapy_bus::{Backbone, ConsumerOptions};
use mecapy_proto::v1::{
    BuildFailed, PushDone, PushFailed, ScanDone, ScanRevoked, TaskDone, WebhookResend,
};
use mecapy_service::Context;
use tokio::sync::Notify;

pub use config::{Config, Options};
pub use notices::Notices;
pub use resend::Resend;
pub use sender::Sender;

/// How long a delivery is tried.
pub const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A receiver that has taken nothing for so long is sent no more.
pub const PATIENCE: Duration = Duration::from_secs(5 * 24 * 60 * 60);

pub async fn run(
    config: Config,
    context: Context,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    metric_definitions::register();
    let backbone = Backbone::start(&context, &config.nats, &config.postgres).await?;
    // Wakes the sender: something may be due now.
    let wake = Arc::new(Notify::new());
    let notices = Notices { pool: backbone.pool.clone(), wake: Arc::clone(&wake) };
    let resend = Resend { wake: Arc::clone(&wake) };
    let sender = Sender::new(
        backbone.pool.clone(),
        attempt::Caller::new(&config.notifier, config.webhooks)?,
        config.notifier.clone(),
        Arc::clone(&wake),
    );
    let few = |durable: Durable| ConsumerOptions { durable, concurrency: 4 };
    let tasks = ConsumerOptions { durable: topology::NOTIFY_TASK_ENDED, concurrency: 8 };
    tokio::join!(
        backbone.consume::<PushDone, _>(&context, few(topology::NOTIFY_READY), notices.clone()),
        backbone.consume::<ScanDone, _>(&context, few(topology::NOTIFY_SCANNED), notices.clone()),
        backbone.consume::<BuildFailed, _>(
            &context,
            few(topology::NOTIFY_BUILD_FAILED),
            notices.clone()
        ),
        backbone.consume::<PushFailed, _>(
            &context,
            few(topology::NOTIFY_PUSH_FAILED),
            notices.clone()
        ),
        backbone.consume::<ScanRevoked, _>(
            &context,
            few(topology::NOTIFY_REVOKED),
            notices.clone()
        ),
        backbone.consume::<TaskDone, _>(&context, tasks, notices),
        backbone.consume::<WebhookResend, _>(&context, few(topology::WEBHOOK_RESEND), resend),
        sender.keep_sending(&context),
        letters::keep_burying(&backbone, &context),
        sender::show_what_waits(&backbone.pool, &context.shutdown),
    );
    Ok(())
}
