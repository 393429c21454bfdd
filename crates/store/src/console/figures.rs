//! How builds and tasks of the last hour went.

use mecapy_proto::Owner;
use sqlx::{PgPool, Postgres, QueryBuilder};

use crate::Error;

/// As many of the newest count at most: so it takes the same at any rate.
const SAMPLE: i64 = 10_000;

/// How long a step took, in milliseconds. None: nothing took it in that hour.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    pub p50_ms: Option<f64>,
    pub p95_ms: Option<f64>,
}

/// Builds that were asked for in the last hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Builds {
    pub asked: i64,
    pub ready: i64,
    pub failed: i64,
    pub rejected: i64,
    pub queue: Spread,
    pub build: Spread,
    pub scan: Spread,
    pub publish: Spread,
    /// From the request to being ready.
    pub whole: Spread,
}

/// Tasks that were asked for in the last hour.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tasks {
    /// At most as many as the sample has.
    pub asked: i64,
    pub succeeded: i64,
    /// Ended otherwise.
    pub failed: i64,
    pub hits: i64,
    pub failovers: i64,
    /// Of the last five minutes.
    pub per_minute: f64,
    pub queue: Spread,
    /// From its start to its end.
    pub run: Spread,
    /// From the request to the end.
    pub whole: Spread,
}

/// Median and 95th percentile of the milliseconds between two columns, as two columns.
fn spread(from: &str, to: &str, name: &str) -> String {
    let one = |quantile: &str, stat: &str| {
        format!(
            "percentile_cont({quantile}) within group (order by extract(epoch from {to} - {from})::float8 * 1000)
                 filter (where {to} is not null and {from} is not null) as {name}_{stat}"
        )
    };
    format!("{}, {}", one("0.5", "p50"), one("0.95", "p95"))
}

fn read(row: &sqlx::postgres::PgRow, name: &str) -> Result<Spread, sqlx::Error> {
    use sqlx::Row as _;
    Ok(Spread {
        p50_ms: row.try_get(format!("{name}_p50").as_str())?,
        p95_ms: row.try_get(format!("{name}_p95").as_str())?,
    })
}

/// The newest rows of the last hour of an owner, or all.
fn recent(table: &str, time: &str, owner: Option<&Owner>) -> QueryBuilder<Postgres> {
    let mut query = QueryBuilder::new(format!("with recent as (select t.* from {table} t"));
    if let Some(owner) = owner {
        query.push(
            " join functions f on f.id = t.function_id and f.deleted_at is null and f.owner = ",
        );
        query.push_bind(owner.as_str().to_owned());
    }
    query.push(format_args!(
        " where t.{time} > now() - interval '1 hour' and t.function_id is not null
         order by t.{time} desc limit {SAMPLE})"
    ));
    query
}

pub async fn builds(pool: &PgPool, owner: Option<&Owner>) -> Result<Builds, Error> {
    use sqlx::Row as _;
    let mut query = recent("builds", "requested_at", owner);
    query.push(format_args!(
        " select count(*) as asked, count(*) filter (where state = 'ready') as ready,
             count(*) filter (where state = 'failed') as failed,
             count(*) filter (where state = 'rejected') as rejected,
             {}, {}, {}, {}, {}
         from (select *, case when state = 'ready' then ended_at end as ready_at from recent) r",
        spread("requested_at", "started_at", "queue"),
        spread("started_at", "built_at", "build"),
        spread("built_at", "scanned_at", "scan"),
        spread("scanned_at", "ready_at", "publish"),
        spread("requested_at", "ready_at", "whole"),
    ));
    let row = query.build().fetch_one(pool).await?;
    Ok(Builds {
        asked: row.try_get("asked")?,
        ready: row.try_get("ready")?,
        failed: row.try_get("failed")?,
        rejected: row.try_get("rejected")?,
        queue: read(&row, "queue")?,
        build: read(&row, "build")?,
        scan: read(&row, "scan")?,
        publish: read(&row, "publish")?,
        whole: read(&row, "whole")?,
    })
}

pub async fn tasks(pool: &PgPool, owner: Option<&Owner>) -> Result<Tasks, Error> {
    use sqlx::Row as _;
    let mut query = recent("tasks", "created_at", owner);
    query.push(format_args!(
        " select count(*) as asked, count(*) filter (where state = 'succeeded') as succeeded,
             count(*) filter (where state in ('failed', 'timed_out', 'oom', 'cancelled', 'lost')) as failed,
             count(*) filter (where cache = 'HIT') as hits,
             count(*) filter (where cache = 'FAILOVER') as failovers,
             {}, {}, {}
         from recent",
        spread("created_at", "started_at", "queue"),
        spread("started_at", "ended_at", "run"),
        spread("created_at", "ended_at", "whole"),
    ));
    let row = query.build().fetch_one(pool).await?;
    let mut tasks = Tasks {
        asked: row.try_get("asked")?,
        succeeded: row.try_get("succeeded")?,
        failed: row.try_get("failed")?,
        hits: row.try_get("hits")?,
        failovers: row.try_get("failovers")?,
        per_minute: 0.0,
        queue: read(&row, "queue")?,
        run: read(&row, "run")?,
        whole: read(&row, "whole")?,
    };
    let mut query = QueryBuilder::<Postgres>::new("select count(*) from tasks t");
    if let Some(owner) = owner {
        query.push(
            " join functions f on f.id = t.function_id and f.deleted_at is null and f.owner = ",
        );
        query.push_bind(owner.as_str().to_owned());
    }
    query.push(" where t.created_at > now() - interval '5 minutes'");
    let newest: i64 = query.build_query_scalar().fetch_one(pool).await?;
    tasks.per_minute = newest as f64 / 5.0;
    Ok(tasks)
}

/// Builds and tasks that have not ended, by state: of an owner, or all.
pub async fn open(
    pool: &PgPool,
    owner: Option<&Owner>,
) -> Result<(Vec<(String, i64)>, Vec<(String, i64)>), Error> {
    let Some(owner) = owner else {
        return Ok((
            crate::builds::open_counts(pool).await?,
            crate::tasks::open_counts(pool).await?,
        ));
    };
    let of = |table: &str, states: &str| {
        sqlx::AssertSqlSafe(format!(
            "select t.state, count(*) from {table} t
                 join functions f on f.id = t.function_id and f.deleted_at is null and f.owner = $1
             where t.state in ({states}) group by t.state"
        ))
    };
    let builds = of("builds", "'queued', 'building', 'scanning', 'publishing'");
    let tasks = of("tasks", "'queued', 'running'");
    Ok((
        sqlx::query_as(builds).bind(owner.as_str()).fetch_all(pool).await?,
        sqlx::query_as(tasks).bind(owner.as_str()).fetch_all(pool).await?,
    ))
}
