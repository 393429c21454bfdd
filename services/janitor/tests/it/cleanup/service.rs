//! The service as it runs: events, replicas.

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::{Bus, topology};
use mecapy_janitor::{Config, Options};
use mecapy_proto::v1::CleanupRequested;
use mecapy_registry::{DistributionInventory, Registries};
use mecapy_service::{Context, Health, Secret};
use mecapy_testkit::{Infra, eventually};
use tokio_util::sync::CancellationToken;

use super::meddler::Meddler;
use super::world::{World, handle, registry_options, request};

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn two_replicas_make_one_run_of_one_event() {
    let world = World::new().await;
    let function = world.function("f").await;
    for version in 1..=6 {
        world.publish(function, version).await;
    }
    world.age(100).await;
    let account = Infra::shared().await.nats().await;
    let nats = mecapy_bus::Options {
        url: account.url,
        user: Some(account.user),
        password: Some(Secret::new(account.password)),
    };
    let bus = Bus::connect_now("test", &nats).await.unwrap();
    topology::setup(&bus, &topology::Setup::default()).await.unwrap();
    let config = Config {
        nats,
        postgres: world.postgres.clone(),
        s3: world.s3.clone(),
        registries: Registries {
            primary: registry_options(&world.registries.primary()),
            staging: None,
            fallback: Some(registry_options(&world.registries.fallback())),
        },
        janitor: Options { max_percent: 100, ..Options::default() },
        ..Config::default()
    };
    let replica = async |name: &str| {
        let context = Context {
            service: "janitor",
            replica: name.to_owned(),
            health: Health::default(),
            shutdown: CancellationToken::new(),
            hand_back: CancellationToken::new(),
        };
        mecapy_janitor::run(config.clone(), context).await.unwrap();
    };
    let test = async {
        // The ticks of all replicas have one name; another run waits for the first.
        for run in ["night", "night", "noon"] {
            bus.publish(&request(run)).await.unwrap();
        }
        eventually("both runs are done", PATIENCE, async || {
            let runs = mecapy_store::cleanup_runs::list(&world.pool, 10).await.unwrap();
            let is_done = |run: &str| runs.iter().any(|r| r.id == run && r.state == "done");
            (is_done("night") && is_done("noon")).then_some(())
        })
        .await;
    };
    tokio::select! {
        _ = futures::future::join(replica("1"), replica("2")) => panic!("a replica ended"),
        () = test => {}
    }
    let deleted: i64 =
        world.run("night").await.planned_images + world.run("noon").await.planned_images;
    assert_eq!(deleted, 5, "what the first deleted, the second did not find");
    let done: i64 = sqlx::query_scalar("select count(*) from inbox where consumer = 'janitor'")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(done, 2);
}

#[tokio::test]
async fn replicas_that_are_given_one_event_at_once_do_it_once() {
    let world = World::new().await;
    let function = world.function("f").await;
    for version in 1..=6 {
        world.publish(function, version).await;
    }
    world.age(100).await;
    let inventory = Arc::new(Meddler::new(DistributionInventory::new(world.primary.clone())));
    let (one, other) =
        (world.janitor_with(inventory.clone()), world.janitor_with(inventory.clone()));
    let event: CleanupRequested = request("run");
    let (one, other) = tokio::join!(handle(&one, &event), handle(&other, &event));
    let told: Vec<String> = [one, other].map(|ended| format!("{:?}", ended.unwrap())).into();
    assert_eq!(told.iter().filter(|told| told.contains("cleanup.done")).count(), 1, "{told:?}");
    assert_eq!(inventory.deletions(), 5);
}
