//! How often each image ran, a row a day.

use mecapy_proto::FunctionId;
use sqlx::PgConnection;

use crate::Error;

/// Counts one task of this image, today (UTC).
pub async fn count(
    conn: &mut PgConnection,
    digest: &str,
    function: FunctionId,
) -> Result<(), Error> {
    sqlx::query(
        "insert into image_usage (day, digest, function_id, tasks)
         values ((now() at time zone 'utc')::date, $1, $2, 1)
         on conflict (day, digest, function_id) do update set tasks = image_usage.tasks + 1",
    )
    .bind(digest)
    .bind(function.get())
    .execute(conn)
    .await?;
    Ok(())
}
