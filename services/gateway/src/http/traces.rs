//! `/builds/{build_id}/trace`, `/tasks/{task_id}/trace`

use axum::Json;
use axum::extract::{Path, State};

use super::request::{build_id, task_id};
use crate::waterfall::Waterfall;
use crate::{Caller, Error, Gateway};

pub(super) async fn build(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Waterfall>, Error> {
    Ok(Json(gateway.api.build_trace(&caller, build_id(&id)?).await?))
}

pub(super) async fn task(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Waterfall>, Error> {
    Ok(Json(gateway.api.task_trace(&caller, task_id(&id)?).await?))
}
