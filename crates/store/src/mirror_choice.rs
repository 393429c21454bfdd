//! What the mirror copies: the images that ran most, from the daily usage and not from a scan of all tasks.

use sqlx::PgPool;

use crate::Error;

/// A published image that a run may choose.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Candidate {
    pub digest: String,
    /// The published reference, with tag and digest.
    pub docker_image: String,
    /// Of its versions, oldest first. A version that was built again on a newer base has its tag on the newer image.
    pub tags: Vec<String>,
    /// Whether its function runs this image now.
    pub is_current: bool,
    pub tasks: i64,
    pub size_bytes: i64,
    /// `3.11-slim`: the base images of its versions.
    pub bases: Vec<String>,
}

/// Of ready builds of functions that are not deleted: a function's image in each of its versions.
const CANDIDATES: &str = "select b.digest, min(b.docker_image) as docker_image,
        coalesce(array_agg(b.tag order by b.version, b.tag) filter (where not exists (
            select 1 from builds again where again.function_id = b.function_id and again.tag = b.tag
                and again.state = 'ready' and (again.requested_at, again.id) > (b.requested_at, b.id))),
            '{}') as tags,
        coalesce(bool_or(f.current_build = b.id), false) as is_current, used.tasks,
        coalesce(max(b.size_bytes), 0) as size_bytes,
        array_agg(distinct v.python_version || '-' || v.base_variant) as bases
     from used
     join functions f on f.id = used.id and f.deleted_at is null
     join builds b on b.function_id = f.id and b.digest = used.digest and b.state = 'ready'
         and b.docker_image is not null and b.tag is not null
     join versions v on v.function_id = b.function_id and v.version = b.version
     group by f.id, b.digest, used.tasks
     order by used.tasks desc, b.digest, f.id";

/// The images of these functions that a run may choose, with how often each ran.
const IMAGES: &str = "select those.id, ran.digest, ran.tasks from those cross join lateral (
         select u.digest, sum(u.tasks)::bigint as tasks from image_usage u
         where u.function_id = those.id and u.day > (now() at time zone 'utc')::date - $1::integer
         group by u.digest
     ) ran where (
         select true from builds b where b.digest = ran.digest and b.function_id = those.id
             and b.state = 'ready' and b.docker_image is not null and b.tag is not null limit 1)";

/// The `limit` most used images of the last `days` days, today included (UTC).
///
/// An image ran no more often than its function. So they are among the most used functions, and those others that ran
/// more often than the last of theirs: of all other functions, only a number is added up, and they are not looked at.
/// (Subqueries of one row are asked for each row that is left; as `exists` they would be joined with whole tables. Up
/// to 2^53 a sum of floats is exact, and takes a fraction of the time of one of bigints, which is numeric.)
pub async fn most_used(pool: &PgPool, days: u32, limit: u32) -> Result<Vec<Candidate>, Error> {
    let (of_first, of_more) =
        (IMAGES.replace("those", "first_functions"), IMAGES.replace("those", "more_functions"));
    let mut transaction = pool.begin().await?;
    // Compiling the query takes longer than all of it.
    sqlx::query("set local jit = off").execute(&mut *transaction).await?;
    let lives = "(select deleted_at is null from functions f where f.id = ranked.id)";
    let most_used = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with ranked as materialized (
             select function_id as id, sum(tasks::float8)::bigint as tasks from image_usage
             where day > (now() at time zone 'utc')::date - $1::integer group by function_id
             order by 2 desc, 1
         ), first_functions as materialized (
             select * from ranked where {lives} limit $2
         ), first_images as materialized ({of_first}
         ), more_functions as materialized (
             select * from ranked
             where tasks > coalesce((select tasks from first_images order by tasks desc offset $2 - 1 limit 1), 0)
                 and id not in (select id from first_functions) and {lives}
         ), used as (
             select * from first_images union all ({of_more}) order by tasks desc, digest, id limit $2
         ) {CANDIDATES} limit $2"
    )))
    .bind(i32::try_from(days).unwrap_or(i32::MAX))
    .bind(i64::from(limit))
    .fetch_all(&mut *transaction)
    .await?;
    transaction.rollback().await?;
    Ok(most_used)
}

/// The published images of these digests.
pub async fn of_digests(pool: &PgPool, digests: &[String]) -> Result<Vec<Candidate>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with used as (
             select distinct function_id as id, digest, 0::bigint as tasks from builds where digest = any($1)
         ) {CANDIDATES}"
    )))
    .bind(digests)
    .fetch_all(pool)
    .await?)
}

/// The digest that the function of a published repository runs now. None: it runs none, or was deleted.
pub async fn current_digest(pool: &PgPool, repository: &str) -> Result<Option<String>, Error> {
    let Some(id) = repository.rsplit_once("-func-").and_then(|(_, id)| id.parse::<i64>().ok())
    else {
        return Ok(None);
    };
    let digest: Option<Option<String>> = sqlx::query_scalar(
        "select b.digest from functions f join builds b on b.id = f.current_build
         where f.id = $1 and f.deleted_at is null",
    )
    .bind(id)
    .fetch_optional(pool)
    .await?;
    Ok(digest.flatten())
}

/// Another repository on the fallback that most likely holds this image's dependencies: of an image that stands on
/// the same dependency image, and was mirrored.
pub async fn sibling(
    pool: &PgPool,
    repository: &str,
    digest: &str,
) -> Result<Option<String>, Error> {
    Ok(sqlx::query_scalar(
        "select m.repository from builds mine
         join builds other on other.dependency_image = mine.dependency_image and other.digest <> mine.digest
         join mirror_images m on m.digest = other.digest and m.outcome in ('mirrored', 'unchanged')
             and m.repository <> $2 and m.repository <> ''
         where mine.digest = $1 and mine.dependency_image is not null
         order by m.ended_at desc limit 1",
    )
    .bind(digest)
    .bind(repository)
    .fetch_optional(pool)
    .await?)
}

/// How old the copy is.
#[derive(Debug, Clone, Copy, PartialEq, sqlx::FromRow)]
pub struct Lag {
    /// Seconds since the last run over the most used images that left none behind; none: there was never one.
    pub since_complete_s: Option<f64>,
    /// How long the oldest image that runs now and ran in the window has been published without a copy; 0: all
    /// have one.
    pub oldest_unmirrored_s: f64,
}

pub async fn lag(pool: &PgPool, window_days: u32) -> Result<Lag, Error> {
    Ok(sqlx::query_as(
        "select
             (select extract(epoch from now() - max(r.ended_at))::float8 from mirror_runs r
              where r.state = 'done' and r.by_usage and not r.dry_run and not exists (
                  select 1 from mirror_images i where i.run_id = r.id and i.outcome in ('failed', 'not_found'))
             ) as since_complete_s,
             (select coalesce(max(extract(epoch from now() - b.ended_at)), 0)::float8
              from functions f join builds b on b.id = f.current_build
              where f.deleted_at is null
                and exists (select 1 from image_usage u where u.digest = b.digest and u.function_id = f.id
                    and u.day > (now() at time zone 'utc')::date - $1::integer)
                and not exists (select 1 from mirror_images m join mirror_runs r on r.id = m.run_id
                    where m.digest = b.digest and m.outcome in ('mirrored', 'unchanged') and not r.dry_run)
             ) as oldest_unmirrored_s",
    )
    .bind(i32::try_from(window_days).unwrap_or(i32::MAX))
    .fetch_one(pool)
    .await?)
}

/// What live functions run now and the fallback has, as far as the mirror's record goes: repository and digest, the
/// most used first.
pub async fn recoverable(pool: &PgPool, limit: u32) -> Result<Vec<(String, String)>, Error> {
    Ok(sqlx::query_as(
        "select m.repository, m.digest from mirror_images m
         join mirror_runs r on r.id = m.run_id and not r.dry_run
         join builds b on b.digest = m.digest and b.docker_image like '%/' || m.repository || ':%'
         join functions f on f.current_build = b.id and f.deleted_at is null
         where m.outcome in ('mirrored', 'unchanged')
         group by m.repository, m.digest
         order by max(m.tasks) desc, max(m.ended_at) desc, m.repository limit $1",
    )
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}
