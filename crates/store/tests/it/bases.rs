//! Runs of base images, and who stands on an older one.

use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::v1::{BaseDone, BuildRequested};
use mecapy_proto::{BuildId, ErrorCode, Event, FunctionId, failure};
use mecapy_store::{BuildState, PgPool, StoredFailure, bases, builds, functions, outbox};

use crate::{DIGEST, build, built, database, function, to_publishing};

const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000002";

async fn run(pool: &PgPool, id: &str, names: &[&str]) -> Vec<BuildId> {
    let cells: Vec<_> = names.iter().map(|base| (BuildId::new(), (*base).to_owned())).collect();
    let mut conn = pool.acquire().await.unwrap();
    assert!(bases::create_run(&mut conn, id, "manual", &cells).await.unwrap());
    assert!(!bases::create_run(&mut conn, id, "manual", &cells).await.unwrap());
    cells.into_iter().map(|(id, _)| id).collect()
}

/// queued → ready, with this digest.
async fn publish(pool: &PgPool, id: BuildId, digest: &str) {
    let left = builds::Built { digest: digest.to_owned(), ..built() };
    builds::start(pool, id).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    assert!(builds::built(&mut transaction, id, &left).await.unwrap());
    assert!(builds::scanned(&mut transaction, id, digest, true).await.unwrap());
    assert!(builds::published(&mut transaction, id, "r/base").await.unwrap());
    transaction.commit().await.unwrap();
}

async fn fail(pool: &PgPool, id: BuildId) {
    let mut transaction = pool.begin().await.unwrap();
    let why = StoredFailure::from(failure(ErrorCode::BuildFailed, "it broke"));
    assert!(builds::fail(&mut transaction, id, &why, None).await.unwrap());
    transaction.commit().await.unwrap();
}

fn read<E: Event>(payload: &[u8]) -> E {
    E::decode(payload).unwrap()
}

/// What the builder's outbox has to send about the end of runs.
async fn told(pool: &PgPool) -> Vec<BaseDone> {
    let mut conn = pool.acquire().await.unwrap();
    let rows = outbox::overdue(&mut conn, "builder", Default::default(), &[], 100).await.unwrap();
    rows.iter()
        .filter(|row| row.subject == BaseDone::SUBJECT)
        .map(|row| read(&row.payload))
        .collect()
}

#[tokio::test]
async fn a_run_ends_once_with_its_last_cell_however_the_cells_end() {
    let pool = database().await;
    let cells = run(&pool, "r", &["3.11-slim", "3.11-numpy", "3.11-scipy"]).await;
    publish(&pool, cells[0], DIGEST).await;
    fail(&pool, cells[1]).await;
    assert!(told(&pool).await.is_empty(), "a cell is open");
    assert_eq!(bases::run(&pool, "r").await.unwrap().unwrap().open, 1);

    builds::start(&pool, cells[2]).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    builds::built(&mut transaction, cells[2], &built()).await.unwrap();
    assert!(builds::scanned(&mut transaction, cells[2], DIGEST, false).await.unwrap());
    transaction.commit().await.unwrap();
    let done = told(&pool).await;
    assert_eq!(done.len(), 1, "{done:?}");
    let ends: Vec<_> = done[0]
        .outcomes
        .iter()
        .map(|outcome| (outcome.base.as_str(), outcome.status.as_str(), outcome.image.as_str()))
        .collect();
    assert_eq!(
        ends,
        [
            ("3.11-numpy", "failed", ""),
            ("3.11-scipy", "rejected", ""),
            ("3.11-slim", "ready", "r/base")
        ]
    );
    assert_eq!(done[0].outcomes[0].failure.as_ref().unwrap().code, "build-failed");
    let run = bases::run(&pool, "r").await.unwrap().unwrap();
    assert_eq!((run.ready, run.rejected, run.failed, run.open), (1, 1, 1, 0));
    assert!(run.ended_at.is_some());
    assert_eq!(bases::runs(&pool, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn cells_that_end_at_once_end_their_run_once() {
    let pool = database().await;
    let names: Vec<String> = (0..8).map(|i| format!("3.11-v{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cells = run(&pool, "r", &names).await;
    let ends = cells.into_iter().map(|id| {
        let pool = pool.clone();
        tokio::spawn(async move { fail(&pool, id).await })
    });
    for end in ends.collect::<Vec<_>>() {
        end.await.unwrap();
    }
    let done = told(&pool).await;
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].outcomes.len(), 8);
}

#[tokio::test]
async fn the_current_base_is_the_one_that_was_asked_for_last_whoever_is_ready_last() {
    let pool = database().await;
    let older = run(&pool, "one", &["3.11-slim"]).await[0];
    let newer = run(&pool, "two", &["3.11-slim"]).await[0];
    publish(&pool, newer, OTHER).await;
    assert!(builds::is_of_a_newer(&pool, OTHER, older).await.unwrap());
    publish(&pool, older, DIGEST).await;
    assert!(!builds::is_of_a_newer(&pool, DIGEST, newer).await.unwrap());
    let current = bases::current(&pool).await.unwrap();
    assert_eq!(current.len(), 1);
    assert_eq!(current[0].id(), newer);
}

#[tokio::test]
async fn a_function_is_stale_from_the_next_base_to_its_rebuild() {
    let pool = database().await;
    let function = function(&pool).await;
    let first = build(&pool, function, 1).await;
    to_publishing(&pool, first).await;
    let mut conn = pool.acquire().await.unwrap();
    bases::stands_on(&mut conn, first, DIGEST).await.unwrap();
    assert!(builds::published(&mut conn, first, "r/f:v1").await.unwrap());
    assert!(bases::stale(&pool).await.unwrap().is_empty(), "no base is known to be newer");

    let base = run(&pool, "one", &["3.11-slim"]).await[0];
    publish(&pool, base, DIGEST).await;
    let other = run(&pool, "other", &["3.12-slim"]).await[0];
    publish(&pool, other, OTHER).await;
    assert!(bases::stale(&pool).await.unwrap().is_empty(), "it stands on the newest of its Python");

    let base = run(&pool, "two", &["3.11-slim"]).await[0];
    publish(&pool, base, OTHER).await;
    let stale = bases::stale(&pool).await.unwrap();
    assert_eq!(stale.len(), 1);
    assert_eq!(
        (stale[0].current.function_id().unwrap(), stale[0].current.build()),
        (function, first)
    );
    assert_eq!(
        (stale[0].base_digest.as_deref(), stale[0].newest_digest.as_str(), stale[0].in_work),
        (Some(DIGEST), OTHER, false)
    );
    let done = told(&pool).await;
    assert_eq!(done.iter().map(|done| done.stale_functions).collect::<Vec<_>>(), [0, 0, 1]);

    // A build of the same version again: for users nothing changes before it is ready.
    let again = bases::rebuild(&mut conn, &stale[0], "sources/x.py").await.unwrap().unwrap();
    assert_eq!(bases::rebuild(&mut conn, &stale[0], "sources/x.py").await.unwrap(), None);
    let rows = outbox::overdue(&mut conn, "builder", Default::default(), &[], 100).await.unwrap();
    let asked: BuildRequested = read(&rows.last().unwrap().payload);
    assert_eq!((asked.build_id, asked.version), (again.to_string(), 1));
    assert_eq!(asked.source, Some(Source::SourceS3Key("sources/x.py".to_owned())));
    assert!(bases::stale(&pool).await.unwrap()[0].in_work);
    assert_eq!(builds::newest(&pool, function).await.unwrap().unwrap().id(), first);
    to_publishing(&pool, again).await;
    bases::stands_on(&mut conn, again, OTHER).await.unwrap();
    assert!(builds::published(&mut conn, again, "r/f:v1-again").await.unwrap());
    assert!(bases::stale(&pool).await.unwrap().is_empty());
    assert_eq!(builds::newest(&pool, function).await.unwrap().unwrap().id(), again);
    assert_eq!(
        bases::rebuild(&mut conn, &stale[0], "sources/x.py").await.unwrap(),
        None,
        "it has moved on"
    );
}

#[tokio::test]
async fn a_build_is_of_a_function_or_of_a_base_and_never_of_both() {
    let pool = database().await;
    let cell = run(&pool, "r", &["3.11-slim"]).await[0];
    let row = builds::get(&pool, cell).await.unwrap().unwrap();
    assert_eq!((row.function_id().unwrap(), row.version, row.state), (None, 0, BuildState::Queued));
    assert_eq!((row.base.as_deref(), row.base_run.as_deref()), (Some("3.11-slim"), Some("r")));
    assert!(mecapy_store::functions::overview_of_build(&pool, cell).await.unwrap().is_none());

    let of_function = build(&pool, function(&pool).await, 1).await;
    for (set, id) in [("base = '3.11-slim'", of_function), ("base_run = null", cell)] {
        let changed =
            sqlx::query(sqlx::AssertSqlSafe(format!("update builds set {set} where id = $1")))
                .bind(id.uuid())
                .execute(&pool)
                .await;
        assert!(changed.is_err(), "{set}");
    }
}

/// A function that runs what stands on this base image. None: it was built before that was recorded.
async fn standing_on(pool: &PgPool, name: &str, digest: Option<&str>) -> i64 {
    let mut conn = pool.acquire().await.unwrap();
    let function = functions::ensure(&mut conn, &"acme".parse().unwrap(), name).await.unwrap();
    let id = build(pool, function, 1).await;
    to_publishing(pool, id).await;
    if let Some(digest) = digest {
        bases::stands_on(&mut conn, id, digest).await.unwrap();
    }
    assert!(builds::published(&mut conn, id, "r/f:v1").await.unwrap());
    function.get()
}

#[tokio::test]
async fn functions_on_whichever_older_base_are_found_by_number_a_page_at_a_time() {
    let pool = database().await;
    let now = run(&pool, "now", &["3.11-slim", "3.12-slim"]).await;
    publish(&pool, now[0], OTHER).await;
    publish(&pool, now[1], DIGEST).await;
    let third = "sha256:0000000000000000000000000000000000000000000000000000000000000003";
    let mut expected = Vec::new();
    for number in 0..20 {
        let digest = [Some(OTHER), Some(DIGEST), None, Some(third), Some(OTHER)][number % 5];
        let function = standing_on(&pool, &format!("f{number}"), digest).await;
        if digest != Some(OTHER) {
            expected.push(function);
        }
    }
    // Of those that are gone, of which nothing runs, or whose base has no current image, nobody is told.
    let gone = expected.remove(4);
    let set = async |change: String| {
        sqlx::query(sqlx::AssertSqlSafe(change)).execute(&pool).await.unwrap();
    };
    set(format!("update functions set deleted_at = now() where id = {gone}")).await;
    let of_another = expected.remove(7);
    set(format!("update versions set python_version = '3.13' where function_id = {of_another}"))
        .await;
    set(format!("update functions set current_build = current_build where id = {of_another}"))
        .await;
    let idle = expected.remove(0);
    set(format!("update functions set current_build = null where id = {idle}")).await;

    let ids = |stale: &[bases::Stale]| {
        stale.iter().map(|stale| stale.current.function_id().unwrap().get()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&bases::stale(&pool).await.unwrap()), expected);
    let (mut seen, mut last) = (Vec::new(), 0);
    loop {
        let page = bases::stale_after(&pool, last, Some(4)).await.unwrap();
        assert!(page.iter().all(|stale| stale.newest_digest == OTHER && !stale.in_work));
        let Some(next) = ids(&page).last().copied() else { break };
        seen.extend(ids(&page));
        last = next;
    }
    assert_eq!(seen, expected);
    let asked: Vec<FunctionId> = (1..=20).map(|number| FunctionId::new(number).unwrap()).collect();
    assert_eq!(ids(&bases::stale_of(&pool, &asked).await.unwrap()), expected);
}
