//! A new database of advisories, and images that had passed.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use mecapy_advisories::Database;
use mecapy_proto::v1::ScanRevoked;
use mecapy_proto::{BuildId, FunctionId};
use mecapy_scanner::policy::{Options, Policies, Policy};
use mecapy_scanner::rematch::{OnRevoked, Rematch};
use mecapy_store::scans::{self, Standing};
use mecapy_store::{BuildState, functions};

use crate::chain::{PATIENCE, Stage};
use crate::tarball::Tarball;

/// Everything below `fixed` of six has a CRITICAL.
fn database(day: u32, fixed: &str) -> Arc<Database> {
    let json = format!(
        r#"[{{"id": "PYSEC-2025-{day}", "modified": "2025-10-{day:02}T00:00:00Z", "aliases": ["CVE-2025-6"],
            "database_specific": {{"severity": "CRITICAL"}}, "summary": "bad",
            "affected": [{{"package": {{"ecosystem": "PyPI", "name": "six"}},
              "ranges": [{{"type": "ECOSYSTEM", "events": [{{"introduced": "0"}}, {{"fixed": "{fixed}"}}]}}]}}]}}]"#
    );
    Arc::new(Database::of_records(&json, now()).unwrap())
}

fn now() -> DateTime<Utc> {
    "2025-10-20T12:00:00Z".parse().unwrap()
}

fn rematch(stage: &Stage, on_revoked: OnRevoked, policy: Policy) -> Rematch {
    Rematch {
        pool: stage.pool.clone(),
        outbox: stage.outbox.clone(),
        policies: Policies::new(policy),
        on_revoked,
    }
}

/// An image that passed.
async fn passed(stage: &Stage, version: &str, code: u8) -> (BuildId, FunctionId, String) {
    let dependencies = Tarball::new().python("six", version).gzip();
    let code = Tarball::new().file("app/user_function.py", [code]).gzip();
    let (id, event) = stage.built(&[dependencies, code]).await;
    stage.publish(&event).await;
    stage.scan_done(id).await;
    stage.build_in(id, BuildState::Publishing).await;
    (id, FunctionId::new(event.function_id).unwrap(), event.digest)
}

async fn standing(
    stage: &Stage,
    (_, function, digest): &(BuildId, FunctionId, String),
) -> Standing {
    scans::standing(&stage.pool, digest, *function).await.unwrap()
}

#[tokio::test]
async fn a_new_database_revokes_once_what_it_rejects_and_a_later_one_takes_it_back() {
    let stage = Stage::start().await;
    let mut revoked = stage.subscribe("scan.revoked").await;
    let (old, other) = (passed(&stage, "1.15.0", 1).await, passed(&stage, "1.15.0", 2).await);
    let newer = passed(&stage, "1.17.0", 3).await;
    let rematch = rematch(&stage, OnRevoked::Refuse, Policy::default());

    let nothing = rematch.if_due(&database(1, "1.0"), now()).await.unwrap().unwrap();
    assert_eq!((nothing.images, nothing.revoked, nothing.unindexed), (3, 0, 0));
    let summary = rematch.if_due(&database(2, "1.16.0"), now()).await.unwrap().unwrap();
    assert_eq!((summary.images, summary.revoked, summary.restored), (3, 2, 0));
    for image in [&old, &other] {
        assert_eq!(standing(&stage, image).await, Standing::Refused);
    }
    assert_eq!(standing(&stage, &newer).await, Standing::Passed);
    let scan = scans::get(&stage.pool, old.0).await.unwrap().unwrap();
    assert!(scan.revoked_at.is_some() && scan.verdict == "PASSED");
    assert_eq!((scan.critical, &scan.findings[0]["id"]), (1, &"CVE-2025-6".into()));
    // Who looks at the function sees it.
    let overview = functions::overview(&stage.pool, old.1).await.unwrap().unwrap();
    assert_eq!(overview.scan.unwrap().critical, 1);

    // Again, by another replica, and by one that has the older database yet: nothing.
    assert_eq!(rematch.if_due(&database(2, "1.16.0"), now()).await.unwrap(), None);
    assert_eq!(rematch.if_due(&database(1, "1.0"), now()).await.unwrap(), None);
    // The next day, or a database that says the same: no second event.
    for (day, at) in [(2, now() + chrono::Duration::days(1)), (3, now())] {
        let again = rematch.if_due(&database(day, "1.16.0"), at).await.unwrap().unwrap();
        assert_eq!((again.revoked, again.restored), (0, 0));
    }
    let restored = rematch.if_due(&database(4, "1.0"), now()).await.unwrap().unwrap();
    assert_eq!((restored.revoked, restored.restored), (0, 2));
    assert_eq!(standing(&stage, &old).await, Standing::Passed);
    // By another database again: that is news.
    let again = rematch.if_due(&database(5, "1.18.0"), now()).await.unwrap().unwrap();
    assert_eq!(again.revoked, 3);

    let mut events: Vec<ScanRevoked> = Vec::new();
    while events.len() < 5 {
        let message = tokio::time::timeout(PATIENCE, revoked.next()).await;
        let message = message.expect("scan.revoked comes").unwrap();
        events.push(prost::Message::decode(message.payload).unwrap());
    }
    let of_old: Vec<&ScanRevoked> =
        events.iter().filter(|event| event.build_id == old.0.to_string()).collect();
    assert_eq!(of_old.len(), 2);
    let event = of_old[0];
    assert_eq!((event.function_id, &event.digest), (old.1.get(), &old.2));
    assert_eq!(
        (event.owner.as_str(), event.refused, event.counts.unwrap().critical),
        ("anna", true, 1)
    );
    assert_eq!(event.findings[0].fixed_version, "1.16.0");
    assert_ne!(of_old[0].database_version, of_old[1].database_version);
}

#[tokio::test]
async fn by_policy_a_revoked_image_is_flagged_and_runs_on() {
    let stage = Stage::start().await;
    let image = passed(&stage, "1.15.0", 1).await;
    let rematch = rematch(&stage, OnRevoked::Flag, Policy::default());
    let summary = rematch.if_due(&database(1, "1.16.0"), now()).await.unwrap().unwrap();
    assert_eq!(summary.revoked, 1);
    assert_eq!(standing(&stage, &image).await, Standing::Passed);
    assert!(scans::get(&stage.pool, image.0).await.unwrap().unwrap().revoked_at.is_some());
}

#[tokio::test]
async fn an_ignore_that_expires_revokes_without_a_new_database() {
    let stage = Stage::start().await;
    let image = passed(&stage, "1.15.0", 1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let list = "ignore: [{id: CVE-2025-6, reason: looked at, expires: 2025-10-21}]\n";
    std::fs::write(file.path(), list).unwrap();
    let options = Options { ignore_file: Some(file.path().to_owned()), ..Options::default() };
    let rematch = rematch(&stage, OnRevoked::Refuse, Policy::load(&options).unwrap());
    let database = database(1, "1.16.0");
    assert_eq!(rematch.if_due(&database, now()).await.unwrap().unwrap().revoked, 0);
    assert_eq!(standing(&stage, &image).await, Standing::Passed);
    let next_day = now() + chrono::Duration::days(1);
    assert_eq!(rematch.if_due(&database, next_day).await.unwrap().unwrap().revoked, 1);
    assert_eq!(standing(&stage, &image).await, Standing::Refused);
}

#[tokio::test]
async fn images_of_deleted_functions_are_left_and_those_without_an_index_are_counted() {
    let stage = Stage::start().await;
    let deleted = passed(&stage, "1.15.0", 1).await;
    let unindexed = passed(&stage, "1.14.0", 2).await;
    let mut conn = stage.pool.acquire().await.unwrap();
    assert!(functions::delete(&mut conn, deleted.1).await.unwrap());
    // The sweep took what was not used for long.
    let gone =
        mecapy_registry::Digest::of(&Tarball::new().python("six", "1.14.0").gzip()).to_string();
    sqlx::query("delete from layer_indexes where layer_digest = $1")
        .bind(gone)
        .execute(&stage.pool)
        .await
        .unwrap();
    let rematch = rematch(&stage, OnRevoked::Refuse, Policy::default());
    let summary = rematch.if_due(&database(1, "1.16.0"), now()).await.unwrap().unwrap();
    assert_eq!((summary.images, summary.unindexed, summary.revoked), (1, 1, 0));
    assert_eq!(standing(&stage, &unindexed).await, Standing::Passed);
}
