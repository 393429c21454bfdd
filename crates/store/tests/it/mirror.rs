//! What a mirror chooses, and how its runs end.

use mecapy_proto::{BuildId, FunctionId};
use mecapy_store::builds::Built;
use mecapy_store::mirror_runs::{self, Ended, NewImage, NewRun, Outcome, Recorded};
use mecapy_store::{PgPool, builds, functions, mirror_choice};

use crate::{database, version};

fn digest(number: usize) -> String {
    format!("sha256:{number:064}")
}

/// A function with one published version.
async fn published(pool: &PgPool, name: &str, digest: &str, dependencies: &str) -> FunctionId {
    let mut conn = pool.acquire().await.unwrap();
    let function = functions::ensure(&mut conn, &"acme".parse().unwrap(), name).await.unwrap();
    functions::add_version(&mut conn, function, 1, &version(name)).await.unwrap();
    let id = BuildId::new();
    builds::create(&mut conn, id, function, 1).await.unwrap();
    builds::start(pool, id).await.unwrap();
    let built = Built {
        digest: digest.to_owned(),
        dependency_image: dependencies.to_owned(),
        ..crate::built()
    };
    assert!(builds::built(&mut conn, id, &built).await.unwrap());
    assert!(builds::scanned(&mut conn, id, digest, true).await.unwrap());
    let image = format!("r/{}:v1@{digest}", repository(function));
    assert!(builds::published(&mut conn, id, &image).await.unwrap());
    function
}

fn repository(function: FunctionId) -> String {
    format!("mecapy/functions/user-acme-func-{function}")
}

async fn used(pool: &PgPool, digest: &str, function: FunctionId, days_ago: i32, tasks: i64) {
    sqlx::query(
        "insert into image_usage (day, digest, function_id, tasks)
         values ((now() at time zone 'utc')::date - $1::integer, $2, $3, $4)",
    )
    .bind(days_ago)
    .bind(digest)
    .bind(function.get())
    .bind(tasks)
    .execute(pool)
    .await
    .unwrap();
}

fn run(id: &str) -> NewRun {
    NewRun {
        id: id.to_owned(),
        reason: "test".to_owned(),
        by_usage: true,
        dry_run: false,
        verify_percent: 0,
    }
}

fn image(repository: &str, digest: &str, ended: Option<Outcome>) -> NewImage {
    NewImage {
        repository: repository.to_owned(),
        digest: digest.to_owned(),
        tags: Vec::new(),
        tasks: 0,
        size_bytes: 0,
        ended: ended.map(|outcome| Ended::without_bytes(outcome, None)),
    }
}

#[tokio::test]
async fn use_counts_within_the_window_and_only_of_live_functions() {
    let pool = database().await;
    let mut functions_ = Vec::new();
    for number in 0..4 {
        functions_.push(published(&pool, &number.to_string(), &digest(number), "").await);
    }
    used(&pool, &digest(0), functions_[0], 6, 2).await;
    used(&pool, &digest(0), functions_[0], 0, 2).await;
    used(&pool, &digest(1), functions_[1], 3, 3).await;
    used(&pool, &digest(2), functions_[2], 7, 100).await;
    used(&pool, &digest(3), functions_[3], 0, 100).await;
    // An image that was never published.
    used(&pool, &digest(9), functions_[0], 0, 100).await;
    functions::delete(&mut pool.acquire().await.unwrap(), functions_[3]).await.unwrap();

    let chosen = mirror_choice::most_used(&pool, 7, 100).await.unwrap();
    let chosen: Vec<_> = chosen.iter().map(|one| (one.digest.clone(), one.tasks)).collect();
    assert_eq!(chosen, [(digest(0), 4), (digest(1), 3)]);
    let first = mirror_choice::most_used(&pool, 8, 1).await.unwrap();
    assert_eq!((first.len(), first[0].digest.clone()), (1, digest(2)));
    assert_eq!(
        (first[0].bases.as_slice(), first[0].is_current),
        (&["3.11-slim".to_owned()][..], true)
    );
}

#[tokio::test]
async fn the_most_used_image_need_not_be_of_the_most_used_function() {
    let pool = database().await;
    let all = published(&pool, "several versions", &digest(0), "").await;
    let mut conn = pool.acquire().await.unwrap();
    functions::add_version(&mut conn, all, 2, &version("2")).await.unwrap();
    let id = BuildId::new();
    builds::create(&mut conn, id, all, 2).await.unwrap();
    builds::start(&pool, id).await.unwrap();
    let built = Built { digest: digest(1), ..crate::built() };
    assert!(builds::built(&mut conn, id, &built).await.unwrap());
    assert!(builds::scanned(&mut conn, id, &digest(1), true).await.unwrap());
    assert!(builds::published(&mut conn, id, "r/x:v2").await.unwrap());
    drop(conn);
    used(&pool, &digest(0), all, 0, 50).await;
    used(&pool, &digest(1), all, 0, 51).await;
    let other = published(&pool, "one version", &digest(2), "").await;
    used(&pool, &digest(2), other, 1, 60).await;
    let less = published(&pool, "less", &digest(3), "").await;
    used(&pool, &digest(3), less, 1, 49).await;
    for (limit, digests) in
        [(1, &[2][..]), (2, &[2, 1]), (3, &[2, 1, 0]), (4, &[2, 1, 0, 3]), (9, &[2, 1, 0, 3])]
    {
        let chosen = mirror_choice::most_used(&pool, 7, limit).await.unwrap();
        let chosen: Vec<String> = chosen.into_iter().map(|one| one.digest).collect();
        let expected: Vec<String> = digests.iter().map(|number| digest(*number)).collect();
        assert_eq!(chosen, expected, "{limit}");
    }
}

#[tokio::test]
async fn of_images_that_end_at_once_exactly_one_ends_the_run() {
    let pool = database().await;
    let images: Vec<_> = (0..30).map(|number| image("r", &digest(number), None)).collect();
    let mut conn = pool.acquire().await.unwrap();
    assert!(mirror_runs::create(&mut conn, &run("a"), &images).await.unwrap());
    assert!(!mirror_runs::create(&mut conn, &run("a"), &[]).await.unwrap(), "it is there already");
    drop(conn);

    let ends = (0..30).map(|number| {
        let pool = pool.clone();
        tokio::spawn(async move {
            let ended = Ended::without_bytes(Outcome::Mirrored, None);
            let mut transaction = pool.begin().await.unwrap();
            let digest = digest(number);
            let recorded =
                mirror_runs::end_image(&mut transaction, "a", "r", &digest, &ended).await.unwrap();
            transaction.commit().await.unwrap();
            recorded
        })
    });
    let ends: Vec<_> = futures_in_order(ends).await;
    assert_eq!(ends.iter().filter(|end| **end == Recorded::Run).count(), 1);
    assert_eq!(ends.iter().filter(|end| **end == Recorded::Image).count(), 29);
    let ended = mirror_runs::get(&pool, "a").await.unwrap().unwrap();
    assert!(ended.has_ended() && ended.open_images == 0, "{ended:?}");

    let late = Ended::without_bytes(Outcome::Failed, None);
    let mut conn = pool.acquire().await.unwrap();
    let again = mirror_runs::end_image(&mut conn, "a", "r", &digest(1), &late).await.unwrap();
    assert_eq!(again, Recorded::Nothing);
    assert_eq!(mirror_runs::totals(&pool, "a").await.unwrap().mirrored, 30);
}

async fn futures_in_order<T>(tasks: impl Iterator<Item = tokio::task::JoinHandle<T>>) -> Vec<T> {
    let tasks: Vec<_> = tasks.collect();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test]
async fn a_recovery_finds_what_runs_now_and_a_sibling_is_what_shares_the_dependencies() {
    let pool = database().await;
    let one = published(&pool, "one", &digest(1), "deps").await;
    let two = published(&pool, "two", &digest(2), "deps").await;
    let other = published(&pool, "other", &digest(3), "other-deps").await;
    let deleted = published(&pool, "deleted", &digest(4), "deps").await;
    functions::delete(&mut pool.acquire().await.unwrap(), deleted).await.unwrap();
    let images = [
        image(&repository(one), &digest(1), Some(Outcome::Mirrored)),
        image(&repository(other), &digest(3), Some(Outcome::Failed)),
        image(&repository(deleted), &digest(4), Some(Outcome::Mirrored)),
    ];
    let mut conn = pool.acquire().await.unwrap();
    mirror_runs::create(&mut conn, &run("a"), &images).await.unwrap();
    let planned = image(&repository(two), &digest(2), Some(Outcome::Mirrored));
    let dry = NewRun { dry_run: true, ..run("b") };
    mirror_runs::create(&mut conn, &dry, &[planned]).await.unwrap();

    let recoverable = mirror_choice::recoverable(&pool, 10).await.unwrap();
    assert_eq!(recoverable, [(repository(one), digest(1))]);
    let sibling = async |function, number| {
        mirror_choice::sibling(&pool, &repository(function), &digest(number)).await.unwrap()
    };
    assert!(sibling(two, 2).await.is_some());
    assert_eq!(sibling(other, 3).await, None);
    let current = mirror_choice::current_digest(&pool, &repository(one)).await.unwrap();
    assert_eq!(current, Some(digest(1)));
    assert_eq!(mirror_choice::current_digest(&pool, &repository(deleted)).await.unwrap(), None);
}
