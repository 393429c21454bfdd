//! What a run of the janitor deletes, in order. The rows are the state: whoever goes on with a run takes those that
//! are still planned.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::Error;

/// One thing that a run does.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Item {
    pub run_id: String,
    pub position: i32,
    pub depth: i32,
    pub repository: String,
    pub digest: String,
    /// delete, remove_tag, move_tag
    pub action: String,
    pub tags: Vec<String>,
    pub moved_to: Option<String>,
    pub owners: Vec<String>,
    pub policy: String,
    pub rule: String,
    pub reason: String,
    /// planned, done, absent, skipped, refused, undone, undo_failed
    pub state: String,
    pub outcome: String,
    pub media_type: Option<String>,
    pub has_manifest: bool,
    pub updated_at: DateTime<Utc>,
}

const ITEM: &str =
    "run_id, position, depth, repository, digest, action, tags, moved_to, owners, policy, rule,
    reason, state, outcome, media_type, manifest is not null as has_manifest, updated_at";

#[derive(Debug, Clone)]
pub struct NewItem {
    pub depth: i32,
    pub repository: String,
    pub digest: String,
    pub action: &'static str,
    pub tags: Vec<String>,
    pub moved_to: Option<String>,
    pub owners: Vec<String>,
    pub policy: String,
    pub rule: &'static str,
    pub reason: String,
}

pub(crate) async fn insert(
    conn: &mut PgConnection,
    run: &str,
    position: &mut i32,
    items: &[NewItem],
) -> Result<(), Error> {
    let column = |of: fn(&NewItem) -> &str| items.iter().map(of).collect::<Vec<_>>();
    // Arrays of arrays must have one length in PostgreSQL; neither a tag nor a digest has a comma.
    let joined = |of: fn(&NewItem) -> &Vec<String>| {
        items.iter().map(|item| of(item).join(",")).collect::<Vec<_>>()
    };
    let first = *position;
    *position = first.saturating_add(i32::try_from(items.len()).unwrap_or(i32::MAX));
    sqlx::query(
        "insert into cleanup_items (run_id, position, depth, repository, digest, action, tags, moved_to, owners,
             policy, rule, reason)
         select $1, p, d, r, g, a, string_to_array(t, ','), m, string_to_array(o, ','), y, u, w
         from unnest($2::integer[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
             $9::text[], $10::text[], $11::text[], $12::text[]) as x (p, d, r, g, a, t, m, o, y, u, w)",
    )
    .bind(run)
    .bind((first..*position).collect::<Vec<_>>())
    .bind(items.iter().map(|item| item.depth).collect::<Vec<_>>())
    .bind(column(|item| &item.repository))
    .bind(column(|item| &item.digest))
    .bind(column(|item| item.action))
    .bind(joined(|item| &item.tags))
    .bind(items.iter().map(|item| item.moved_to.as_deref()).collect::<Vec<_>>())
    .bind(joined(|item| &item.owners))
    .bind(column(|item| &item.policy))
    .bind(column(|item| item.rule))
    .bind(column(|item| &item.reason))
    .execute(conn)
    .await?;
    Ok(())
}

/// Those of a run, in the order of the plan.
pub async fn items(pool: &PgPool, run: &str) -> Result<Vec<Item>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ITEM} from cleanup_items where run_id = $1 order by position"
    )))
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// Whose items.
#[derive(Debug, Clone, Copy)]
pub enum Of<'r> {
    /// Those that a run plans.
    Plan(&'r str),
    /// Those that an undo has put back, or tried to.
    Undo(&'r str),
    /// Those of a run that could be put back.
    Undoable(&'r str),
}

impl<'r> Of<'r> {
    /// The condition on `$1`, and what that is.
    fn parts(self) -> (String, &'r str) {
        match self {
            Self::Plan(run) => ("run_id = $1".to_owned(), run),
            Self::Undo(run) => ("undone_by = $1".to_owned(), run),
            Self::Undoable(run) => (format!("run_id = $1 and {CAN_BE_UNDONE}"), run),
        }
    }
}

/// What can be put back. What was begun and has no outcome may be deleted, or a part of its tags may be: it is in it as
/// well.
const CAN_BE_UNDONE: &str =
    "(state in ('done', 'undo_failed') or (state in ('absent', 'planned') and manifest is not null))
    and action in ('delete', 'remove_tag')";

/// The last item of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct After {
    pub run_id: String,
    pub position: i32,
}

/// As many of them as there is room for, in the order of the plan.
pub async fn page(
    pool: &PgPool,
    of: Of<'_>,
    after: Option<&After>,
    limit: u32,
) -> Result<Vec<Item>, Error> {
    let (condition, run) = of.parts();
    let (after_run, after_position) =
        after.map_or(("", -1), |after| (after.run_id.as_str(), after.position));
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ITEM} from cleanup_items where {condition} and (run_id, position) > ($2, $3)
         order by run_id, position limit $4"
    )))
    .bind(run)
    .bind(after_run)
    .bind(after_position)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?)
}

/// How many they are, by policy.
pub async fn by_policy(pool: &PgPool, of: Of<'_>) -> Result<Vec<(String, i64)>, Error> {
    let (condition, run) = of.parts();
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select policy, count(*) from cleanup_items where {condition} group by policy order by policy"
    )))
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// Whether the run is still this one's, and none of the owners was left where it is.
pub async fn may_go(pool: &PgPool, item: &Item, fence: i32) -> Result<Option<bool>, Error> {
    Ok(sqlx::query_scalar(
        "select not exists (select 1 from cleanup_items o
             where o.run_id = r.id and o.repository = $3 and o.digest = any($4) and o.action = 'delete'
               and o.state not in ('done', 'absent'))
         from cleanup_runs r where r.id = $1 and r.fence = $2 and r.state = 'applying'",
    )
    .bind(&item.run_id)
    .bind(fence)
    .bind(&item.repository)
    .bind(&item.owners)
    .fetch_optional(pool)
    .await?)
}

/// Keeps what is about to be deleted.
pub async fn keep_manifest(
    pool: &PgPool,
    item: &Item,
    media_type: &str,
    manifest: &[u8],
) -> Result<(), Error> {
    sqlx::query(
        "update cleanup_items set media_type = $3, manifest = $4, updated_at = now()
         where run_id = $1 and position = $2 and manifest is null",
    )
    .bind(&item.run_id)
    .bind(item.position)
    .bind(media_type)
    .bind(manifest)
    .execute(pool)
    .await?;
    Ok(())
}

/// The media type and bytes of what was deleted, while they are kept.
pub async fn manifest(pool: &PgPool, item: &Item) -> Result<Option<(String, Vec<u8>)>, Error> {
    let kept: Option<(Option<String>, Option<Vec<u8>>)> = sqlx::query_as(
        "select media_type, manifest from cleanup_items where run_id = $1 and position = $2",
    )
    .bind(&item.run_id)
    .bind(item.position)
    .fetch_optional(pool)
    .await?;
    Ok(kept.and_then(|(media_type, manifest)| media_type.zip(manifest)))
}

/// Moves an item on from one of the states given. False: it was moved already.
pub async fn settle(
    pool: &PgPool,
    item: &Item,
    from: &[&str],
    state: &str,
    outcome: &str,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update cleanup_items set state = $4, outcome = $5, updated_at = now()
         where run_id = $1 and position = $2 and state = any($3)",
    )
    .bind(&item.run_id)
    .bind(item.position)
    .bind(from)
    .bind(state)
    .bind(outcome)
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What can be put back: what a run deleted, or each image's newest deletion by a part of its name with what went along
/// with it.
pub async fn deleted(pool: &PgPool, target: &Target<'_>) -> Result<Vec<Item>, Error> {
    let (run, repository, tag, digest) = match *target {
        Target::Run(run) => (Some(run), None, None, None),
        Target::Image { repository, tag, digest } => (None, repository, tag, digest),
    };
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "with recursive named as (
             select distinct on (repository, digest, case when $1::text is null then '' else position::text end)
                 run_id, position, repository, digest
             from cleanup_items
             where {CAN_BE_UNDONE} and ($1::text is null or run_id = $1) and ($2::text is null or repository = $2)
               and ($3::text is null or tags @> array[$3]) and ($4::text is null or digest = $4)
             order by repository, digest, case when $1::text is null then '' else position::text end, updated_at desc
         ), whole as (
             select * from named
             union
             select i.run_id, i.position, i.repository, i.digest
             from whole w join cleanup_items i on i.run_id = w.run_id and i.repository = w.repository
                 and i.owners @> array[w.digest]
             where {CAN_BE_UNDONE}
         )
         select {ITEM} from cleanup_items join whole using (run_id, position, repository, digest)
         order by depth desc, position desc"
    )))
    .bind(run)
    .bind(repository)
    .bind(tag)
    .bind(digest)
    .fetch_all(pool)
    .await?)
}

/// What an undo is about.
#[derive(Debug, Clone, Copy)]
pub enum Target<'t> {
    Run(&'t str),
    Image { repository: Option<&'t str>, tag: Option<&'t str>, digest: Option<&'t str> },
}

/// Items of a run by state.
pub async fn counts(pool: &PgPool, run: &str) -> Result<Vec<(String, i64)>, Error> {
    Ok(sqlx::query_as(
        "select state, count(*) from cleanup_items where run_id = $1 group by state order by state",
    )
    .bind(run)
    .fetch_all(pool)
    .await?)
}

/// Moves an item that was to be put back: undone, or why it could not be.
pub async fn undo(
    pool: &PgPool,
    item: &Item,
    by: &str,
    is_undone: bool,
    outcome: &str,
) -> Result<(), Error> {
    sqlx::query(
        "update cleanup_items set state = $4, outcome = $5, undone_by = $3, updated_at = now()
         where run_id = $1 and position = $2",
    )
    .bind(&item.run_id)
    .bind(item.position)
    .bind(by)
    .bind(if is_undone { "undone" } else { "undo_failed" })
    .bind(outcome)
    .execute(pool)
    .await?;
    Ok(())
}

/// What an undo put back, or tried to.
pub async fn undone(pool: &PgPool, by: &str) -> Result<Vec<Item>, Error> {
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "select {ITEM} from cleanup_items where undone_by = $1 order by run_id, position"
    )))
    .bind(by)
    .fetch_all(pool)
    .await?)
}
