//! Scans: what an engine found, and the verdict. A digest without a PASSED row here is never published or run.

use chrono::{DateTime, Utc};
use mecapy_proto::{BuildId, FunctionId};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::Error;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Scan {
    pub build_id: Uuid,
    pub digest: String,
    pub engine: String,
    pub engine_version: String,
    pub database_version: String,
    pub database_partial: bool,
    /// PASSED or REJECTED
    pub verdict: String,
    pub critical: i32,
    pub high: i32,
    pub medium: i32,
    pub low: i32,
    pub unknown: i32,
    /// The worst findings, as the events carry them.
    pub findings: Value,
    pub report_key: String,
    pub sbom_key: String,
    pub duration_ms: i64,
    pub scanned_at: DateTime<Utc>,
    /// Since when a later database has something against it that rejects.
    pub revoked_at: Option<DateTime<Utc>>,
    /// Revoked, and by policy run no more.
    pub refused: bool,
}

/// A scan to keep.
#[derive(Debug, Clone)]
pub struct NewScan {
    pub digest: String,
    pub engine: String,
    pub engine_version: String,
    pub database_version: String,
    pub database_partial: bool,
    pub passed: bool,
    pub critical: u32,
    pub high: u32,
    pub medium: u32,
    pub low: u32,
    pub unknown: u32,
    pub findings: Value,
    pub report_key: String,
    pub sbom_key: String,
    pub duration_ms: u64,
}

pub async fn insert(
    conn: &mut PgConnection,
    build: BuildId,
    scan: &NewScan,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into scans (build_id, digest, engine, engine_version, database_version, database_partial, verdict,
             critical, high, medium, low, unknown, findings, report_key, sbom_key, duration_ms)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
         on conflict do nothing",
    )
    .bind(build.uuid())
    .bind(&scan.digest)
    .bind(&scan.engine)
    .bind(&scan.engine_version)
    .bind(&scan.database_version)
    .bind(scan.database_partial)
    .bind(if scan.passed { "PASSED" } else { "REJECTED" })
    .bind(i64::from(scan.critical))
    .bind(i64::from(scan.high))
    .bind(i64::from(scan.medium))
    .bind(i64::from(scan.low))
    .bind(i64::from(scan.unknown))
    .bind(&scan.findings)
    .bind(&scan.report_key)
    .bind(&scan.sbom_key)
    .bind(i64::try_from(scan.duration_ms).unwrap_or(i64::MAX))
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Notes which layers the image has, the base first, so that it can be matched again without reading it.
pub async fn set_layers(
    conn: &mut PgConnection,
    build: BuildId,
    layers: &[String],
) -> Result<(), Error> {
    sqlx::query("update scans set layers = $2 where build_id = $1")
        .bind(build.uuid())
        .bind(layers)
        .execute(conn)
        .await?;
    Ok(())
}

pub async fn get(pool: &PgPool, build: BuildId) -> Result<Option<Scan>, Error> {
    Ok(sqlx::query_as("select * from scans where build_id = $1")
        .bind(build.uuid())
        .fetch_optional(pool)
        .await?)
}

/// What the record says of running an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// There is no scan of it, or it was rejected.
    NotPassed,
    Passed,
    /// It had passed; a later database has something against it.
    Refused,
}

impl Standing {
    pub(crate) fn of(newest: Option<(String, bool)>) -> Self {
        match newest {
            Some((verdict, false)) if verdict == "PASSED" => Self::Passed,
            Some((verdict, true)) if verdict == "PASSED" => Self::Refused,
            _ => Self::NotPassed,
        }
    }
}

/// How the newest scan of this digest stands, as an image of this function. What has something against the digest counts
/// until it is taken back, whatever a later scan says: it may have been made with an older database.
pub async fn standing(
    pool: &PgPool,
    digest: &str,
    function: FunctionId,
) -> Result<Standing, Error> {
    let newest: Option<(String, bool)> = sqlx::query_as(
        "select verdict, bool_or(refused) over () from scans join builds on builds.id = scans.build_id
         where scans.digest = $1 and builds.function_id = $2 order by scans.scanned_at desc limit 1",
    )
    .bind(digest)
    .bind(function.get())
    .fetch_optional(pool)
    .await?;
    Ok(Standing::of(newest))
}

/// Whether it may run.
pub async fn passed(pool: &PgPool, digest: &str, function: FunctionId) -> Result<bool, Error> {
    Ok(standing(pool, digest, function).await? == Standing::Passed)
}
