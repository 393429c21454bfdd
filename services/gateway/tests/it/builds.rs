//! Builds: asked to end before they have.

use mecapy_proto::v1::BuildFailed;
use mecapy_store::{BuildState, builds};
use reqwest::Method;
use serde_json::json;

use crate::door::{Door, OTHER, answer};

#[tokio::test]
async fn a_queued_build_is_cancelled_at_once_and_its_watchers_know() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let waiter = door.request(Method::GET, &format!("/builds/{build}")).header("Prefer", "wait=60");
    let cancel = format!("/builds/{build}/cancel");
    let (waited, cancelled) = tokio::join!(answer(waiter), door.post(&cancel, json!({})));
    for seen in [&waited, &cancelled] {
        assert_eq!((seen.status, seen.text("/status")), (200, "failed"));
        assert_eq!(seen.text("/error/code"), "build-cancelled");
    }
    let again = door.post(&cancel, json!({})).await;
    assert_eq!((again.status, again.text("/status")), (200, "failed"));
    let (event, _) = door.published::<BuildFailed>("PIPELINE", 1).await.remove(0);
    assert_eq!(event.build_id, build.to_string());
    // A builder that gets the request late has nothing to do.
    assert_eq!(builds::start(&door.pool, build).await.unwrap(), Some(BuildState::Failed));
}

#[tokio::test]
async fn a_running_build_is_told_to_end_and_one_that_is_built_goes_on() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let cancel = format!("/builds/{build}/cancel");
    builds::start(&door.pool, build).await.unwrap();
    let asked = door.post(&cancel, json!({})).await;
    assert_eq!((asked.status, asked.text("/status")), (202, "building"));
    assert!(builds::get(&door.pool, build).await.unwrap().unwrap().cancel_requested);

    let build = door.submit("other").await.build();
    door.make_ready(build).await;
    let asked = door.post(&format!("/builds/{build}/cancel"), json!({})).await;
    assert_eq!((asked.status, asked.text("/status")), (200, "ready"));
    door.published::<BuildFailed>("PIPELINE", 0).await;
}

#[tokio::test]
async fn nobody_cancels_the_build_of_another() {
    let door = Door::open().await;
    let build = door.submit("stats").await.build();
    let request = door.http.post(format!("{}/builds/{build}/cancel", door.url)).bearer_auth(OTHER);
    assert_eq!(answer(request).await.status, 404);
    assert_eq!(builds::get(&door.pool, build).await.unwrap().unwrap().state, BuildState::Queued);
}
