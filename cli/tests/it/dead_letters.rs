use std::time::Duration;

use mecapy_bus::{Backbone, ConsumerOptions, Delivery, Handler, HandlerError, Outcome, topology};
use mecapy_proto::v1::BuildRequested;
use mecapy_service::{Context, Health, Secret};
use mecapy_testkit::eventually;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::program::{Finished, mecapy};
use crate::servers::Servers;

struct Ignore;

impl Handler<BuildRequested> for Ignore {
    async fn handle(&self, _: BuildRequested, _: &Delivery) -> Result<Outcome, HandlerError> {
        Ok(Outcome::nothing())
    }
}

/// A builder that can't read what comes, as it runs in production.
async fn start_builder(servers: &Servers) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let context = Context {
        service: "builder",
        replica: "test".to_owned(),
        health: Health::default(),
        shutdown: shutdown.clone(),
        hand_back: CancellationToken::new(),
    };
    let nats = mecapy_bus::Options {
        url: servers.nats.url.clone(),
        user: Some(servers.nats.user.clone()),
        password: Some(Secret::new(servers.nats.password.clone())),
    };
    let postgres = mecapy_store::Options { url: servers.postgres.clone(), ..Default::default() };
    let backbone = Backbone::start(&context, &nats, &postgres).await.unwrap();
    tokio::spawn(async move {
        let options = ConsumerOptions { durable: topology::BUILDER, concurrency: 1 };
        backbone.consume::<BuildRequested, _>(&context, options, Ignore).await;
    });
    shutdown
}

async fn publish(servers: &Servers, body: &'static str) {
    let options = async_nats::ConnectOptions::with_user_and_password(
        servers.nats.user.clone(),
        servers.nats.password.clone(),
    );
    let client = options.connect(&servers.nats.url).await.unwrap();
    async_nats::jetstream::new(client)
        .publish("build.requested", body.into())
        .await
        .unwrap()
        .await
        .unwrap();
}

async fn dlq(servers: &Servers, arguments: &[&str]) -> Finished {
    mecapy(&[&["dlq"], arguments, &["--json", "--config", servers.config()]].concat()).await
}

async fn ids(servers: &Servers) -> Vec<u64> {
    let list = dlq(servers, &["list"]).await.expect(0).json();
    list.as_array().unwrap().iter().map(|letter| letter["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_listed_shown_replayed_and_dropped() {
    let servers = Servers::new().await;
    mecapy(&["setup", "--config", servers.config()]).await.expect(0);
    let builder = start_builder(&servers).await;
    publish(&servers, "{\"build_id\": \u{1b}[2J").await;
    let first = eventually("a dead letter", Duration::from_secs(60), async || {
        ids(&servers).await.first().copied()
    })
    .await;

    let shown: Value = dlq(&servers, &["show", &first.to_string()]).await.expect(0).json();
    assert_eq!(
        (&shown["subject"], &shown["service"]),
        (&"build.requested".into(), &"builder".into())
    );
    assert!(shown["reason"].as_str().unwrap().contains("as JSON"), "{shown}");
    assert!(shown["body"].as_str().unwrap().contains("build_id"), "{shown}");
    let table = mecapy(&["dlq", "list", "--config", servers.config()]).await.expect(0);
    assert!(
        table.stdout.contains("build.requested") && !table.stdout.contains('\u{1b}'),
        "{table:#?}"
    );

    // It fails again, and is a new dead letter; the old one is gone.
    let replayed = dlq(&servers, &["replay", &first.to_string()]).await.expect(0).json();
    assert_eq!(replayed["replayed"], serde_json::json!([first]));
    eventually("it is a new dead letter", Duration::from_secs(60), async || {
        let ids = ids(&servers).await;
        (ids.len() == 1 && ids[0] != first).then_some(())
    })
    .await;
    builder.cancel();

    dlq(&servers, &["drop", "--all"]).await.expect(2);
    let dropped = dlq(&servers, &["drop", "--all", "--yes"]).await.expect(0).json();
    assert_eq!(dropped["dropped"].as_array().unwrap().len(), 1);
    assert_eq!(ids(&servers).await, [0; 0]);
    dlq(&servers, &["show", &first.to_string()]).await.expect(4);
    let missing = dlq(&servers, &["drop", "77"]).await.expect(4).json();
    assert_eq!(missing["not_found"], serde_json::json!([77]));
}
