//! HTTP: a thin shell over [`Api`](crate::Api).

mod body;
mod builds;
mod events;
mod functions;
pub(crate) mod limits;
pub(crate) mod observe;
mod pages;
mod prefer;
mod problem;
mod request;
mod tasks;
mod traces;
mod webhooks;
mod workers;

use axum::Router;
use axum::http::Method;
use axum::middleware::from_fn;
use axum::routing::{MethodRouter, delete, get, post};
use tower_http::catch_panic::CatchPanicLayer;

use crate::Gateway;

pub(crate) use events::{log_event, told};
pub(crate) use problem::panicked;
pub(crate) use request::{build_id, delivery_id, function_id, task_id, webhook_id};

/// One route, as the router and the OpenAPI document both have it.
pub struct Route {
    pub method: Method,
    pub path: &'static str,
    pub(crate) handler: MethodRouter<Gateway>,
}

/// Every route. `openapi.json` describes these and no others; a test sees to it.
pub fn routes() -> Vec<Route> {
    vec![
        route(Method::GET, "/", get(pages::index)),
        route(Method::GET, "/docs", get(pages::docs)),
        route(Method::GET, "/openapi.json", get(pages::openapi)),
        route(Method::GET, "/errors/{code}", get(pages::error)),
        route(Method::POST, "/functions", post(functions::submit)),
        route(Method::GET, "/functions", get(functions::list)),
        route(Method::GET, "/functions/{function_id}", get(functions::get)),
        route(Method::DELETE, "/functions/{function_id}", delete(functions::delete)),
        route(Method::POST, "/functions/{function_id}/rebuild", post(functions::rebuild)),
        route(
            Method::GET,
            "/functions/{function_id}/builds/{build_id}",
            get(builds::get_of_function),
        ),
        route(Method::POST, "/functions/{function_id}/tasks", post(tasks::run)),
        route(Method::GET, "/builds/{build_id}", get(builds::get)),
        route(Method::GET, "/builds/{build_id}/logs", get(builds::logs)),
        route(Method::GET, "/builds/{build_id}/events", get(events::events)),
        route(Method::GET, "/builds/{build_id}/trace", get(traces::build)),
        route(Method::POST, "/builds/{build_id}/cancel", post(builds::cancel)),
        route(Method::GET, "/tasks/{task_id}", get(tasks::get)),
        route(Method::GET, "/tasks/{task_id}/result", get(tasks::result)),
        route(Method::GET, "/tasks/{task_id}/logs", get(tasks::logs)),
        route(Method::GET, "/tasks/{task_id}/events", get(events::task_events)),
        route(Method::GET, "/tasks/{task_id}/trace", get(traces::task)),
        route(Method::POST, "/tasks/{task_id}/cancel", post(tasks::cancel)),
        route(Method::POST, "/webhooks", post(webhooks::create)),
        route(Method::GET, "/webhooks", get(webhooks::list)),
        route(Method::GET, "/webhooks/{webhook_id}", get(webhooks::get)),
        route(Method::DELETE, "/webhooks/{webhook_id}", delete(webhooks::delete)),
        route(Method::POST, "/webhooks/{webhook_id}/secret", post(webhooks::rotate)),
        route(Method::POST, "/webhooks/{webhook_id}/enable", post(webhooks::enable)),
        route(Method::POST, "/webhooks/{webhook_id}/test", post(webhooks::test)),
        route(Method::GET, "/webhooks/{webhook_id}/deliveries", get(webhooks::deliveries)),
        route(Method::GET, "/deliveries/{delivery_id}", get(webhooks::delivery)),
        route(Method::POST, "/deliveries/{delivery_id}/resend", post(webhooks::resend)),
        route(Method::GET, "/workers", get(workers::list)),
        route(Method::POST, "/workers/{worker}/drain", post(workers::drain)),
        route(Method::POST, "/workers/{worker}/resume", post(workers::resume)),
    ]
}

fn route(method: Method, path: &'static str, handler: MethodRouter<Gateway>) -> Route {
    Route { method, path, handler }
}

/// From the outside in: span and metrics, the form of errors, the limit of time, panics, the routes.
pub(crate) fn router(gateway: Gateway) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, route| router.route(route.path, route.handler))
        .fallback(problem::no_such_route)
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(from_fn(limits::time))
        .layer(from_fn(problem::every_error_is_a_problem))
        .layer(from_fn(observe::observe))
        .with_state(gateway)
}
