//! Whether an image in staging has had its use.

use mecapy_proto::BuildId;
use sqlx::PgPool;

use crate::Error;

/// Whether a build that has not ended has the image of this one in staging, or may be about to have it: one of the same
/// function or base image that has left no image yet.
pub async fn is_wanted(pool: &PgPool, build: BuildId) -> Result<bool, Error> {
    Ok(sqlx::query_scalar(
        "select exists (select 1 from builds its join builds other on
                 other.state in ('queued', 'building', 'scanning', 'publishing')
             and (other.digest = its.digest
                  or other.digest is null and other.function_id is not distinct from its.function_id
                     and other.base is not distinct from its.base)
         where its.id = $1)",
    )
    .bind(build.uuid())
    .fetch_one(pool)
    .await?)
}
