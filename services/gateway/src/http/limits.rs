//! How long a request may take.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::prefer::Wait;
use crate::Error;

/// Beyond the time that the caller asked to be held.
const LIMIT: Duration = Duration::from_secs(45);

/// Cuts off what takes too long. A stream of events is answered at once, and not cut.
pub(crate) async fn time(request: Request, next: Next) -> Response {
    let limit = LIMIT + Wait::of(request.headers()).0;
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Error::Unavailable("what this call needs", None).into_response(),
    }
}
