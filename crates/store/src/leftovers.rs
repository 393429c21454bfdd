//! Rows that have had their use. Deleted in batches, so that no statement holds locks for long.

use sqlx::PgPool;

use crate::Error;

const BATCH: i64 = 5_000;

/// The kinds of rows that end by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftover {
    /// Messages that were handled so long ago that no stream has them any more.
    Inbox,
    Usage,
    /// What layers hold that no image was scanned with of late.
    LayerIndexes,
    /// Events of builds that are built and tasks that have ended. Their age does not matter.
    KeptEvents,
    /// Deliveries of webhooks that have ended, and how their tries went.
    Deliveries,
}

impl Leftover {
    const fn statement(self) -> &'static str {
        match self {
            Self::Inbox => {
                "delete from inbox where ctid = any(array(
                     select ctid from inbox where handled_at < now() - make_interval(days => $1) limit $2))"
            }
            Self::Usage => {
                "delete from image_usage where ctid = any(array(
                     select ctid from image_usage where day < (now() at time zone 'utc')::date - $1 limit $2))"
            }
            Self::LayerIndexes => {
                "delete from layer_indexes where ctid = any(array(
                     select ctid from layer_indexes where used_at < now() - make_interval(days => $1) limit $2))"
            }
            Self::KeptEvents => {
                "delete from kept_events where ctid = any(array(
                     select kept.ctid from kept_events kept
                     left join builds on builds.id = kept.id and builds.state in ('queued', 'building')
                     left join tasks on tasks.id = kept.id and tasks.state in ('queued', 'running')
                     where kept.created_at <= now() - make_interval(days => $1)
                         and builds.id is null and tasks.id is null limit $2))"
            }
            Self::Deliveries => {
                "delete from webhook_deliveries where ctid = any(array(
                     select ctid from webhook_deliveries
                     where ended_at < now() - make_interval(days => $1) and not letter_due limit $2))"
            }
        }
    }
}

/// Deletes one batch of what is older than so many days. How many rows went, and whether more may be there.
pub async fn delete(pool: &PgPool, what: Leftover, days: u32) -> Result<(u64, bool), Error> {
    let done = sqlx::query(what.statement())
        .bind(i32::try_from(days).unwrap_or(i32::MAX))
        .bind(BATCH)
        .execute(pool)
        .await?;
    Ok((done.rows_affected(), done.rows_affected() >= BATCH.unsigned_abs()))
}
