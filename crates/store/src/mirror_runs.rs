//! Runs of the mirror, and what became of each image of a run.

use chrono::{DateTime, Utc};
use mecapy_proto::v1::Failure;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};

use crate::Error;

/// What became of an image; in a dry run, what would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Mirrored,
    Unchanged,
    NotFound,
    Failed,
}

impl Outcome {
    pub const ALL: &[Self] = &[Self::Mirrored, Self::Unchanged, Self::NotFound, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mirrored => "mirrored",
            Self::Unchanged => "unchanged",
            Self::NotFound => "not_found",
            Self::Failed => "failed",
        }
    }
}

impl TryFrom<String> for Outcome {
    type Error = Error;

    fn try_from(value: String) -> Result<Self, Error> {
        let known = Self::ALL.iter().find(|outcome| outcome.as_str() == value);
        known.copied().ok_or(Error::Unknown { column: "mirror_images.outcome", value })
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Run {
    pub id: String,
    pub reason: String,
    pub by_usage: bool,
    pub dry_run: bool,
    pub verify_percent: i32,
    pub state: String,
    pub open_images: i32,
    pub requested_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Run {
    pub fn has_ended(&self) -> bool {
        self.ended_at.is_some()
    }
}

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Image {
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
    pub tasks: i64,
    /// As its build had it: compressed, layers and config. 0: not known.
    pub size_bytes: i64,
    outcome: Option<String>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub bytes_sent: i64,
    pub bytes_saved: i64,
    pub verified: bool,
    pub duration_ms: i64,
    pub ended_at: Option<DateTime<Utc>>,
}

impl Image {
    /// None: it is not done yet.
    pub fn outcome(&self) -> Result<Option<Outcome>, Error> {
        self.outcome.clone().map(Outcome::try_from).transpose()
    }
}

/// How an image's part of a run ended.
#[derive(Debug, Clone)]
pub struct Ended {
    pub outcome: Outcome,
    pub failure: Option<Failure>,
    pub bytes_sent: u64,
    pub bytes_saved: u64,
    pub verified: bool,
    pub duration_ms: u64,
}

impl Ended {
    /// Nothing moved.
    pub fn without_bytes(outcome: Outcome, failure: Option<Failure>) -> Self {
        Self { outcome, failure, bytes_sent: 0, bytes_saved: 0, verified: false, duration_ms: 0 }
    }
}

#[derive(Debug, Clone)]
pub struct NewRun {
    pub id: String,
    pub reason: String,
    pub by_usage: bool,
    pub dry_run: bool,
    pub verify_percent: u32,
}

/// An image of a new run: with its end, when that is known already.
#[derive(Debug, Clone)]
pub struct NewImage {
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
    pub tasks: i64,
    pub size_bytes: i64,
    pub ended: Option<Ended>,
}

/// Sums over a run's images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct Totals {
    pub images: i64,
    pub open: i64,
    pub mirrored: i64,
    pub unchanged: i64,
    pub not_found: i64,
    pub failed: i64,
    pub bytes_sent: i64,
    pub bytes_saved: i64,
    pub verified: i64,
}

/// Makes a run with its images. False: it is there already, and nothing changed.
pub async fn create(
    conn: &mut PgConnection,
    run: &NewRun,
    images: &[NewImage],
) -> Result<bool, Error> {
    let open = images.iter().filter(|image| image.ended.is_none()).count();
    let made = sqlx::query(
        "insert into mirror_runs (id, reason, by_usage, dry_run, verify_percent, open_images, state, ended_at)
         values ($1, $2, $3, $4, $5, $6, case when $6 = 0 then 'done' else 'running' end,
             case when $6 = 0 then now() end)
         on conflict do nothing",
    )
    .bind(&run.id)
    .bind(&run.reason)
    .bind(run.by_usage)
    .bind(run.dry_run)
    .bind(i64::from(run.verify_percent))
    .bind(i32::try_from(open).unwrap_or(i32::MAX))
    .execute(&mut *conn)
    .await?;
    if made.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "insert into mirror_images (run_id, repository, digest, tags, tasks, size_bytes, outcome, error_code,
             error_message, bytes_sent, bytes_saved, verified, duration_ms, ended_at)
         select $1, repository, digest,
             array(select tag from jsonb_array_elements_text(tags) with ordinality as t (tag, place) order by place),
             tasks, size_bytes, outcome, error_code, error_message, bytes_sent, bytes_saved, verified, duration_ms,
             case when outcome is not null then now() end
         from jsonb_to_recordset($2) as new (repository text, digest text, tags jsonb, tasks bigint,
             size_bytes bigint, outcome text, error_code text, error_message text, bytes_sent bigint,
             bytes_saved bigint, verified boolean, duration_ms bigint)",
    )
    .bind(&run.id)
    .bind(Value::from_iter(images.iter().map(row)))
    .execute(conn)
    .await?;
    Ok(true)
}

fn row(image: &NewImage) -> Value {
    let ended = image.ended.as_ref();
    let failure = ended.and_then(|ended| ended.failure.as_ref());
    let number = |of: fn(&Ended) -> u64| ended.map_or(0, |ended| saturating(of(ended)));
    json!({
        "repository": image.repository,
        "digest": image.digest,
        "tags": image.tags,
        "tasks": image.tasks,
        "size_bytes": image.size_bytes,
        "outcome": ended.map(|ended| ended.outcome.as_str()),
        "error_code": failure.map(|failure| &failure.code),
        "error_message": failure.map(|failure| &failure.message),
        "bytes_sent": number(|ended| ended.bytes_sent),
        "bytes_saved": number(|ended| ended.bytes_saved),
        "verified": ended.is_some_and(|ended| ended.verified),
        "duration_ms": number(|ended| ended.duration_ms),
    })
}

/// What came of recording the end of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// It had ended already, or is of no run: nothing changed.
    Nothing,
    Image,
    /// It was the last one: the run has ended with it.
    Run,
}

/// Records the end of an image, and of its run if it was the last one.
pub async fn end_image(
    conn: &mut PgConnection,
    run: &str,
    repository: &str,
    digest: &str,
    ended: &Ended,
) -> Result<Recorded, Error> {
    if !write_end(conn, run, repository, digest, ended).await? {
        return Ok(Recorded::Nothing);
    }
    // The row's lock orders images that end at once, so one of them sees 0.
    let open: i32 = sqlx::query_scalar(
        "update mirror_runs set open_images = open_images - 1,
             state = case when open_images = 1 then 'done' else state end,
             ended_at = case when open_images = 1 then now() else ended_at end
         where id = $1 returning open_images",
    )
    .bind(run)
    .fetch_one(conn)
    .await?;
    Ok(if open == 0 { Recorded::Run } else { Recorded::Image })
}

async fn write_end(
    conn: &mut PgConnection,
    run: &str,
    repository: &str,
    digest: &str,
    ended: &Ended,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mirror_images set outcome = $4, error_code = $5, error_message = $6, bytes_sent = $7,
             bytes_saved = $8, verified = $9, duration_ms = $10, ended_at = now()
         where run_id = $1 and repository = $2 and digest = $3 and outcome is null",
    )
    .bind(run)
    .bind(repository)
    .bind(digest)
    .bind(ended.outcome.as_str())
    .bind(ended.failure.as_ref().map(|failure| failure.code.as_str()))
    .bind(ended.failure.as_ref().map(|failure| failure.message.as_str()))
    .bind(saturating(ended.bytes_sent))
    .bind(saturating(ended.bytes_saved))
    .bind(ended.verified)
    .bind(saturating(ended.duration_ms))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

const RUN_COLUMNS: &str =
    "id, reason, by_usage, dry_run, verify_percent, state, open_images, requested_at, ended_at";

const IMAGE_COLUMNS: &str =
    "repository, digest, tags, tasks, size_bytes, outcome, error_code, error_message, bytes_sent,
    bytes_saved, verified, duration_ms, ended_at";

pub async fn get(pool: &PgPool, id: &str) -> Result<Option<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {RUN_COLUMNS} from mirror_runs where id = $1"
    )))
    .bind(id)
    .fetch_optional(pool)
    .await?)
}

/// A run within a transaction that has just ended it.
pub async fn read(conn: &mut PgConnection, id: &str) -> Result<(Run, Totals), Error> {
    let run = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {RUN_COLUMNS} from mirror_runs where id = $1"
    )))
    .bind(id)
    .fetch_one(&mut *conn)
    .await?;
    Ok((run, sqlx::query_as(TOTALS).bind(id).fetch_one(conn).await?))
}

/// Image, code and reason of those that were not mirrored, the first `limit` of them.
pub async fn failures(
    conn: &mut PgConnection,
    run: &str,
    limit: usize,
) -> Result<Vec<(String, String, String)>, Error> {
    Ok(sqlx::query_as(
        "select repository || '@' || digest, error_code, coalesce(error_message, '') from mirror_images
         where run_id = $1 and error_code is not null order by repository, digest limit $2",
    )
    .bind(run)
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(conn)
    .await?)
}

/// The newest runs first.
pub async fn list(pool: &PgPool, limit: u32) -> Result<Vec<Run>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {RUN_COLUMNS} from mirror_runs order by requested_at desc, id limit $1"
    )))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

const TOTALS: &str = "select count(*) as images, count(*) filter (where outcome is null) as open,
        count(*) filter (where outcome = 'mirrored') as mirrored,
        count(*) filter (where outcome = 'unchanged') as unchanged,
        count(*) filter (where outcome = 'not_found') as not_found,
        count(*) filter (where outcome = 'failed') as failed,
        coalesce(sum(bytes_sent), 0)::bigint as bytes_sent, coalesce(sum(bytes_saved), 0)::bigint as bytes_saved,
        count(*) filter (where verified) as verified
     from mirror_images where run_id = $1";

pub async fn totals(pool: &PgPool, run: &str) -> Result<Totals, Error> {
    Ok(sqlx::query_as(TOTALS).bind(run).fetch_one(pool).await?)
}

/// The images of a run: those with trouble first, then the most used.
pub async fn images(pool: &PgPool, run: &str) -> Result<Vec<Image>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {IMAGE_COLUMNS} from mirror_images where run_id = $1
         order by (outcome = 'failed') desc nulls last, (outcome = 'not_found') desc nulls last, tasks desc,
             repository, digest"
    )))
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// All that is asked about an image before it is copied, in one question: most images of a run need no more.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Work {
    #[sqlx(flatten)]
    pub image: Image,
    /// The run's.
    pub verify_percent: i32,
    /// What the image's function runs now. None: it is a base image, or the function runs none.
    pub current_digest: Option<String>,
}

pub async fn work(
    pool: &PgPool,
    run: &str,
    repository: &str,
    digest: &str,
) -> Result<Option<Work>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {IMAGE_COLUMNS},
             (select r.verify_percent from mirror_runs r where r.id = run_id) as verify_percent,
             (select b.digest from functions f join builds b on b.id = f.current_build
              where f.id = substring(repository from '-func-([0-9]{{1,18}})$')::bigint and f.deleted_at is null
             ) as current_digest
         from mirror_images where run_id = $1 and repository = $2 and digest = $3"
    )))
    .bind(run)
    .bind(repository)
    .bind(digest)
    .fetch_optional(pool)
    .await?)
}

pub async fn image(
    pool: &PgPool,
    run: &str,
    repository: &str,
    digest: &str,
) -> Result<Option<Image>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {IMAGE_COLUMNS} from mirror_images where run_id = $1 and repository = $2 and digest = $3"
    )))
    .bind(run)
    .bind(repository)
    .bind(digest)
    .fetch_optional(pool)
    .await?)
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
