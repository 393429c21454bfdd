//! Registries that are not what they should be.

use axum::http::{Method, StatusCode};
use mecapy_bus::HandlerError;
use mecapy_proto::v1::ScanDone;
use mecapy_registry::Copier;
use mecapy_store::BuildState;

use crate::proxy::{Fate, Proxy};
use crate::{World, hear};

#[tokio::test]
async fn what_staging_has_in_the_place_of_what_was_scanned_is_not_published() {
    let mut world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let proxy = Proxy::start(&world.server, |passing| {
        if passing.is(Method::GET, "/manifests/") { Fate::Spoil } else { Fate::Pass }
    })
    .await;
    world.publish.staging.staging = proxy.registry();
    world.handle(&event).await.unwrap();
    let build = world.build(&event).await;
    assert_eq!(
        (build.state, build.failure().unwrap().code.as_str()),
        (BuildState::Failed, "digest-mismatch")
    );
    for tag in [event.tag.as_str(), "latest"] {
        assert_eq!(world.tag(tag).await, None, "{tag}");
    }
}

#[tokio::test]
async fn a_scan_of_another_digest_than_the_builds_lets_nothing_pass() {
    let world = World::new().await;
    let (event, other) = (world.scanned(1).await, world.scanned(2).await);
    // What is on record for this build is about another image.
    world.record(&ScanDone { digest: other.digest.clone(), ..event.clone() }, true).await;
    world.handle(&event).await.unwrap();
    let build = world.build(&event).await;
    assert_eq!(build.failure().unwrap().code, "not-scanned");
    assert_eq!(world.tag(&event.tag).await, None);
}

/// The build waits while the registry is like this, with no tag on the image, and is ready once it isn't.
async fn is_waited_for(method: Method, part: &'static str, fate: Fate) {
    let mut world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let proxy = Proxy::start(&world.server, move |passing| {
        if passing.is(method.clone(), part) { fate } else { Fate::Pass }
    })
    .await;
    world.publish.primary = Copier::new(proxy.registry());
    let waits = world.handle(&event).await;
    assert!(matches!(waits, Err(HandlerError::Transient(_))), "{waits:?}");
    assert_eq!(world.build(&event).await.state, BuildState::Publishing);
    for tag in [event.tag.as_str(), "latest"] {
        assert_eq!(world.tag(tag).await, None, "{tag}");
    }
    world.publish.primary = Copier::new(world.registry.clone());
    world.handle(&event).await.unwrap();
    assert_eq!(world.build(&event).await.state, BuildState::Ready);
    assert_eq!(world.tag("latest").await, Some(event.digest.parse().unwrap()));
}

#[tokio::test]
async fn a_primary_that_loses_what_it_took_is_waited_for() {
    is_waited_for(Method::PUT, "/manifests/", Fate::Answer(StatusCode::CREATED, "")).await;
}

#[tokio::test]
async fn a_limit_that_looks_like_missing_rights_is_waited_for() {
    let told = "You have exceeded a secondary rate limit";
    is_waited_for(Method::POST, "/blobs/uploads/", Fate::Answer(StatusCode::FORBIDDEN, told)).await;
}

#[tokio::test]
async fn within_one_registry_nothing_of_the_image_is_sent() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let (told, _ear) = hear();
    world.handle(&event).await.unwrap();
    let told = told.render();
    let bytes = |how: &str| {
        let name = format!("mecapy_publish_bytes_total{{how=\"{how}\"}} ");
        let line = told.lines().find_map(|line| line.strip_prefix(name.as_str()));
        line.unwrap_or_else(|| panic!("no {name}in\n{told}")).parse::<u64>().unwrap()
    };
    assert_eq!((bytes("sent"), bytes("skipped")), (0, 0));
    assert!(bytes("mounted") > 0);
}
