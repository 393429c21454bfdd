//! What the last inventory of the registry found, and what the last plan said of each image.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;

use crate::Error;

/// Rows of one statement.
const BATCH: usize = 5_000;

/// A manifest as it was seen.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Seen {
    pub digest: String,
    pub media_type: String,
    pub size: i64,
    pub holds: Value,
    pub subject: Option<String>,
    pub pushed_at: Option<DateTime<Utc>>,
    pub first_seen_at: DateTime<Utc>,
    /// As the last plan had them.
    pub tags: Vec<String>,
}

const SEEN: &str = "digest, media_type, size, holds, subject, pushed_at, first_seen_at, tags";

pub async fn of_repository(pool: &PgPool, repository: &str) -> Result<Vec<Seen>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {SEEN} from registry_images where repository = $1"
    )))
    .bind(repository)
    .fetch_all(pool)
    .await?)
}

/// All repositories of which something was seen.
pub async fn repositories(pool: &PgPool) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar("select distinct repository from registry_images order by 1")
        .fetch_all(pool)
        .await?)
}

/// Where the tags of a repository led when a run planned: tag and digest. Empty where another plan came since.
pub async fn tags_as_planned(
    pool: &PgPool,
    repository: &str,
    run: &str,
) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "select unnest(tags), digest from registry_images where repository = $1 and planned_by = $2",
    )
    .bind(repository)
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// Adds what is new in a repository and forgets what is gone: when that comes back, it is new.
pub async fn update(
    pool: &PgPool,
    repository: &str,
    new: &[Seen],
    gone: &[String],
) -> Result<(), Error> {
    for page in new.chunks(BATCH) {
        let column = |of: fn(&Seen) -> &str| page.iter().map(of).collect::<Vec<_>>();
        sqlx::query(
            "insert into registry_images (repository, digest, media_type, size, holds, subject, pushed_at, first_seen_at)
             select $1, * from unnest($2::text[], $3::text[], $4::bigint[], $5::jsonb[], $6::text[], $7::timestamptz[],
                 $8::timestamptz[])
             on conflict (repository, digest) do update set pushed_at = excluded.pushed_at",
        )
        .bind(repository)
        .bind(column(|seen| &seen.digest))
        .bind(column(|seen| &seen.media_type))
        .bind(page.iter().map(|seen| seen.size).collect::<Vec<_>>())
        .bind(page.iter().map(|seen| &seen.holds).collect::<Vec<_>>())
        .bind(page.iter().map(|seen| seen.subject.as_deref()).collect::<Vec<_>>())
        .bind(page.iter().map(|seen| seen.pushed_at).collect::<Vec<_>>())
        .bind(page.iter().map(|seen| seen.first_seen_at).collect::<Vec<_>>())
        .execute(pool)
        .await?;
    }
    if !gone.is_empty() {
        sqlx::query("delete from registry_images where repository = $1 and digest = any($2)")
            .bind(repository)
            .bind(gone)
            .execute(pool)
            .await?;
    }
    Ok(())
}

/// Forgets repositories that are not there any more.
pub async fn keep_only(pool: &PgPool, repositories: &[String]) -> Result<(), Error> {
    sqlx::query("delete from registry_images where repository <> all($1)")
        .bind(repositories)
        .execute(pool)
        .await?;
    Ok(())
}

/// What a plan says of an image.
#[derive(Debug, Clone)]
pub struct Verdict {
    pub repository: String,
    pub digest: String,
    /// Joined by commas, which no tag has.
    pub tags: String,
    pub action: &'static str,
    pub rule: &'static str,
    pub reason: String,
}

/// Keeps what a plan said, for whoever asks why. At most some thousands at once.
pub async fn record_verdicts(pool: &PgPool, run: &str, verdicts: &[Verdict]) -> Result<(), Error> {
    let column = |of: fn(&Verdict) -> &str| verdicts.iter().map(of).collect::<Vec<_>>();
    sqlx::query(
        "update registry_images i set action = v.action, rule = v.rule, reason = v.reason, planned_by = $1,
             planned_at = now(),
             tags = string_to_array(v.tags, ',')
         from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             as v (repository, digest, tags, action, rule, reason)
         where i.repository = v.repository and i.digest = v.digest",
    )
    .bind(run)
    .bind(column(|verdict| &verdict.repository))
    .bind(column(|verdict| &verdict.digest))
    .bind(column(|verdict| &verdict.tags))
    .bind(column(|verdict| verdict.action))
    .bind(column(|verdict| verdict.rule))
    .bind(column(|verdict| &verdict.reason))
    .execute(pool)
    .await?;
    Ok(())
}

/// How many images each rule keeps, and how many there are in each repository that no policy names.
pub async fn kept(pool: &PgPool) -> Result<(Vec<(String, i64)>, Vec<(String, i64)>), Error> {
    let by_rule = sqlx::query_as(
        "select rule, count(*) from registry_images where action = 'keep' group by rule order by 2 desc, 1",
    )
    .fetch_all(pool)
    .await?;
    let without_policy = sqlx::query_as(
        "select repository, count(*) from registry_images where rule = 'no-policy' group by repository
         order by 2 desc, 1 limit 50",
    )
    .fetch_all(pool)
    .await?;
    Ok((by_rule, without_policy))
}

/// What the last plan said of an image.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Explained {
    pub repository: String,
    pub digest: String,
    pub tags: Vec<String>,
    pub action: String,
    pub rule: String,
    pub reason: String,
    pub planned_by: Option<String>,
    pub planned_at: Option<DateTime<Utc>>,
    pub first_seen_at: DateTime<Utc>,
    pub pushed_at: Option<DateTime<Utc>>,
}

/// The images of a name: by repository, tag and digest, whichever of them are given.
pub async fn explain(
    pool: &PgPool,
    repository: Option<&str>,
    tag: Option<&str>,
    digest: Option<&str>,
) -> Result<Vec<Explained>, Error> {
    Ok(sqlx::query_as(
        "select repository, digest, tags, action, rule, reason, planned_by, planned_at, first_seen_at, pushed_at
         from registry_images
         where ($1::text is null or repository = $1) and ($2::text is null or tags @> array[$2])
           and ($3::text is null or digest = $3)
         order by repository, digest limit 100",
    )
    .bind(repository)
    .bind(tag)
    .bind(digest)
    .fetch_all(pool)
    .await?)
}
