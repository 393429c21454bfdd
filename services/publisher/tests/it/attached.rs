//! SBOM, reports and provenance, as whoever pulls the image finds them.

use mecapy_bus::{Delivery, Handler as _, HandlerError, Outcome};
use mecapy_objects::Key;
use mecapy_proto::BuildId;
use mecapy_proto::v1::ScanDone;
use mecapy_publisher::{PROVENANCE, REPORT, SARIF, SBOM};
use mecapy_registry::{Content, Digest, Referrer, referrers_tag};
use mecapy_store::BuildState;
use serde_json::{Value, json};

use crate::World;

pub async fn listed(world: &World, event: &ScanDone) -> Vec<Referrer> {
    let digest: Digest = event.digest.parse().unwrap();
    world.registry.referrers(&world.published(), &digest).await.unwrap()
}

/// Everything but the commit.
pub async fn attempt(world: &World, event: &ScanDone) -> Result<Outcome, HandlerError> {
    let delivery = Delivery::new("m", 1, Default::default());
    world.publish.handle(event.clone(), &delivery).await
}

async fn content(world: &World, listed: &[Referrer], kind: &str) -> Value {
    let one = listed.iter().find(|one| one.artifact_type.as_deref() == Some(kind)).unwrap();
    let repository = world.published();
    let manifest = world.registry.manifest(&repository, &one.digest.to_string()).await.unwrap();
    let Content::Image { layers, .. } = manifest.parse().unwrap() else { panic!("no manifest") };
    let bytes = world.registry.blob_bytes(&repository, &layers[0], 1 << 20).await.unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn an_image_goes_with_its_sbom_its_reports_and_where_it_comes_from() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let id: BuildId = event.build_id.parse().unwrap();
    let lock = Key::lock(id);
    world.objects.put(&lock, "six==1.17.0 --hash=sha256:00\n".into()).await.unwrap();
    let (base, dependencies) = (Digest::of(b"base"), Digest::of(b"dependencies"));
    sqlx::query(
        "update builds set lock_key = $2, base_digest = $3, dependency_image = $4 where id = $1",
    )
    .bind(id.uuid())
    .bind(lock.to_string())
    .bind(base.to_string())
    .bind(format!("r.example/mecapy/staging/deps@{dependencies}"))
    .execute(&world.pool)
    .await
    .unwrap();
    world.handle(&event).await.unwrap();

    let listed = listed(&world, &event).await;
    let kinds: Vec<_> = listed.iter().filter_map(|one| one.artifact_type.as_deref()).collect();
    assert_eq!(kinds, [SBOM, REPORT, SARIF, PROVENANCE]);
    assert_eq!(content(&world, &listed, SBOM).await["is"], Key::sbom(id).to_string());
    assert_eq!(content(&world, &listed, REPORT).await["is"], Key::scan_report(id).to_string());
    assert_eq!(content(&world, &listed, SARIF).await["is"], Key::sarif(id).to_string());

    let statement = content(&world, &listed, PROVENANCE).await;
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "https://slsa.dev/provenance/v1");
    let hex = event.digest.strip_prefix("sha256:").unwrap();
    assert_eq!(
        statement["subject"],
        json!([{ "name": world.published(), "digest": { "sha256": hex } }])
    );
    let predicate = &statement["predicate"];
    assert_eq!(predicate["runDetails"]["metadata"]["invocationId"], event.build_id);
    assert!(predicate["runDetails"]["metadata"]["startedOn"].is_string());
    assert_eq!(predicate["runDetails"]["builder"]["id"], "urn:mecapy:builder");
    let definition = &predicate["buildDefinition"];
    assert_eq!(definition["externalParameters"]["function"], world.function.get());
    let resolved = |name: &str| {
        let all = definition["resolvedDependencies"].as_array().unwrap();
        all.iter().find(|one| one["name"] == name).unwrap().clone()
    };
    assert_eq!(resolved("inputs")["digest"]["sha256"], "1");
    assert_eq!(resolved("base image")["digest"]["sha256"], base.hex());
    assert_eq!(resolved("dependency image")["digest"]["sha256"], dependencies.hex());
    assert_eq!(resolved("dependency image")["uri"], "oci://r.example/mecapy/staging/deps");
    let of_lock = Digest::of(b"six==1.17.0 --hash=sha256:00\n");
    assert_eq!(resolved("requirements.lock")["digest"]["sha256"], of_lock.hex());
}

#[tokio::test]
async fn the_same_event_again_changes_nothing() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    attempt(&world, &event).await.unwrap();
    let tag = referrers_tag(&event.digest.parse().unwrap());
    let index = world.registry.manifest(&world.published(), &tag).await.unwrap();
    // It was lost before its commit; meanwhile a scan that was late has written its report anew.
    let report = Key::scan_report(event.build_id.parse().unwrap());
    world.objects.put(&report, "{\"is\":\"late\"}".into()).await.unwrap();
    world.handle(&event).await.unwrap();
    assert_eq!(world.registry.manifest(&world.published(), &tag).await.unwrap(), index);
    world.handle(&event).await.unwrap();
    assert_eq!(world.registry.manifest(&world.published(), &tag).await.unwrap(), index);
}

#[tokio::test]
async fn builds_of_one_image_that_are_published_at_once_are_all_listed() {
    let world = World::new().await;
    let mut events = Vec::new();
    for _ in 0..4 {
        // The same version, so the same image.
        events.push(world.scanned(1).await);
        world.record(events.last().unwrap(), true).await;
    }
    let all = futures::future::join_all(events.iter().map(|event| attempt(&world, event))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let listed = listed(&world, &events[0]).await;
    assert_eq!(listed.len(), 4 * 4);
    for event in &events {
        let of_build = |one: &&Referrer| one.annotations["org.mecapy.build.id"] == event.build_id;
        assert_eq!(listed.iter().filter(of_build).count(), 4);
    }
}

#[tokio::test]
async fn an_image_whose_report_is_lost_waits_and_no_tag_leads_to_it() {
    let world = World::new().await;
    let event = world.scanned(1).await;
    world.record(&event, true).await;
    let sbom = Key::sbom(event.build_id.parse().unwrap());
    world.objects.delete(&sbom).await.unwrap();
    let refused = world.handle(&event).await;
    assert!(
        matches!(&refused, Err(error @ HandlerError::Transient(_)) if error.to_string().contains(&sbom.to_string())),
        "{refused:?}"
    );
    assert_eq!(world.build(&event).await.state, BuildState::Publishing);
    assert_eq!(world.tag("latest").await, None);
    // It was put back.
    world.objects.put(&sbom, "{}".into()).await.unwrap();
    world.handle(&event).await.unwrap();
    assert_eq!(world.build(&event).await.state, BuildState::Ready);
    assert_eq!(world.tag("latest").await, Some(event.digest.parse().unwrap()));
}
