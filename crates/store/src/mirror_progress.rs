//! How far the images of a mirror run are that are on their way.

use sqlx::PgPool;

use crate::Error;

/// Over the images that have not ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct OnTheWay {
    pub bytes_moved: i64,
    /// 0: nothing moves, or it is not known yet.
    pub bytes_to_move: i64,
}

/// Notes how far one image is. After its end that is of no use, and changes nothing.
pub async fn tell(
    pool: &PgPool,
    run: &str,
    repository: &str,
    digest: &str,
    on_the_way: OnTheWay,
) -> Result<(), Error> {
    sqlx::query(
        "update mirror_images set bytes_moved = $4, bytes_to_move = $5
         where run_id = $1 and repository = $2 and digest = $3 and outcome is null",
    )
    .bind(run)
    .bind(repository)
    .bind(digest)
    .bind(on_the_way.bytes_moved)
    .bind(on_the_way.bytes_to_move)
    .execute(pool)
    .await?;
    Ok(())
}

pub async fn of_run(pool: &PgPool, run: &str) -> Result<OnTheWay, Error> {
    Ok(sqlx::query_as(
        "select coalesce(sum(bytes_moved), 0)::bigint as bytes_moved,
             coalesce(sum(bytes_to_move), 0)::bigint as bytes_to_move
         from mirror_images where run_id = $1 and outcome is null",
    )
    .bind(run)
    .fetch_one(pool)
    .await?)
}
