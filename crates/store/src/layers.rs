//! What the scanner read in a layer, kept for every other image that has the layer.

use serde_json::Value;
use sqlx::PgPool;

use crate::Error;

/// The contents of those of the layers that are known, by digest.
pub async fn get(
    pool: &PgPool,
    digests: &[String],
    analyser_version: &str,
) -> Result<Vec<(String, Value)>, Error> {
    Ok(sqlx::query_as(
        "with noted as (
             update layer_indexes set used_at = now()
             where layer_digest = any($1) and analyser_version = $2 and used_at < now() - interval '1 day')
         select layer_digest, contents from layer_indexes where layer_digest = any($1) and analyser_version = $2",
    )
    .bind(digests)
    .bind(analyser_version)
    .fetch_all(pool)
    .await?)
}

/// Its commit doesn't wait for the disk: the commit of the scan, which comes after it, writes the log up to itself, and
/// what is lost without that is read again.
pub async fn put(
    pool: &PgPool,
    digest: &str,
    analyser_version: &str,
    contents: &Value,
) -> Result<(), Error> {
    sqlx::query(
        "insert into layer_indexes (layer_digest, analyser_version, contents)
         select $1, $2, $3 from set_config('synchronous_commit', 'off', true)
         on conflict do nothing",
    )
    .bind(digest)
    .bind(analyser_version)
    .bind(contents)
    .execute(pool)
    .await?;
    Ok(())
}

/// Of these layers, those that say nothing of packages: code, mostly. They are noted as used.
pub async fn empty(
    pool: &PgPool,
    digests: &[String],
    analyser_version: &str,
) -> Result<Vec<String>, Error> {
    Ok(sqlx::query_scalar(
        "with noted as (
             update layer_indexes set used_at = now()
             where layer_digest = any($1) and analyser_version = $2 and contents = '{}'::jsonb
                 and used_at < now() - interval '1 day')
         select layer_digest from layer_indexes
         where layer_digest = any($1) and analyser_version = $2 and contents = '{}'::jsonb",
    )
    .bind(digests)
    .bind(analyser_version)
    .fetch_all(pool)
    .await?)
}
