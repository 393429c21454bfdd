//! Functions and their versions.

use chrono::{DateTime, Utc};
use mecapy_proto::{BuildId, FunctionId, Owner};
use sqlx::{PgConnection, PgPool};

use crate::Error;
use crate::builds::Build;
use crate::scans::Scan;

#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Function {
    pub id: i64,
    pub owner: String,
    pub name: String,
    pub current_build: Option<uuid::Uuid>,
    pub docker_image: Option<String>,
    pub created_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
}

/// What makes a version, apart from the code itself.
#[derive(Debug, Clone)]
pub struct NewVersion {
    pub python_version: String,
    pub base_variant: String,
    pub requirements: String,
    /// SHA-256 over code, requirements, Python and variant, as hex.
    pub inputs_sha256: String,
}

/// A version, as it was submitted.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Version {
    pub function_id: i64,
    pub version: i32,
    pub python_version: String,
    pub base_variant: String,
    pub requirements: String,
    pub inputs_sha256: String,
}

/// The function of this owner and name: found, or made.
pub async fn ensure(
    conn: &mut PgConnection,
    owner: &Owner,
    name: &str,
) -> Result<FunctionId, Error> {
    // The update that changes nothing makes `returning` see the row that was there.
    let id: i64 = sqlx::query_scalar(
        "insert into functions (owner, name) values ($1, $2)
         on conflict (owner, name) where deleted_at is null do update set name = excluded.name
         returning id",
    )
    .bind(owner.as_str())
    .bind(name)
    .fetch_one(conn)
    .await?;
    FunctionId::new(id)
        .map_err(|_| Error::Unknown { column: "functions.id", value: id.to_string() })
}

/// So that the next free number is always one.
const MAX_VERSION: i32 = 1_000_000_000;

/// What came of adding a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// There now, with this number; or there already with the same inputs.
    Version(u32),
    /// The number is taken by other inputs.
    Conflict,
    /// No such function, or it is deleted.
    UnknownFunction,
}

/// Adds a version: the number asked for, or the next free one for 0.
pub async fn add_version(
    conn: &mut PgConnection,
    function: FunctionId,
    version: u32,
    new: &NewVersion,
) -> Result<Added, Error> {
    // The lock on the function orders versions that are added at once.
    let live: Option<i64> = sqlx::query_scalar(
        "select id from functions where id = $1 and deleted_at is null for update",
    )
    .bind(function.get())
    .fetch_optional(&mut *conn)
    .await?;
    if live.is_none() {
        return Ok(Added::UnknownFunction);
    }
    let number: i32 = match i32::try_from(version) {
        Ok(0) => {
            sqlx::query_scalar(
                "select coalesce(max(version), 0) + 1 from versions where function_id = $1",
            )
            .bind(function.get())
            .fetch_one(&mut *conn)
            .await?
        }
        Ok(number) if number <= MAX_VERSION => number,
        _ => return Ok(Added::Conflict),
    };
    sqlx::query(
        "insert into versions (function_id, version, python_version, base_variant, requirements, inputs_sha256)
         values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
    )
    .bind(function.get())
    .bind(number)
    .bind(&new.python_version)
    .bind(&new.base_variant)
    .bind(&new.requirements)
    .bind(&new.inputs_sha256)
    .execute(&mut *conn)
    .await?;
    let inputs: String = sqlx::query_scalar(
        "select inputs_sha256 from versions where function_id = $1 and version = $2",
    )
    .bind(function.get())
    .bind(number)
    .fetch_one(&mut *conn)
    .await?;
    Ok(if inputs == new.inputs_sha256 {
        Added::Version(number.unsigned_abs())
    } else {
        Added::Conflict
    })
}

/// A function that is not deleted.
pub async fn get(pool: &PgPool, id: FunctionId) -> Result<Option<Function>, Error> {
    Ok(sqlx::query_as(
        "select id, owner, name, current_build, docker_image, created_at, deleted_at
         from functions where id = $1 and deleted_at is null",
    )
    .bind(id.get())
    .fetch_optional(pool)
    .await?)
}

pub async fn version(
    pool: &PgPool,
    id: FunctionId,
    version: u32,
) -> Result<Option<Version>, Error> {
    Ok(sqlx::query_as(
        "select function_id, version, python_version, base_variant, requirements, inputs_sha256
         from versions where function_id = $1 and version = $2",
    )
    .bind(id.get())
    .bind(i64::from(version))
    .fetch_optional(pool)
    .await?)
}

/// A page of functions, oldest first, those of one owner or all.
pub async fn list(
    pool: &PgPool,
    owner: Option<&Owner>,
    after: i64,
    limit: u32,
) -> Result<Vec<Function>, Error> {
    Ok(sqlx::query_as(
        "select id, owner, name, current_build, docker_image, created_at, deleted_at
         from functions
         where deleted_at is null and id > $1 and ($2::text is null or owner = $2)
         order by id limit $3",
    )
    .bind(after)
    .bind(owner.map(Owner::as_str))
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// Marks a function deleted; its images go with the next cleanup. False: it was not there.
pub async fn delete(conn: &mut PgConnection, id: FunctionId) -> Result<bool, Error> {
    let done =
        sqlx::query("update functions set deleted_at = now() where id = $1 and deleted_at is null")
            .bind(id.get())
            .execute(conn)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// A function with its newest build and that build's scan.
#[derive(Debug, Clone)]
pub struct Overview {
    pub function: Function,
    pub build: Option<Build>,
    pub scan: Option<Scan>,
}

/// Shows a function as its newest build left it.
pub async fn overview(pool: &PgPool, id: FunctionId) -> Result<Option<Overview>, Error> {
    let Some(function) = get(pool, id).await? else { return Ok(None) };
    let build = crate::builds::newest(pool, id).await?;
    complete_overview(pool, function, build).await.map(Some)
}

/// Shows the function of a build as that build left it; none for a base image.
pub async fn overview_of_build(pool: &PgPool, id: BuildId) -> Result<Option<Overview>, Error> {
    let Some(build) = crate::builds::get(pool, id).await? else { return Ok(None) };
    let Some(function) = build.function_id()? else { return Ok(None) };
    let Some(function) = get(pool, function).await? else { return Ok(None) };
    complete_overview(pool, function, Some(build)).await.map(Some)
}

async fn complete_overview(
    pool: &PgPool,
    function: Function,
    build: Option<Build>,
) -> Result<Overview, Error> {
    let scan = match &build {
        Some(build) => crate::scans::get(pool, build.id()).await?,
        None => None,
    };
    Ok(Overview { function, build, scan })
}
