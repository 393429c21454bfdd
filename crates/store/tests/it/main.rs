//! The entities on a real PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod bases;
mod console;
mod mirror;
mod task_runs;

use mecapy_proto::{BuildId, ErrorCode, FunctionId, TaskId, failure};
use mecapy_store::builds::Built;
use mecapy_store::functions::{Added, NewVersion};
use mecapy_store::outbox::Message;
use mecapy_store::tasks::{Completion, NewTask};
use mecapy_store::{
    BuildState, Options, PgPool, StoredFailure, TaskState, builds, functions, inbox, outbox, tasks,
};
use mecapy_testkit::Infra;

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

async fn database() -> PgPool {
    let options = Options { url: Infra::shared().await.postgres().await, ..Options::default() };
    let pool = mecapy_store::connect(&options).await.unwrap();
    mecapy_store::migrate(&pool).await.unwrap();
    pool
}

async fn function(pool: &PgPool) -> FunctionId {
    let mut conn = pool.acquire().await.unwrap();
    functions::ensure(&mut conn, &"acme".parse().unwrap(), "f").await.unwrap()
}

fn version(inputs: &str) -> NewVersion {
    NewVersion {
        python_version: "3.11".into(),
        base_variant: "slim".into(),
        requirements: String::new(),
        inputs_sha256: inputs.into(),
    }
}

async fn build(pool: &PgPool, function: FunctionId, number: u32) -> BuildId {
    let mut conn = pool.acquire().await.unwrap();
    let added = functions::add_version(&mut conn, function, number, &version(&number.to_string()))
        .await
        .unwrap();
    assert_eq!(added, Added::Version(number));
    let id = BuildId::new();
    assert!(builds::create(&mut conn, id, function, number).await.unwrap());
    id
}

fn built() -> Built {
    Built {
        staging_image: "r/s".into(),
        digest: DIGEST.into(),
        tag: "v1".into(),
        size_bytes: 1,
        dependency_image: "r/d".into(),
        lock_key: None,
        log_key: "logs/x".into(),
        duration_ms: 1,
    }
}

async fn to_publishing(pool: &PgPool, id: BuildId) {
    builds::start(pool, id).await.unwrap();
    let mut conn = pool.acquire().await.unwrap();
    assert!(builds::built(&mut conn, id, &built()).await.unwrap());
    assert!(builds::scanned(&mut conn, id, DIGEST, true).await.unwrap());
}

#[tokio::test]
async fn setup_can_run_again_and_says_when_it_has_not() {
    let options = Options { url: Infra::shared().await.postgres().await, ..Options::default() };
    let pool = mecapy_store::connect(&options).await.unwrap();
    assert!(!mecapy_store::schema_is_current(&pool).await.unwrap());
    mecapy_store::migrate(&pool).await.unwrap();
    mecapy_store::migrate(&pool).await.unwrap();
    assert!(mecapy_store::schema_is_current(&pool).await.unwrap());
}

#[tokio::test]
async fn a_build_moves_forward_once_and_never_after_its_end() {
    let pool = database().await;
    let id = build(&pool, function(&pool).await, 1).await;
    let mut conn = pool.acquire().await.unwrap();
    assert!(!builds::built(&mut conn, id, &built()).await.unwrap(), "it is not building yet");
    assert_eq!(builds::start(&pool, id).await.unwrap(), Some(BuildState::Building));
    assert_eq!(
        builds::start(&pool, id).await.unwrap(),
        Some(BuildState::Building),
        "another builder takes it over"
    );
    assert!(builds::built(&mut conn, id, &built()).await.unwrap());
    assert!(!builds::built(&mut conn, id, &built()).await.unwrap());
    assert!(
        !builds::scanned(&mut conn, id, "sha256:other", true).await.unwrap(),
        "another digest was scanned"
    );
    assert!(builds::scanned(&mut conn, id, DIGEST, true).await.unwrap());
    assert!(builds::published(&mut conn, id, "r/f:v1").await.unwrap());
    assert!(!builds::published(&mut conn, id, "r/f:v1").await.unwrap());
    let failed = StoredFailure::from(failure(ErrorCode::Internal, "late"));
    assert!(!builds::fail(&mut conn, id, &failed, None).await.unwrap());
    assert_eq!(builds::get(&pool, id).await.unwrap().unwrap().state, BuildState::Ready);
}

#[tokio::test]
async fn an_older_version_that_is_ready_later_does_not_become_the_current_one() {
    let pool = database().await;
    let function = function(&pool).await;
    let (older, newer) = (build(&pool, function, 1).await, build(&pool, function, 2).await);
    to_publishing(&pool, older).await;
    to_publishing(&pool, newer).await;
    let mut conn = pool.acquire().await.unwrap();
    assert!(builds::published(&mut conn, newer, "r/f:v2").await.unwrap());
    assert!(builds::is_of_a_newer(&pool, DIGEST, older).await.unwrap());
    assert!(!builds::is_of_a_newer(&pool, DIGEST, newer).await.unwrap());
    assert!(builds::published(&mut conn, older, "r/f:v1").await.unwrap());
    let image = functions::get(&pool, function).await.unwrap().unwrap().docker_image;
    assert_eq!(image.as_deref(), Some("r/f:v2"));
}

#[tokio::test]
async fn a_version_is_one_set_of_inputs() {
    let pool = database().await;
    let function = function(&pool).await;
    let mut conn = pool.acquire().await.unwrap();
    let mut add = async |number, inputs: &str| {
        functions::add_version(&mut conn, function, number, &version(inputs)).await.unwrap()
    };
    assert_eq!(add(0, "a").await, Added::Version(1));
    assert_eq!(add(1, "a").await, Added::Version(1));
    assert_eq!(add(1, "b").await, Added::Conflict);
    assert_eq!(add(0, "b").await, Added::Version(2));
    assert_eq!(
        functions::add_version(&mut conn, FunctionId::new(999).unwrap(), 0, &version("a"))
            .await
            .unwrap(),
        Added::UnknownFunction
    );
}

fn completion(state: TaskState) -> Completion {
    Completion {
        state,
        digest: Some(DIGEST.into()),
        cache: None,
        timings: Default::default(),
        result_key: None,
        exit_code: Some(0),
        failure: None,
    }
}

async fn task(pool: &PgPool) -> TaskId {
    let new = NewTask {
        id: TaskId::new(),
        function: function(pool).await,
        image: String::new(),
        inputs_s3_key: None,
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    };
    let mut conn = pool.acquire().await.unwrap();
    assert!(tasks::create(&mut conn, &new).await.unwrap());
    assert!(!tasks::create(&mut conn, &new).await.unwrap());
    new.id
}

#[tokio::test]
async fn an_attempt_that_was_overtaken_records_nothing() {
    let pool = database().await;
    let id = task(&pool).await;
    let first = tasks::claim(&pool, id, "one").await.unwrap().unwrap();
    let second = tasks::claim(&pool, id, "two").await.unwrap().unwrap();
    assert_eq!((first.attempt, second.attempt), (1, 2));
    let mut conn = pool.acquire().await.unwrap();
    assert!(!tasks::complete(&mut conn, id, 1, &completion(TaskState::Failed)).await.unwrap());
    assert!(tasks::complete(&mut conn, id, 2, &completion(TaskState::Succeeded)).await.unwrap());
    assert!(!tasks::complete(&mut conn, id, 2, &completion(TaskState::Failed)).await.unwrap());
    assert!(tasks::claim(&pool, id, "three").await.unwrap().is_none(), "it has ended");
    assert_eq!(tasks::get(&pool, id).await.unwrap().unwrap().state, TaskState::Succeeded);
}

#[tokio::test]
async fn a_cancelled_task_is_not_started() {
    let pool = database().await;
    let (queued, running) = (task(&pool).await, task(&pool).await);
    let mut conn = pool.acquire().await.unwrap();
    assert_eq!(tasks::cancel(&mut conn, queued).await.unwrap(), Some(TaskState::Cancelled));
    assert!(tasks::claim(&pool, queued, "w").await.unwrap().is_none());
    tasks::claim(&pool, running, "w").await.unwrap().unwrap();
    assert_eq!(tasks::cancel(&mut conn, running).await.unwrap(), Some(TaskState::Running));
    assert!(tasks::get(&pool, running).await.unwrap().unwrap().cancel_requested);
    assert_eq!(tasks::cancel(&mut conn, TaskId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn a_message_is_recorded_with_what_it_sends_or_not_at_all() {
    let pool = database().await;
    let message = |id: &str| Message {
        subject: "scan.done".into(),
        message_id: id.into(),
        payload: vec![0, 255],
        traceparent: None,
    };
    let mut conn = pool.acquire().await.unwrap();
    let sent = [message("a"), message("b")];
    let ids = inbox::record(&mut conn, "c", "m", "s", &sent).await.unwrap().unwrap();
    assert_eq!(ids.len(), 2);
    assert_eq!(inbox::record(&mut conn, "c", "m", "s", &sent).await.unwrap(), None);
    assert_eq!(inbox::record(&mut conn, "other", "m", "s", &[]).await.unwrap(), Some(Vec::new()));
    assert!(inbox::contains(&pool, "c", "m").await.unwrap());
    let rows = outbox::overdue(&mut conn, "s", Default::default(), &[], 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.message_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let blocked = ["scan.done".to_owned()];
    assert!(
        outbox::overdue(&mut conn, "s", Default::default(), &blocked, 10).await.unwrap().is_empty()
    );
    outbox::delete(&mut conn, &ids).await.unwrap();
    assert_eq!(outbox::waiting(&pool, "s").await.unwrap(), 0);
}
