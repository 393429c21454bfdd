//! The service as it runs: events, replicas.

use std::sync::Arc;
use std::time::Duration;

use mecapy_bus::HandlerError;
use mecapy_janitor::{Config, Options};
use mecapy_proto::v1::CleanupRequested;
use mecapy_registry::{DistributionInventory, Registries};
use mecapy_service::{Context, Health};
use mecapy_testkit::eventually;
use tokio_util::sync::CancellationToken;

use super::meddler::Meddler;
use super::world::{World, handle, registry_options, request};

/// Far more than anything here takes: what passes it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn two_replicas_make_one_run_of_one_event() {
    let world = World::new().await;
    let function = world.function("f").await;
    for version in 1..=6 {
        world.publish(function, version).await;
    }
    world.age(100).await;
    let config = Config {
        nats: world.nats.clone(),
        postgres: world.postgres.clone(),
        s3: world.s3.clone(),
        registries: Registries {
            primary: registry_options(&world.registries.primary()),
            staging: None,
            fallback: Some(registry_options(&world.registries.fallback())),
        },
        // No run of the schedule's between those that are counted.
        janitor: Options { max_percent: 100, schedule: None, ..Options::default() },
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
            world.bus.publish(&request(run)).await.unwrap();
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
async fn nobody_knows_the_name_of_a_scheduled_run_before_it_comes() {
    let (world, other) = (World::new().await, World::new().await);
    let seal = async |pool, tick| mecapy_store::schedule_key::seal(pool, tick).await.unwrap();
    let night = seal(&world.pool, "cleanup-2026-06-01").await;
    assert_eq!(night.strip_prefix("cleanup-2026-06-01-").unwrap().len(), 16);
    let replica = mecapy_store::connect(&world.postgres).await.unwrap();
    assert_eq!(seal(&replica, "cleanup-2026-06-01").await, night, "every replica sends the same");
    assert_ne!(seal(&other.pool, "cleanup-2026-06-01").await, night, "and no other system");
    let next = seal(&world.pool, "cleanup-2026-06-02").await;
    assert_ne!(night[19..], next[19..], "nor does yesterday's tell today's");

    // It is a name like any other.
    let plain = CleanupRequested { dry_run: true, ..request("cleanup-2026-06-01") };
    world.request(&plain).await.unwrap();
    world.cleanup(&night).await;
    assert!(!world.run(&night).await.dry_run, "what was taken before is another run");
}

#[tokio::test]
async fn a_run_that_lost_its_lock_deletes_nothing_more_and_is_gone_on_with() {
    let mut world = World::new().await;
    world.options.concurrency = 1;
    let function = world.function("f").await;
    for version in 1..=6 {
        world.publish(function, version).await;
    }
    world.age(100).await;
    let inventory = || DistributionInventory::new(world.primary.clone());
    let pool = world.pool.clone();
    let meddler = Arc::new(Meddler::new(inventory()).after_delete(Box::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            let ended = sqlx::query(
                "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'
                     and database = (select oid from pg_database where datname = current_database())",
            );
            ended.execute(&pool).await.unwrap();
        })
    })));
    let broken = handle(&world.janitor_with(meddler.clone()), &request("run")).await;
    assert!(
        matches!(&broken, Err(HandlerError::Transient(why)) if format!("{why:?}").contains("LockLost")),
        "{broken:?}"
    );
    assert_eq!(meddler.deletions(), 1, "another replica may be at it");
    assert_eq!(world.run("run").await.state, "applying");

    let second = Arc::new(Meddler::new(inventory()));
    handle(&world.janitor_with(second.clone()), &request("run")).await.unwrap();
    assert_eq!((second.deletions(), world.run("run").await.state.as_str()), (4, "done"));
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
