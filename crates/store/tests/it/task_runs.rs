//! What a worker reads and writes of a task.

use mecapy_proto::{FunctionId, TaskId};
use mecapy_store::scans::Standing;
use mecapy_store::tasks::NewTask;
use mecapy_store::{PgPool, TaskState, functions, scans, task_runs, tasks};

use crate::{build, completion, database, function, to_publishing};

fn new(function: FunctionId) -> NewTask {
    NewTask {
        id: TaskId::new(),
        function,
        image: String::new(),
        inputs_s3_key: None,
        timeout_ms: 0,
        deadline: None,
        traceparent: None,
    }
}

async fn usage(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select coalesce(sum(tasks), 0)::bigint from image_usage")
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_task_is_known_with_its_function_and_whether_that_may_run() {
    let pool = database().await;
    let id = function(&pool).await;
    let known = task_runs::know(&pool, &new(id)).await.unwrap();
    let (task, found) = (known.task.unwrap(), known.function.unwrap());
    assert_eq!((task.state, task.attempt, task.function_id), (TaskState::Queued, 0, id.get()));
    assert_eq!((found.id, found.docker_image, found.standing), (id, None, Standing::NotPassed));

    let digest = format!("sha256:{}", "a".repeat(64));
    let image = format!("registry/mecapy/functions/f:v1@{digest}");
    let ready = build(&pool, id, 1).await;
    to_publishing(&pool, ready).await;
    let mut conn = pool.acquire().await.unwrap();
    assert!(mecapy_store::builds::published(&mut conn, ready, &image).await.unwrap());
    let again = NewTask { id: task.id(), ..new(id) };
    let known = task_runs::know(&pool, &again).await.unwrap();
    assert!(known.task.is_some(), "a row that is there is read");
    let found = known.function.unwrap();
    assert_eq!(
        (found.docker_image.as_deref(), found.standing),
        (Some(image.as_str()), Standing::NotPassed)
    );
    for passed in [true, false] {
        let scanned = build(&pool, id, 2 + u32::from(passed)).await;
        let scan = scans::NewScan {
            digest: digest.clone(),
            engine: String::new(),
            engine_version: String::new(),
            database_version: String::new(),
            database_partial: false,
            passed,
            critical: 0,
            high: 0,
            medium: 0,
            low: 0,
            unknown: 0,
            findings: Default::default(),
            report_key: String::new(),
            sbom_key: String::new(),
            duration_ms: 1,
        };
        scans::insert(&mut conn, scanned, &scan).await.unwrap();
        let known = task_runs::know(&pool, &again).await.unwrap();
        let expected = if passed { Standing::Passed } else { Standing::NotPassed };
        assert_eq!(known.function.unwrap().standing, expected, "the newest scan counts");
        assert_eq!(scans::standing(&pool, &digest, id).await.unwrap(), expected);
        sqlx::query("update scans set refused = true where build_id = $1")
            .bind(scanned.uuid())
            .execute(&pool)
            .await
            .unwrap();
        let known = task_runs::know(&pool, &again).await.unwrap();
        let revoked = if passed { Standing::Refused } else { Standing::NotPassed };
        assert_eq!(known.function.unwrap().standing, revoked);
    }

    assert!(functions::delete(&mut conn, id).await.unwrap());
    let known = task_runs::know(&pool, &again).await.unwrap();
    assert!(known.task.is_some() && known.function.is_none());
    let known = task_runs::know(&pool, &new(id)).await.unwrap();
    assert!(known.task.is_none() && known.function.is_none(), "no row for a deleted function");
}

#[tokio::test]
async fn a_task_that_was_taken_since_it_was_read_is_not_taken() {
    let pool = database().await;
    let id = function(&pool).await;
    let read = task_runs::know(&pool, &new(id)).await.unwrap().task.unwrap();
    let first = task_runs::claim(&pool, &read, "one").await.unwrap().unwrap();
    assert_eq!((first.attempt, first.worker.as_deref()), (1, Some("one")));
    assert!(task_runs::claim(&pool, &read, "two").await.unwrap().is_none());
    let second = task_runs::claim(&pool, &first, "two").await.unwrap().unwrap();
    let mut conn = pool.acquire().await.unwrap();
    tasks::cancel(&mut conn, second.id()).await.unwrap();
    assert!(task_runs::claim(&pool, &second, "three").await.unwrap().is_none(), "cancelled");
}

#[tokio::test]
async fn the_newest_attempt_alone_ends_a_task_and_counts_it_once() {
    let pool = database().await;
    let id = function(&pool).await;
    let read = task_runs::know(&pool, &new(id)).await.unwrap().task.unwrap();
    let first = task_runs::claim(&pool, &read, "one").await.unwrap().unwrap();
    let second = task_runs::claim(&pool, &first, "two").await.unwrap().unwrap();
    let mut end = completion(TaskState::Succeeded);
    end.digest = Some("sha256:x".to_owned());
    let mut conn = pool.acquire().await.unwrap();
    assert!(!task_runs::end(&mut conn, &first, &end).await.unwrap());
    assert_eq!(usage(&pool).await, 0);
    assert!(task_runs::end(&mut conn, &second, &end).await.unwrap());
    assert!(!task_runs::end(&mut conn, &second, &end).await.unwrap());
    assert_eq!(usage(&pool).await, 1);

    let read = task_runs::know(&pool, &new(id)).await.unwrap().task.unwrap();
    let taken = task_runs::claim(&pool, &read, "one").await.unwrap().unwrap();
    end.digest = None;
    assert!(task_runs::end(&mut conn, &taken, &end).await.unwrap());
    assert_eq!(usage(&pool).await, 1, "a task that ran no image counts for none");
}
