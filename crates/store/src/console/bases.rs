//! Base images: what is in force, what became of a run's, and who asked for runs.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use crate::builds::Place;
use crate::{BuildState, Error, bases};

/// A build of a base image, with its scan.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Image {
    pub id: Uuid,
    /// "3.11-slim"
    pub base: String,
    pub base_run: String,
    #[sqlx(try_from = "String")]
    pub state: BuildState,
    pub digest: Option<String>,
    pub size_bytes: Option<i64>,
    published: Option<Json<Vec<Place>>>,
    /// PASSED or REJECTED. None: it was not scanned.
    pub verdict: Option<String>,
    pub critical: Option<i32>,
    pub high: Option<i32>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub error_log: Option<Vec<String>>,
    pub requested_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Image {
    /// Where it is, as each registry serves it. Nothing is known of what was published before this was recorded.
    pub fn places(&self) -> &[Place] {
        self.published.as_ref().map_or(&[], |places| &places.0)
    }
}

/// A run, and who asked for it in the console. None: a schedule, a push, or the command line.
#[derive(Debug, Clone)]
pub struct Asked {
    pub run: bases::Run,
    pub by: Option<String>,
}

const IMAGE: &str = "b.id, b.base, b.base_run, b.state, b.digest, b.size_bytes, b.published, s.verdict, s.critical, s.high,
    b.error_code, b.error_message, b.error_log, b.requested_at, b.ended_at";

/// Of each base, the image that functions are built on now.
pub async fn current(pool: &PgPool) -> Result<Vec<Image>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        // Which they are first: there are many scans, of functions.
        "select {IMAGE} from (
             select distinct on (base) * from builds where base is not null and state = 'ready'
             order by base, requested_at desc, id desc
         ) b left join scans s on s.build_id = b.id order by b.base"
    )))
    .fetch_all(pool)
    .await?)
}

/// What became of a run's images, by name.
pub async fn of_run(pool: &PgPool, run: &str) -> Result<Vec<Image>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {IMAGE} from builds b left join scans s on s.build_id = b.id where b.base_run = $1 order by b.base"
    )))
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// The newest runs.
pub async fn runs(pool: &PgPool, limit: u32) -> Result<Vec<Asked>, Error> {
    let runs = bases::runs(pool, limit).await?;
    let ids: Vec<&str> = runs.iter().map(|run| run.id.as_str()).collect();
    let known = asked_by(pool, &ids).await?;
    let by = |id: &str| known.iter().find(|(run, _)| run == id).map(|(_, owner)| owner.clone());
    Ok(runs.into_iter().map(|run| Asked { by: by(&run.id), run }).collect())
}

pub async fn run(pool: &PgPool, id: &str) -> Result<Option<Asked>, Error> {
    let Some(run) = bases::run(pool, id).await? else { return Ok(None) };
    let by = asked_by(pool, &[id]).await?.pop().map(|(_, owner)| owner);
    Ok(Some(Asked { run, by }))
}

async fn asked_by(pool: &PgPool, runs: &[&str]) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "select target, owner from audit where action = 'build-bases' and target = any($1)",
    )
    .bind(runs)
    .fetch_all(pool)
    .await?)
}
