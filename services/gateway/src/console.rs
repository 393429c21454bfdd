//! The console: what the system knows, as pages for people, and what they may do about it.
//!
//! Invariants:
//! 1. Pages are made here, of the same [`Api`](crate::Api) that HTTP and gRPC use: no rule is in a page.
//! 2. What users put in is text: escaped by the templates, and cleaned by [`text`] of what would act on a terminal or
//!    turn the direction of reading. Addresses are made of ids alone.
//! 3. A page works without JavaScript; the script only looks again when something has changed, and shows a log as it
//!    comes.
//! 4. Nothing is loaded from elsewhere, and no script or style stands in a page: the policy of [`guard`] forbids both.
//! 5. Whatever changes something is a `POST` by way of [`session::Act`], which asks for the session's own secret.

mod advisories;
mod assets;
mod audit;
mod bases;
mod builds;
mod dead_letters;
mod functions;
mod guard;
mod layout;
mod live;
mod mirror;
mod overview;
mod parts;
mod plot;
mod problem;
mod registry;
mod session;
mod tasks;
mod text;
mod webhooks;
mod work;
mod workers;

use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::Gateway;
use crate::http::{limits, observe, panicked};

/// What changes something. Each is refused without the session's own secret: a test goes through all of them.
pub const ACTIONS: &[&str] = &[
    "/console/logout",
    "/console/functions/{function_id}/delete",
    "/console/builds/{build_id}/cancel",
    "/console/tasks/{task_id}/cancel",
    "/console/deliveries/{delivery_id}/resend",
    "/console/webhooks/{webhook_id}/enable",
    "/console/functions/{function_id}/rebuild",
    "/console/workers/drain",
    "/console/workers/resume",
    "/console/bases/build",
    "/console/bases/rebuild",
    "/console/dead-letters/replay",
    "/console/dead-letters/drop",
    "/console/registry/plan",
    "/console/registry/apply",
    "/console/registry/undo",
];

/// From the outside in: span and metrics, headers, errors as pages, the limit of time, panics, the routes.
pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/console", get(overview::page))
        .route("/console/login", get(session::form).post(session::log_in))
        .route("/console/logout", post(session::log_out))
        .route("/console/assets/{name}", get(assets::get))
        .route("/console/functions", get(functions::list))
        .route("/console/functions/{function_id}", get(functions::one))
        .route(
            "/console/functions/{function_id}/delete",
            get(functions::ask_delete).post(functions::delete),
        )
        .route("/console/functions/{function_id}/rebuild", post(functions::rebuild))
        .route("/console/builds", get(builds::list))
        .route("/console/builds/{build_id}", get(builds::one))
        .route("/console/builds/{build_id}/cancel", post(builds::cancel))
        .route("/console/builds/{build_id}/{text}", get(builds::text))
        .route("/console/tasks", get(tasks::list))
        .route("/console/tasks/{task_id}", get(tasks::one))
        .route("/console/tasks/{task_id}/cancel", post(tasks::cancel))
        .route("/console/tasks/{task_id}/{text}", get(tasks::text))
        .route("/console/workers", get(workers::page))
        .route("/console/workers/drain", get(workers::ask_drain).post(workers::drain))
        .route("/console/workers/resume", post(workers::resume))
        .route("/console/bases", get(bases::page))
        .route("/console/bases/build", post(bases::build))
        .route("/console/bases/stale", get(bases::stale))
        .route("/console/bases/rebuild", get(bases::ask_rebuild).post(bases::rebuild))
        .route("/console/bases/runs/{run_id}", get(bases::run))
        .route("/console/mirror", get(mirror::page))
        .route("/console/mirror/{run_id}", get(mirror::run))
        .route("/console/registry", get(registry::page))
        .route("/console/registry/plan", post(registry::plan))
        .route("/console/registry/apply", post(registry::apply))
        .route("/console/registry/undo", post(registry::undo))
        .route("/console/registry/runs/{run_id}", get(registry::run))
        .route("/console/registry/runs/{run_id}/apply", get(registry::ask_apply))
        .route("/console/registry/runs/{run_id}/undo", get(registry::ask_undo))
        .route("/console/dead-letters", get(dead_letters::list))
        .route("/console/dead-letters/confirm", get(dead_letters::confirm))
        .route("/console/dead-letters/replay", post(dead_letters::replay))
        .route("/console/dead-letters/drop", post(dead_letters::drop_them))
        .route("/console/dead-letters/{id}", get(dead_letters::one))
        .route("/console/advisories", get(advisories::page))
        .route("/console/webhooks", get(webhooks::list))
        .route("/console/webhooks/{webhook_id}", get(webhooks::one))
        .route("/console/webhooks/{webhook_id}/enable", post(webhooks::enable))
        .route("/console/deliveries/{delivery_id}", get(webhooks::delivery))
        .route("/console/deliveries/{delivery_id}/resend", post(webhooks::resend))
        .route("/console/audit", get(audit::page))
        .route("/console/events", get(live::anything))
        .route("/console/events/builds/{build_id}", get(live::build))
        .route("/console/events/tasks/{task_id}", get(live::task))
        .route("/console/{*rest}", get(problem::nothing_here))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(limits::time))
        .layer(from_fn(problem::every_error_is_a_page))
        .layer(from_fn(guard::headers))
        .layer(from_fn(observe::observe))
        .with_state(gateway)
}
