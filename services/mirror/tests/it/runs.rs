//! What a run copies, and how it ends.

use mecapy_mirror::BASE_REPOSITORY;
use mecapy_proto::v1::{MirrorImage, MirrorRequested, PushDone};
use mecapy_registry::{Artifact, Digest};
use mecapy_store::functions;
use mecapy_store::mirror_runs::{self, NewImage, NewRun, Outcome, Run};
use mecapy_testkit::{eventually, unique};

use crate::world::{PATIENCE, Published, World, layer};

#[tokio::test]
async fn the_most_used_images_of_live_functions_are_copied_with_their_bases_and_then_unchanged() {
    let world = World::new().await;
    let (base, shared) = (layer(30_000), layer(50_000));
    let (base_digest, base_tags) = world.base(std::slice::from_ref(&base)).await;
    let mut images = Vec::new();
    for tasks in [5, 3, 1] {
        let layers = [base.clone(), shared.clone(), layer(500)];
        let image = world.publish(world.function().await, &layers).await;
        world.used(&image, tasks).await;
        images.push(image);
    }
    let deleted = world.publish(world.function().await, &[layer(10)]).await;
    world.used(&deleted, 9).await;
    let mut conn = world.pool.acquire().await.unwrap();
    functions::delete(&mut conn, deleted.function).await.unwrap();
    drop(conn);

    let _mirror = world.start();
    let request = MirrorRequested { limit: 2, verify_percent: 100, ..Default::default() };
    let (run, totals) = world.run(request.clone()).await;
    assert_eq!((totals.mirrored, totals.images, totals.verified), (3, 3, 3), "{totals:?}");
    for image in &images[..2] {
        for tag in [image.tag.as_str(), "latest", &image.digest.to_string()] {
            assert_eq!(world.there(&image.repository, tag).await, Some(image.digest), "{tag}");
        }
    }
    for tag in &base_tags {
        assert_eq!(world.there(BASE_REPOSITORY, tag).await, Some(base_digest));
    }
    // Beyond the limit, and deleted.
    for image in [&images[2], &deleted] {
        assert!(world.image(&run, image).await.is_none());
        assert_eq!(world.there(&image.repository, &image.tag).await, None);
    }
    // What they share was sent once.
    let once = base.len() + shared.len() + 2 * 500;
    let sent = usize::try_from(totals.bytes_sent).unwrap();
    assert!((once..once + 1_000).contains(&sent), "{sent} bytes for {once}");

    let report: serde_json::Value =
        serde_json::from_str(&world.report(&run, "report.json").await).unwrap();
    assert_eq!(report["counts"]["mirrored"], 3);
    assert_eq!(report["images"][0]["tasks"], 5);
    assert_eq!(report["images"][0]["digest"], images[0].digest.to_string());
    let text = world.report(&run, "report.txt").await;
    assert!(text.contains("mirrored           3\n"), "{text}");

    let (again, totals) = world.run(request).await;
    assert_eq!((totals.unchanged, totals.images, totals.bytes_sent), (3, 3, 0), "{totals:?}");
    assert_eq!(world.outcome(&again, &images[0]).await, Some(Outcome::Unchanged));
    world.report(&again, "report.txt").await;
    // Each run ends once.
    world.heard_done(2).await;
}

#[tokio::test]
async fn a_run_without_images_ends_at_once_with_its_report() {
    let world = World::new().await;
    let _mirror = world.start();
    let (run, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.images, 0);
    assert!(world.report(&run, "report.txt").await.contains("images             0\n"));
}

#[tokio::test]
async fn a_dry_run_says_what_would_move_and_moves_nothing() {
    let world = World::new().await;
    let shared = layer(40_000);
    let mut images = Vec::new();
    for _ in 0..2 {
        let layers = [shared.clone(), layer(700)];
        let image = world.publish(world.function().await, &layers).await;
        world.used(&image, 1).await;
        images.push(image);
    }
    let _mirror = world.start();
    let request = MirrorRequested { dry_run: true, ..Default::default() };
    let (run, totals) = world.run(request.clone()).await;
    assert_eq!((totals.mirrored, totals.open), (2, 0));
    let once = i64::try_from(shared.len() + 2 * 700).unwrap();
    assert!((once..once + 1_000).contains(&totals.bytes_sent), "{totals:?} for {once}");
    assert!(world.report(&run, "report.txt").await.contains("would be mirrored  2\n"));
    for image in &images {
        assert_eq!(world.there(&image.repository, &image.tag).await, None);
    }
    world.run(MirrorRequested::default()).await;
    let (_, totals) = world.run(request).await;
    assert_eq!((totals.unchanged, totals.bytes_sent), (2, 0));
}

#[tokio::test]
async fn what_is_gone_from_the_primary_or_was_never_there_is_not_found_and_the_rest_is_copied() {
    let world = World::new().await;
    let (gone, whole) = (
        world.publish(world.function().await, &[layer(100)]).await,
        world.publish(world.function().await, &[layer(100)]).await,
    );
    world.primary.delete_manifest(&gone.repository, &gone.digest).await.unwrap();
    let never = mecapy_registry::Digest::of(layer(10).as_ref()).to_string();
    let _mirror = world.start();
    let digests = vec![gone.digest.to_string(), whole.digest.to_string(), never.clone()];
    let (run, totals) = world.run(MirrorRequested { digests, ..Default::default() }).await;
    assert_eq!((totals.mirrored, totals.not_found, totals.failed), (1, 2, 0), "{totals:?}");
    assert_eq!(world.outcome(&run, &gone).await, Some(Outcome::NotFound));
    assert_eq!(world.outcome(&run, &whole).await, Some(Outcome::Mirrored));
    assert!(world.report(&run, "report.txt").await.contains(&never));
}

#[tokio::test]
async fn an_older_version_comes_with_its_own_tag_and_leaves_latest_alone() {
    let world = World::new().await;
    let function = world.function().await;
    let older = world.publish(function, &[layer(100)]).await;
    let newer = world.publish(function, &[layer(100)]).await;
    let _mirror = world.start();
    for image in [&newer, &older] {
        let digests = vec![image.digest.to_string()];
        world.run(MirrorRequested { digests, ..Default::default() }).await;
        assert_eq!(world.there(&image.repository, &image.tag).await, Some(image.digest));
        assert_eq!(world.there(&image.repository, "latest").await, Some(newer.digest));
    }
}

#[tokio::test]
async fn with_on_publish_each_image_is_copied_when_it_is_published_and_base_images_are_not() {
    let mut world = World::new().await;
    world.config.mirror.on_publish = true;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    let _mirror = world.start();
    let done = PushDone {
        build_id: image.build.to_string(),
        function_id: image.function.get(),
        digest: image.digest.to_string(),
        ..PushDone::default()
    };
    let of_base = PushDone {
        build_id: mecapy_proto::BuildId::new().to_string(),
        base: "3.11-slim".into(),
        ..PushDone::default()
    };
    world.bus.publish(&of_base).await.unwrap();
    world.bus.publish(&done).await.unwrap();
    let (run, totals) = world.ended(&format!("publish-{}", image.build)).await;
    assert_eq!((run.reason.as_str(), totals.mirrored), ("publish", 1));
    assert_eq!(world.there(&image.repository, "latest").await, Some(image.digest));
    let runs = mirror_runs::list(&world.pool, 10).await.unwrap();
    assert_eq!(runs.len(), 1, "{runs:?}");
}

#[tokio::test]
async fn without_on_publish_nothing_comes_of_it_and_nothing_waits() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    let _mirror = world.start();
    let done = PushDone {
        build_id: image.build.to_string(),
        function_id: image.function.get(),
        digest: image.digest.to_string(),
        ..PushDone::default()
    };
    world.bus.publish(&done).await.unwrap();
    eventually("the message is off the queue", PATIENCE, async || {
        let backlog = mecapy_bus::topology::backlog(&world.bus).await.unwrap();
        let (_, waiting, out) = backlog
            .into_iter()
            .find(|(durable, _, _)| *durable == mecapy_bus::topology::MIRROR_PUBLISHED)
            .unwrap();
        (waiting == 0 && out == 0).then_some(())
    })
    .await;
    assert!(mirror_runs::list(&world.pool, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_lag_counts_from_the_last_complete_run_over_the_most_used() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    world.used(&image, 1).await;
    let lag = async || mecapy_store::mirror_choice::lag(&world.pool, 7).await.unwrap();
    let before = lag().await;
    assert_eq!(before.since_complete_s, None);
    assert!(before.oldest_unmirrored_s > 0.0);
    let _mirror = world.start();
    world.run(MirrorRequested { dry_run: true, ..Default::default() }).await;
    assert_eq!(lag().await.since_complete_s, None, "a dry run copies nothing");
    assert!(lag().await.oldest_unmirrored_s > 0.0);
    let (run, _) = world.run(MirrorRequested::default()).await;
    assert!(Run::has_ended(&run));
    let after = lag().await;
    assert!(after.since_complete_s.is_some_and(|seconds| seconds < 100.0), "{after:?}");
    assert!(after.oldest_unmirrored_s.abs() < f64::EPSILON, "{after:?}");
}

#[tokio::test]
async fn the_tag_of_a_base_that_moved_since_the_plan_is_not_moved_back() {
    let world = World::new().await;
    let (older, tags) = world.base(&[layer(1_000)]).await;
    let (newer, _) = world.base(&[layer(2_000)]).await;
    assert_ne!(older, newer);
    let run = NewRun {
        id: unique("run"),
        reason: "manual".to_owned(),
        by_usage: true,
        dry_run: false,
        verify_percent: 0,
    };
    let planned = |digest: Digest| NewImage {
        repository: BASE_REPOSITORY.to_owned(),
        digest: digest.to_string(),
        tags: tags.to_vec(),
        tasks: 0,
        size_bytes: 0,
        ended: None,
    };
    let mut conn = world.pool.acquire().await.unwrap();
    mirror_runs::create(&mut conn, &run, &[planned(older), planned(newer)]).await.unwrap();
    drop(conn);
    let _mirror = world.start();
    // The newer one first, as when the older one's message came late.
    for digest in [newer, older] {
        let event = MirrorImage {
            run_id: run.id.clone(),
            repository: BASE_REPOSITORY.to_owned(),
            digest: digest.to_string(),
            tags: tags.to_vec(),
        };
        world.bus.publish(&event).await.unwrap();
        eventually("the image has an outcome", PATIENCE, async || {
            let (run, digest) = (run.id.as_str(), digest.to_string());
            let image = mirror_runs::image(&world.pool, run, BASE_REPOSITORY, &digest).await;
            image.unwrap().unwrap().outcome().unwrap()
        })
        .await;
    }
    assert_eq!(world.there(BASE_REPOSITORY, &tags[0]).await, Some(newer));
    assert!(world.fallback.resolve(BASE_REPOSITORY, &older.to_string()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_version_that_was_built_again_has_its_tag_on_the_newer_image() {
    let world = World::new().await;
    let function = world.function().await;
    let first = world.publish(function, &[layer(100)]).await;
    let again = world.publish(function, &[layer(200)]).await;
    for image in [&first, &again] {
        world.used(image, 1).await;
        sqlx::query("update builds set tag = 'v1-same' where digest = $1")
            .bind(image.digest.to_string())
            .execute(&world.pool)
            .await
            .unwrap();
    }
    let _mirror = world.start();
    world.run(MirrorRequested::default()).await;
    assert_eq!(world.there(&again.repository, "v1-same").await, Some(again.digest));
    let older = world.fallback.resolve(&first.repository, &first.digest.to_string()).await;
    assert!(older.unwrap().is_some(), "it is there by its digest");
}

#[tokio::test]
async fn a_run_that_finds_everything_as_it_should_be_sends_no_message_for_an_image() {
    let world = World::new().await;
    let function = world.function().await;
    let mut images = Vec::new();
    for _ in 0..3 {
        let image = world.publish(function, &[layer(100)]).await;
        world.used(&image, 1).await;
        images.push(image);
    }
    let (_, base_tags) = world.base(&[layer(1_000)]).await;
    let _mirror = world.start();
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.mirrored, 4, "{totals:?}");
    world.heard_asked(4).await;

    let (run, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!((totals.unchanged, totals.images), (4, 4), "{totals:?}");
    world.heard_asked(4).await;
    assert_eq!(world.outcome(&run, &images[0]).await, Some(Outcome::Unchanged));
    world.report(&run, "report.txt").await;
    world.heard_done(2).await;

    // What lacks a tag there, and what a tag led away from, is asked for, and the rest is not.
    let (newest, base) = (&images[2], &base_tags[0]);
    world.fallback.delete_manifest(&newest.repository, &newest.digest).await.unwrap();
    let other = world.fallback.manifest(BASE_REPOSITORY, base).await.unwrap();
    let other = mecapy_registry::Manifest::new(
        [other.raw.as_ref(), b"\n"].concat().into(),
        other.media_type.clone(),
    );
    world.fallback.put_manifest(BASE_REPOSITORY, base, &other).await.unwrap();
    let (run, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!((totals.unchanged, totals.mirrored), (2, 2), "{totals:?}");
    world.heard_asked(6).await;
    assert_eq!(world.outcome(&run, newest).await, Some(Outcome::Mirrored));
    assert_eq!(world.there(&newest.repository, "latest").await, Some(newest.digest));
}

/// Attaches something to an image, or to what is attached to it.
async fn attach(world: &World, image: &Published, to: Digest, kind: &str) -> Digest {
    let repository = &image.repository;
    let subject = world.primary.resolve(repository, &to.to_string()).await.unwrap().unwrap();
    let artifact = Artifact {
        artifact_type: format!("application/vnd.{kind}+json"),
        file_name: format!("{kind}.json"),
        content: format!("{{\"of\":\"{}\"}}", unique(kind)).into(),
        annotations: Default::default(),
    };
    let put = world.primary.put_artifacts(repository, &subject, &[artifact]).await.unwrap();
    world.primary.list_referrers(repository, &to, &put).await.unwrap();
    put[0].digest
}

#[tokio::test]
async fn what_refers_to_an_image_goes_with_it_and_comes_after_it_when_it_is_new() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    world.used(&image, 1).await;
    let on_both = async || {
        let [primary, fallback] = [&world.primary, &world.fallback]
            .map(|registry| registry.referrers(&image.repository, &image.digest));
        (primary.await.unwrap(), fallback.await.unwrap())
    };
    attach(&world, &image, image.digest, "sbom").await;
    let _mirror = world.start();
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.mirrored, 1, "{totals:?}");
    let (there, here) = on_both().await;
    assert_eq!((there.len(), &there), (1, &here));

    // Signed later: a dry run says so, and the next run brings it.
    attach(&world, &image, image.digest, "signature").await;
    let dry = MirrorRequested { dry_run: true, ..Default::default() };
    let (_, totals) = world.run(dry.clone()).await;
    assert_eq!((totals.mirrored, totals.unchanged), (1, 0), "{totals:?}");
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!((totals.mirrored, totals.unchanged), (1, 0), "{totals:?}");
    let (there, here) = on_both().await;
    assert_eq!((there.len(), &there), (2, &here));
    for request in [dry, MirrorRequested::default()] {
        let (_, totals) = world.run(request).await;
        assert_eq!(totals.unchanged, 1, "{totals:?}");
    }
}

#[tokio::test]
async fn the_signature_of_an_sbom_goes_with_the_image_too() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(100)]).await;
    world.used(&image, 1).await;
    let sbom = attach(&world, &image, image.digest, "sbom").await;
    let _mirror = world.start();
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.mirrored, 1, "{totals:?}");
    // It is all there. Then the SBOM is signed.
    let signature = attach(&world, &image, sbom, "signature").await;
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!((totals.mirrored, totals.unchanged), (1, 0), "{totals:?}");
    let listed = world.fallback.referrers(&image.repository, &sbom).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.digest).collect::<Vec<_>>(), [signature]);
    let there = world.fallback.manifest(&image.repository, &signature.to_string()).await;
    assert!(there.is_ok(), "{there:?}");
    let (_, totals) = world.run(MirrorRequested::default()).await;
    assert_eq!(totals.unchanged, 1, "{totals:?}");
}
