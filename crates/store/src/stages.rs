//! How a build went: each time that a service had it in hand is a stage, with its steps. A service notes a stage with the
//! state that the build moves to ([`crate::inbox::record_stage`]); one that came to nothing is noted by itself.

use chrono::{DateTime, Utc};
use mecapy_proto::BuildId;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;

use crate::Error;

/// A stage of a build. Older and newer versions may know less or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// "build", "scan", "publish"
    pub name: String,
    pub service: String,
    /// Of the message, from 1.
    pub delivery: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    #[serde(default)]
    pub outcome: Outcome,
    #[serde(default)]
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The build moved on, or ended.
    #[default]
    Done,
    /// It failed, and the message comes again.
    Retried,
    /// It failed for good: the message is a dead letter, and the build stands still.
    DeadLettered,
    /// The service had to end: another replica has it next.
    HandedBack,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    #[serde(default)]
    pub failed: bool,
}

/// More than any build has: three stages of twenty deliveries. What comes after them is not noted.
pub(crate) const MAX_STAGES: i32 = 64;

/// Notes a stage that came to nothing.
pub async fn add(pool: &PgPool, build: BuildId, stage: &Stage) -> Result<(), Error> {
    sqlx::query(
        "update builds set stages = stages || $2 where id = $1 and jsonb_array_length(stages) < $3",
    )
    .bind(build.uuid())
    .bind(Json(stage))
    .bind(MAX_STAGES)
    .execute(pool)
    .await?;
    Ok(())
}

/// The trace in which a build was asked for, and its stages, in the order in which they ended. None: no such build.
pub async fn get(
    pool: &PgPool,
    build: BuildId,
) -> Result<Option<(Option<String>, Vec<Stage>)>, Error> {
    let row: Option<(Option<String>, Json<Vec<Stage>>)> =
        sqlx::query_as("select traceparent, stages from builds where id = $1")
            .bind(build.uuid())
            .fetch_optional(pool)
            .await?;
    Ok(row.map(|(traceparent, stages)| (traceparent, stages.0)))
}
