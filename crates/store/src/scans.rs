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

pub async fn get(pool: &PgPool, build: BuildId) -> Result<Option<Scan>, Error> {
    Ok(sqlx::query_as("select * from scans where build_id = $1")
        .bind(build.uuid())
        .fetch_optional(pool)
        .await?)
}

/// Whether the newest scan of this digest passed, as an image of this function.
pub async fn passed(pool: &PgPool, digest: &str, function: FunctionId) -> Result<bool, Error> {
    let verdict: Option<String> = sqlx::query_scalar(
        "select verdict from scans join builds on builds.id = scans.build_id
         where scans.digest = $1 and builds.function_id = $2 order by scans.scanned_at desc limit 1",
    )
    .bind(digest)
    .bind(function.get())
    .fetch_optional(pool)
    .await?;
    Ok(verdict.as_deref() == Some("PASSED"))
}
