//! Builds of a version that was built before: of the same code and requirements, on what is newest by now.
//!
//! It is a build of the same version. So it never comes before what its owner submits meanwhile, and until it is ready
//! the function runs as it does now.

use chrono::Utc;
use mecapy_proto::v1::BuildRequested;
use mecapy_proto::v1::build_requested::Source;
use mecapy_proto::{BuildId, FunctionId};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{Error, builds, stalled};

/// A build, and what made its version.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Earlier {
    function_id: i64,
    pub owner: String,
    pub name: String,
    pub version: i32,
    build: Uuid,
    pub python_version: String,
    pub base_variant: String,
    pub requirements: String,
}

impl Earlier {
    pub fn function_id(&self) -> Result<FunctionId, Error> {
        FunctionId::new(self.function_id).map_err(|_| Error::Unknown {
            column: "functions.id",
            value: self.function_id.to_string(),
        })
    }

    pub fn build(&self) -> BuildId {
        BuildId::from_uuid(self.build)
    }
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq)]
pub enum Again {
    /// The build is made. This is to be sent.
    Asked(Box<BuildRequested>),
    /// A build of this version or a newer one has not ended: it stands on what is newest.
    OnItsWay(BuildId),
    /// The function is deleted.
    Gone,
}

/// That a build `o` has not ended.
pub(crate) const OPEN: &str = "o.state in ('queued', 'building', 'scanning', 'publishing')";

/// The newest build of a function that is not deleted.
pub async fn newest(pool: &PgPool, function: FunctionId) -> Result<Option<Earlier>, Error> {
    Ok(sqlx::query_as(
        "select f.id as function_id, f.owner, f.name, v.version, b.id as build, v.python_version, v.base_variant,
             v.requirements
         from functions f
         cross join lateral (select id, version from builds where function_id = f.id
             order by version desc, (state = 'ready') desc, requested_at desc limit 1) b
         join versions v on v.function_id = f.id and v.version = b.version
         where f.id = $1 and f.deleted_at is null",
    )
    .bind(function.get())
    .fetch_optional(pool)
    .await?)
}

/// Asks for a build of the same version, from this source.
pub async fn ask(
    conn: &mut PgConnection,
    earlier: &Earlier,
    source: Source,
) -> Result<Again, Error> {
    // The lock orders those that are asked for at once, as it does new versions.
    let live: Option<i64> = sqlx::query_scalar(
        "select id from functions where id = $1 and deleted_at is null for update",
    )
    .bind(earlier.function_id)
    .fetch_optional(&mut *conn)
    .await?;
    if live.is_none() {
        return Ok(Again::Gone);
    }
    let open: Option<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
        "select o.id from builds o where o.function_id = $1 and o.version >= $2 and {OPEN}
         order by o.version desc, o.requested_at desc limit 1"
    )))
    .bind(earlier.function_id)
    .bind(earlier.version)
    .fetch_optional(&mut *conn)
    .await?;
    if let Some(open) = open {
        return Ok(Again::OnItsWay(BuildId::from_uuid(open)));
    }
    let id = BuildId::new();
    let version = earlier.version.unsigned_abs();
    builds::create(conn, id, earlier.function_id()?, version).await?;
    let event = BuildRequested {
        build_id: id.to_string(),
        function_id: earlier.function_id,
        owner: earlier.owner.clone(),
        version,
        python_version: earlier.python_version.clone(),
        base_variant: earlier.base_variant.clone(),
        source: Some(source),
        requirements: earlier.requirements.clone(),
        requested_at: Some(Utc::now().into()),
    };
    stalled::keep_request(conn, id, &event).await?;
    Ok(Again::Asked(Box::new(event)))
}
