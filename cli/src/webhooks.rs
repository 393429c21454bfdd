//! `mecapy webhooks`: have a URL called when something becomes of functions and tasks.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use mecapy_proto::FunctionId;
use uuid::Uuid;

use crate::arguments::Confirm;
use crate::exit::{self, Exit};
use crate::gateway::{Answer, Client, Delivery, NewWebhook, Webhook};
use crate::list::List;
use crate::session::Session;
use crate::terminal::{clean_line, fields};
use crate::{json, table};

/// A receiver has 15 s for its answer.
const TEST_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Have a URL called; prints the secret that messages are signed with, which is shown once
    Add(Add),
    /// List webhooks
    List {
        /// Those of this function alone
        #[arg(long, value_name = "FUNCTION_ID")]
        function: Option<FunctionId>,
        /// At most this many
        #[arg(long, value_name = "NUMBER")]
        limit: Option<usize>,
    },
    /// Show a webhook
    Show { id: Uuid },
    /// Remove a webhook, with all that waits for it and its log
    Remove {
        id: Uuid,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Give a webhook another secret; for 24 hours messages are signed with both
    Rotate { id: Uuid },
    /// Have a webhook told again that was disabled: its receiver answered 410, or took nothing for 5 days
    Enable { id: Uuid },
    /// Send a message that says nothing, and wait for the receiver's answer
    #[command(after_help = exit::HELP)]
    Test { id: Uuid },
    /// List what was sent to a webhook in the last 30 days, newest first
    Deliveries {
        id: Uuid,
        /// Those of this state alone
        #[arg(long)]
        status: Option<State>,
        /// At most this many
        #[arg(long, default_value_t = 100, value_name = "NUMBER")]
        limit: usize,
    },
    /// Show a delivery, with its message and how each try went
    Delivery { id: Uuid },
    /// Send a message again, whatever became of it
    Resend {
        #[arg(value_name = "DELIVERY_ID")]
        id: Uuid,
    },
}

#[derive(Debug, Args)]
pub struct Add {
    /// Where messages go: https://…
    #[arg(value_name = "URL")]
    pub receiver: String,
    /// Of this function alone [default: all of the owner's]
    #[arg(long, value_name = "FUNCTION_ID")]
    pub function: Option<FunctionId>,
    /// Tell of this (more than one may be given) [default: of all]
    #[arg(long, value_name = "EVENT")]
    pub event: Vec<Event>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    pub description: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Event {
    /// A version was published and can be run
    Ready,
    /// Its scan found what must not be published
    Rejected,
    /// It could not be built, scanned or published
    Failed,
    /// A published image would be rejected by what is known today
    Revoked,
    /// A task has ended, well or not
    TaskEnded,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum State {
    Pending,
    Delivered,
    Dead,
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

pub async fn run(command: Command, session: &Session) -> anyhow::Result<Exit> {
    let client = session.client()?;
    match command {
        Command::Add(add) => self::add(&add, session, &client).await,
        Command::List { function, limit } => {
            let filter: Vec<(&str, String)> =
                function.iter().map(|id| ("function_id", id.to_string())).collect();
            let list = List { path: &["webhooks"], filter: &filter, limit };
            list.show(&client, session, overview).await
        }
        Command::Show { id } => {
            let webhook = client.webhook(id).await?;
            session.output.show(&webhook.raw, || describe(&webhook.value));
            Ok(Exit::Done)
        }
        Command::Remove { id, confirm } => {
            session.confirm(&format!("Remove webhook {id}?"), confirm)?;
            client.delete_webhook(id).await?;
            let raw = serde_json::json!({ "webhook_id": id, "deleted": true }).to_string();
            session.output.show(&raw, || format!("webhook {id} is removed"));
            Ok(Exit::Done)
        }
        Command::Rotate { id } => {
            let webhook = client.change_webhook(id, "secret").await?;
            session.output.show(&webhook.raw, || describe(&webhook.value));
            session.hint("The secret is not shown again. For 24 hours messages are signed with the one before too.");
            Ok(Exit::Done)
        }
        Command::Enable { id } => {
            let webhook = client.change_webhook(id, "enable").await?;
            session.output.show(&webhook.raw, || describe(&webhook.value));
            Ok(Exit::Done)
        }
        Command::Test { id } => test(id, session, &client).await,
        Command::Deliveries { id, status, limit } => {
            let (id, limit) = (id.to_string(), Some(limit));
            let filter: Vec<(&str, String)> =
                status.iter().map(|status| ("status", name(status))).collect();
            let list = List { path: &["webhooks", &id, "deliveries"], filter: &filter, limit };
            list.show(&client, session, deliveries).await
        }
        Command::Delivery { id } => {
            let delivery = client.delivery(id).await?;
            session.output.show(&delivery.raw, || describe_delivery(&delivery.value));
            Ok(Exit::Done)
        }
        Command::Resend { id } => {
            let delivery = client.resend_delivery(id).await?;
            session.output.show(&delivery.raw, || describe_delivery(&delivery.value));
            session.hint(&format!("To see how it goes: mecapy webhooks delivery {id}"));
            Ok(Exit::Done)
        }
    }
}

async fn add(add: &Add, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let events: Vec<String> = add.event.iter().map(name).collect();
    let new = NewWebhook {
        url: &add.receiver,
        function_id: add.function.map(FunctionId::get),
        events: &events,
        description: add.description.as_deref(),
    };
    let webhook = client.add_webhook(&new).await?;
    session.output.show(&webhook.raw, || describe(&webhook.value));
    session.hint(&format!(
        "The secret is not shown again. To try it: mecapy webhooks test {}",
        webhook.value.webhook_id
    ));
    Ok(Exit::Done)
}

async fn test(id: Uuid, session: &Session, client: &Client) -> anyhow::Result<Exit> {
    let began = Instant::now();
    let mut delivery: Answer<Delivery> = client.test_webhook(id).await?;
    while delivery.value.status == "pending" && began.elapsed() < TEST_LIMIT {
        tokio::time::sleep(LOOK_EVERY).await;
        delivery = client.delivery(delivery.value.delivery_id).await?;
    }
    session.output.show(&delivery.raw, || describe_delivery(&delivery.value));
    match delivery.value.status.as_str() {
        "delivered" => Ok(Exit::Done),
        "pending" => {
            session.hint("Nobody has sent it yet: does a notifier run? (mecapy status)");
            Ok(Exit::Failed)
        }
        _ => Ok(Exit::Failed),
    }
}

fn overview(webhooks: &[Webhook]) -> String {
    if webhooks.is_empty() {
        return "There are no webhooks yet. To make one: mecapy webhooks add URL".to_owned();
    }
    let rows: Vec<Vec<String>> = webhooks
        .iter()
        .map(|webhook| {
            vec![
                webhook.webhook_id.to_string(),
                webhook.function_id.map_or_else(|| "all".to_owned(), |id| id.to_string()),
                state(webhook).to_owned(),
                webhook.events.join(","),
                webhook.url.clone(),
                webhook.description.clone(),
            ]
        })
        .collect();
    let mut text =
        table::render(&["id", "function", "state", "events", "url", "description"], &rows);
    for webhook in webhooks {
        if let Some(reason) = &webhook.disabled_reason {
            let (id, reason) = (webhook.webhook_id, clean_line(reason));
            let _ = writeln!(
                text,
                "\n{id} is told of nothing: {reason}\nTo have it told again: mecapy webhooks enable {id}"
            );
        }
    }
    text
}

fn state(webhook: &Webhook) -> &'static str {
    match (webhook.enabled, &webhook.failing_since) {
        (false, _) => "disabled",
        (true, Some(_)) => "failing",
        (true, None) => "enabled",
    }
}

fn describe(webhook: &Webhook) -> String {
    let mut rows = vec![
        ("webhook", webhook.webhook_id.to_string()),
        ("owner", webhook.owner.clone().unwrap_or_default()),
        ("function", webhook.function_id.map_or_else(|| "all".to_owned(), |id| id.to_string())),
        ("url", webhook.url.clone()),
        ("events", webhook.events.join(", ")),
        ("state", state(webhook).to_owned()),
    ];
    let mut row = |label, value: Option<String>| {
        rows.extend(value.filter(|value| !value.is_empty()).map(|value| (label, value)));
    };
    row("why", webhook.disabled_reason.clone());
    row("failing since", webhook.failing_since.clone());
    row("about", Some(webhook.description.clone()));
    row("made at", webhook.created_at.clone());
    row("secret", webhook.secret.as_ref().map(|secret| secret.expose().to_owned()));
    row("old secret until", webhook.previous_secret_until.clone());
    fields(&rows)
}

fn deliveries(deliveries: &[Delivery]) -> String {
    if deliveries.is_empty() {
        return "Nothing was sent.".to_owned();
    }
    let rows: Vec<Vec<String>> = deliveries
        .iter()
        .map(|delivery| {
            vec![
                delivery.delivery_id.to_string(),
                delivery.created_at.clone().unwrap_or_default(),
                delivery.event_type.clone(),
                delivery.status.clone(),
                delivery.tries.to_string(),
                delivery.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table::render(&["id", "at", "type", "status", "tries", "last error"], &rows)
}

fn describe_delivery(delivery: &Delivery) -> String {
    let mut rows = vec![
        ("delivery", delivery.delivery_id.to_string()),
        ("event", delivery.event_id.clone()),
        ("status", delivery.status.clone()),
        ("tries", delivery.tries.to_string()),
    ];
    let mut row = |label, value: Option<String>| {
        rows.extend(value.map(|value| (label, value)));
    };
    row("answered", delivery.last_status.map(|status| status.to_string()));
    row("error", delivery.last_error.clone());
    row("next try", delivery.next_attempt_at.clone());
    row("ended at", delivery.ended_at.clone());
    let mut text = fields(&rows);
    if !delivery.attempts.is_empty() {
        let attempts: Vec<Vec<String>> = delivery
            .attempts
            .iter()
            .map(|attempt| {
                vec![
                    attempt.began_at.clone(),
                    format!("{} ms", attempt.duration_ms),
                    attempt.status.map(|status| status.to_string()).unwrap_or_default(),
                    attempt.error.clone().unwrap_or_default(),
                ]
            })
            .collect();
        text.push_str(&table::render(&["tried at", "took", "answer", "error"], &attempts));
    }
    if let Some(message) = &delivery.message {
        text.push_str(&json::pretty(message.get()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terminal::clean_text;

    #[test]
    fn a_disabled_webhook_says_why_and_how_it_is_enabled() {
        let webhook = |more: &str| -> Webhook {
            serde_json::from_str(&format!(
                r#"{{"webhook_id":"018f4e3e-0000-7000-8000-0000000000aa","url":"https://hooks.example.com/",{more}}}"#
            ))
            .unwrap()
        };
        let since = r#""failing_since":"2026-01-01T00:00:00Z""#;
        let disabled = webhook(&format!(
            r#""enabled":false,"disabled_reason":"no message was delivered for 5 days\u001b[2J",{since}"#
        ));
        let list = overview(std::slice::from_ref(&disabled));
        assert!(list.contains("disabled"), "{list}");
        assert!(
            list.contains("is told of nothing: no message was delivered for 5 days\n"),
            "{list}"
        );
        assert!(
            list.ends_with("mecapy webhooks enable 018f4e3e-0000-7000-8000-0000000000aa\n"),
            "{list}"
        );
        let one = describe(&disabled);
        assert!(one.contains("failing since"), "{one}");
        let failing = overview(&[webhook(&format!(r#""enabled":true,{since}"#))]);
        assert!(
            failing.contains("failing") && !failing.contains("is told of nothing"),
            "{failing}"
        );
        assert!(overview(&[webhook(r#""enabled":true"#)]).contains("enabled"));
    }

    #[test]
    fn what_a_stranger_answered_cannot_touch_the_terminal() {
        let delivery: Delivery = serde_json::from_str(
            r#"{"delivery_id":"018f4e3e-0000-7000-8000-00000000000d","event_id":"push.done/x","event_type":"push.done",
                "status":"dead","tries":2,"last_status":500,"last_error":"out of \u001b[2Jorder",
                "attempts":[{"began_at":"t","duration_ms":3,"status":500,"error":"\u001b[31mred"}],
                "message":{"text":"\u001b[2J"}}"#,
        )
        .unwrap();
        let text = describe_delivery(&delivery);
        assert!(text.contains(r#""text": "\u001b[2J""#), "{text}");
        assert!(!clean_text(&text).contains('\u{1b}'), "as everything is shown");
        let list = deliveries(&[delivery]);
        assert!(list.contains("out of order") && !list.contains('\u{1b}'), "{list}");
    }
}
