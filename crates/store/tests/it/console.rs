//! What the console reads: figures of the last hour, log-ins, the audit, drills.

use std::time::Duration;

use mecapy_store::console::figures;
use mecapy_store::{audit, mirror_drills, sessions};
use serde_json::json;

use crate::database;

#[tokio::test]
async fn figures_are_of_the_last_hour_and_of_whoever_asks() {
    let pool = database().await;
    sqlx::raw_sql(
        "insert into functions (owner, name) values ('acme', 'f'), ('other', 'f');
         insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
             select id, 1, '3.11', 'slim', '', '' from functions;
         -- Of each owner: a build that took 2 s to start, 10 s to build, 1 s to scan and 3 s to publish; an old one.
         insert into builds (id, function_id, version, state, requested_at, started_at, built_at, scanned_at, ended_at)
             select gen_random_uuid(), id, 1, 'ready', t, t + interval '2 s', t + interval '12 s', t + interval '13 s', t + interval '16 s'
             from functions, (values (now() - interval '10 minutes'), (now() - interval '2 hours')) v (t);
         insert into builds (id, function_id, version, state, requested_at, started_at)
             select gen_random_uuid(), id, 1, 'building', now(), now() from functions where owner = 'acme';
         insert into tasks (id, function_id, state, cache, created_at, started_at, ended_at)
             select gen_random_uuid(), id, s, 'HIT', t, t + interval '20 ms', t + interval '120 ms'
             from functions, (values ('succeeded'), ('failed')) v (s), (values (now() - interval '1 minute')) w (t);
         insert into tasks (id, function_id) select gen_random_uuid(), id from functions where owner = 'other';",
    )
    .execute(&pool)
    .await
    .unwrap();
    let acme = "acme".parse().unwrap();
    let builds = figures::builds(&pool, Some(&acme)).await.unwrap();
    assert_eq!((builds.asked, builds.ready, builds.failed), (2, 1, 0));
    let p95 = [builds.build, builds.scan, builds.publish, builds.whole].map(|spread| spread.p95_ms);
    assert_eq!(p95, [10_000.0, 1_000.0, 3_000.0, 16_000.0].map(Some));
    assert_eq!(figures::builds(&pool, None).await.unwrap().ready, 2);
    let tasks = figures::tasks(&pool, Some(&acme)).await.unwrap();
    assert_eq!((tasks.asked, tasks.succeeded, tasks.failed, tasks.hits), (2, 1, 1, 2));
    assert_eq!((tasks.queue.p50_ms, tasks.run.p50_ms), (Some(20.0), Some(100.0)));
    assert_eq!(tasks.per_minute, 2.0 / 5.0);
    assert_eq!(figures::tasks(&pool, None).await.unwrap().asked, 5);
    let (builds, tasks) = figures::open(&pool, Some(&acme)).await.unwrap();
    assert_eq!((builds, tasks), (vec![("building".to_owned(), 1)], vec![]));
    let (builds, tasks) = figures::open(&pool, None).await.unwrap();
    assert_eq!((builds, tasks), (vec![("building".to_owned(), 1)], vec![("queued".to_owned(), 1)]));
}

#[tokio::test]
async fn nothing_at_all_has_no_spread() {
    let pool = database().await;
    assert_eq!(figures::builds(&pool, None).await.unwrap(), figures::Builds::default());
    assert_eq!(figures::tasks(&pool, None).await.unwrap(), figures::Tasks::default());
}

#[tokio::test]
async fn a_session_lasts_as_long_as_it_was_opened_for() {
    let pool = database().await;
    let mut conn = pool.acquire().await.unwrap();
    let (id, token) = ([1; 32], [2; 32]);
    sessions::open(&mut conn, &id, &token, "acme", Duration::from_secs(60)).await.unwrap();
    let found = sessions::get(&pool, &id).await.unwrap().unwrap();
    assert_eq!(found.token_hash, token);
    assert!(sessions::get(&pool, &token).await.unwrap().is_none());
    assert!(sessions::close(&mut conn, &id).await.unwrap());
    assert!(!sessions::close(&mut conn, &id).await.unwrap());
    sessions::open(&mut conn, &id, &token, "acme", Duration::ZERO).await.unwrap();
    assert!(sessions::get(&pool, &id).await.unwrap().is_none(), "it has expired");
}

#[tokio::test]
async fn an_action_is_noted_as_begun_until_it_is_known_how_it_went() {
    let pool = database().await;
    let action = |target| audit::Action {
        owner: "ops",
        role: "operator",
        action: "replay",
        target,
        detail: json!({ "n": 1 }),
    };
    let row = audit::begin(&pool, &action("1")).await.unwrap();
    assert_eq!(audit::page(&pool, None, 10).await.unwrap()[0].outcome, "begun");
    audit::settle(&pool, row, "NATS is away").await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    audit::record(&mut transaction, &action("2")).await.unwrap();
    transaction.rollback().await.unwrap();
    let rows = audit::page(&pool, None, 10).await.unwrap();
    assert_eq!(rows.len(), 1, "what was taken back was not done");
    assert_eq!((rows[0].target.as_str(), rows[0].outcome.as_str()), ("1", "NATS is away"));
    assert!(audit::page(&pool, Some(row), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_newest_drill_is_the_one_that_is_shown() {
    let pool = database().await;
    assert!(mirror_drills::newest(&pool).await.unwrap().is_none());
    mirror_drills::record(&pool, "f.example", true, 10, &json!([])).await.unwrap();
    mirror_drills::record(&pool, "f.example", false, 20, &json!([{ "image": "x" }])).await.unwrap();
    let newest = mirror_drills::newest(&pool).await.unwrap().unwrap();
    assert_eq!((newest.recovered, newest.duration_ms), (false, 20));
}
