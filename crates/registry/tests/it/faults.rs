//! Copies between real registries that misbehave. Each ends in the right outcome, and the destination never has a
//! manifest whose blobs are not whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use mecapy_registry::{
    Copier, CopyReport, Error, Manifest, ProgressSink, Registry, Source, Target, Verifier,
};
use mecapy_testkit::unique;

use crate::byte_proxy::Cutter;
use crate::images::{Family, noise, push, push_index};
use crate::proxy::{Fate, Passing, Proxy, Step};
use crate::servers::{fallback, fallback_server, primary, primary_server};

const STEPS: [Step; 7] = [
    Step::LookForManifest,
    Step::ReadManifest,
    Step::PutManifest,
    Step::LookForBlob,
    Step::ReadBlob,
    Step::StartUpload,
    Step::PutBlob,
];

fn status(code: StatusCode) -> Fate {
    Fate::Answer(code, Vec::new())
}

pub async fn image(repository: &str) -> Manifest {
    let files = [("large", noise(repository, 1_000_000)), ("small", noise("small", 100))];
    push(&primary().await, repository, Family::Oci, &files).await
}

pub async fn copy(
    from: &Registry,
    to: &Registry,
    repository: &str,
    image: &Manifest,
) -> Result<CopyReport, Error> {
    copy_with(&Copier::new(to.clone()), from, repository, image).await
}

async fn copy_with(
    copier: &Copier,
    from: &Registry,
    repository: &str,
    image: &Manifest,
) -> Result<CopyReport, Error> {
    let (from, to) = ends(from, repository, image);
    copier.copy(&from, &to, &ProgressSink::none()).await
}

fn ends(from: &Registry, repository: &str, image: &Manifest) -> (Source, Target) {
    let from =
        Source { registry: from.clone(), repository: repository.to_owned(), digest: image.digest };
    let to = Target {
        repository: repository.to_owned(),
        tags: vec!["v1".into(), "latest".into()],
        mount_from: Vec::new(),
    };
    (from, to)
}

/// The image is at the destination, all of it.
pub async fn assert_whole(repository: &str, image: &Manifest) {
    let to = fallback().await;
    for tag in ["v1", "latest"] {
        assert_eq!(&to.manifest(repository, tag).await.unwrap(), image);
    }
    Verifier::new(to).verify(repository, &image.digest).await.unwrap();
}

/// Whatever the destination shows of the image is whole.
async fn assert_nothing_half(repository: &str, image: &Manifest) {
    let to = fallback().await;
    for reference in ["v1", "latest", &image.digest.to_string()] {
        if let Some(there) = to.resolve(repository, reference).await.unwrap() {
            Verifier::new(to.clone()).verify(repository, &there.digest).await.unwrap();
        }
    }
}

pub async fn assert_nothing(repository: &str, image: &Manifest) {
    let to = fallback().await;
    for reference in ["v1", "latest", &image.digest.to_string()] {
        assert_eq!(to.resolve(repository, reference).await.unwrap(), None);
    }
}

/// Copies with this done to each request of a step, on both sides.
pub async fn copy_through(
    step: Step,
    fate: impl Fn(&Passing) -> Fate + Clone + Send + Sync + 'static,
) -> (String, Manifest, Result<CopyReport, Error>) {
    let repository = unique("fault");
    let image = image(&repository).await;
    let at = move |passing: &Passing| {
        if passing.step() == step { fate(passing) } else { Fate::Pass }
    };
    let (from, to) = (
        Proxy::start(primary_server().await, at.clone()),
        Proxy::start(fallback_server().await, at),
    );
    let (from, to) = (from.await, to.await);
    let result = copy(&from.registry(), &to.registry(), &repository, &image).await;
    (repository, image, result)
}

#[tokio::test]
async fn a_failure_at_any_step_is_got_over() {
    let wait = || vec![("retry-after", "1".to_owned())];
    let failures = [
        status(StatusCode::INTERNAL_SERVER_ERROR),
        Fate::Answer(StatusCode::TOO_MANY_REQUESTS, wait()),
        Fate::Answer(StatusCode::SERVICE_UNAVAILABLE, wait()),
    ];
    let each = failures.iter().flat_map(|failure| {
        STEPS.map(|step| async move {
            let failure = failure.clone();
            let (repository, image, result) =
                copy_through(step, move |passing| match passing.before {
                    0 => failure.clone(),
                    _ => Fate::Pass,
                })
                .await;
            result.unwrap_or_else(|error| panic!("{step:?}: {error}"));
            assert_whole(&repository, &image).await;
        })
    });
    futures::future::join_all(each).await;
}

#[tokio::test]
async fn a_step_that_never_works_leaves_nothing_half_and_can_be_tried_later() {
    let each = STEPS.map(|step| async move {
        let (repository, image, result) =
            copy_through(step, |_| status(StatusCode::INTERNAL_SERVER_ERROR)).await;
        let error = result.expect_err(&format!("{step:?}"));
        assert!(error.is_transient(), "{step:?}: {error}");
        assert_nothing_half(&repository, &image).await;
        copy(&primary().await, &fallback().await, &repository, &image).await.unwrap();
        assert_whole(&repository, &image).await;
    });
    futures::future::join_all(each).await;
}

#[tokio::test]
async fn a_busy_registry_is_given_the_time_that_it_asks_for() {
    let repository = unique("fault");
    let image = image(&repository).await;
    let first_refusal = Arc::new(std::sync::Mutex::new(None::<Instant>));
    let too_early = Arc::new(AtomicBool::new(false));
    let to = Proxy::start(fallback_server().await, {
        let (first_refusal, too_early) = (first_refusal.clone(), too_early.clone());
        move |passing| {
            let refused = *first_refusal.lock().unwrap();
            match (passing.step(), refused) {
                (Step::PutManifest, None) => {
                    *first_refusal.lock().unwrap() = Some(Instant::now());
                    let wait = ("retry-after", "2".to_owned());
                    Fate::Answer(StatusCode::TOO_MANY_REQUESTS, vec![wait])
                }
                (_, Some(at)) if at.elapsed() < Duration::from_millis(1_900) => {
                    too_early.store(true, Ordering::SeqCst);
                    Fate::Pass
                }
                _ => Fate::Pass,
            }
        }
    })
    .await;
    let registry = to.registry();
    copy(&primary().await, &registry, &repository, &image).await.unwrap();
    assert!(first_refusal.lock().unwrap().is_some());
    assert!(!too_early.load(Ordering::SeqCst), "it was asked before its time");
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_download_that_is_cut_goes_on_where_it_stopped() {
    let repository = unique("fault");
    let image = image(&repository).await;
    let from = Proxy::start(primary_server().await, |passing| match passing.step() {
        Step::ReadBlob if passing.range.is_none() => Fate::Cut(300_000),
        // Once more, on the way.
        Step::ReadBlob if passing.before < 4 => Fate::Cut(200_000),
        _ => Fate::Pass,
    })
    .await;
    let report = copy(&from.registry(), &fallback().await, &repository, &image).await.unwrap();
    assert_eq!(report.bytes_sent, image.size_bytes().unwrap());
    assert_whole(&repository, &image).await;
    let ranges: Vec<_> =
        from.passed(Step::ReadBlob).into_iter().filter_map(|passing| passing.range).collect();
    assert!(ranges.contains(&"bytes=300000-".to_owned()), "{ranges:?}");
}

#[tokio::test]
async fn an_upload_that_is_cut_starts_again() {
    let repository = unique("fault");
    let image = image(&repository).await;
    let to = Cutter::start(fallback_server().await, 500_000).await;
    copy(&primary().await, &to.registry(), &repository, &image).await.unwrap();
    assert!(to.has_cut());
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn an_upload_that_the_registry_forgot_starts_again() {
    let (repository, image, result) = copy_through(Step::PutBlob, |passing| match passing.before {
        0 => status(StatusCode::NOT_FOUND),
        _ => Fate::Pass,
    })
    .await;
    result.unwrap();
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_shortened_blob_is_refused_and_one_that_ended_early_is_read_on() {
    let (repository, image, result) = copy_through(Step::ReadBlob, |_| Fate::Shorten(50)).await;
    assert!(result.unwrap_err().is_digest_mismatch());
    assert_nothing(&repository, &image).await;

    let (repository, image, result) = copy_through(Step::ReadBlob, |passing| match passing.range {
        None => Fate::EndEarly(60),
        Some(_) => Fate::Pass,
    })
    .await;
    result.unwrap();
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_blob_that_always_ends_early_or_is_spoilt_is_refused() {
    for fate in [Fate::EndEarly(0), Fate::Spoil] {
        let (repository, image, result) = copy_through(Step::ReadBlob, move |_| fate.clone()).await;
        assert!(result.unwrap_err().is_digest_mismatch());
        assert_nothing(&repository, &image).await;
    }
}

#[tokio::test]
async fn a_blob_that_the_source_lost_is_not_found_and_nothing_comes_of_the_rest() {
    let (repository, image, result) =
        copy_through(Step::ReadBlob, |_| status(StatusCode::NOT_FOUND)).await;
    assert!(result.unwrap_err().is_not_found());
    assert_nothing(&repository, &image).await;
}

#[tokio::test]
async fn an_index_whose_child_is_gone_is_not_copied() {
    let (from, to, repository) = (primary().await, fallback().await, unique("fault"));
    let (one, two) = (image(&repository).await, {
        push(&from, &repository, Family::Oci, &[("b", noise("b", 100))]).await
    });
    let index = push_index(&from, &repository, &[&one, &two]).await;
    from.delete_manifest(&repository, &two.digest).await.unwrap();
    let error = copy(&from, &to, &repository, &index).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_nothing(&repository, &index).await;
}

#[tokio::test]
async fn what_happens_to_the_source_on_the_way_does_not_change_what_is_copied() {
    let repository = unique("fault");
    let old = image(&repository).await;
    let real = primary().await;
    real.put_manifest(&repository, "v1", &old).await.unwrap();
    let new = push(&real, &repository, Family::Oci, &[("new", noise("new", 100))]).await;
    let (is_moved, moving) =
        (Arc::new(AtomicBool::new(false)), Arc::new(tokio::sync::Notify::new()));
    let from = Proxy::start(primary_server().await, {
        let moving = moving.clone();
        move |passing| {
            if passing.step() == Step::ReadBlob {
                moving.notify_one();
            }
            Fate::Pass
        }
    })
    .await;
    let mover = tokio::spawn({
        let (is_moved, repository, old) = (is_moved.clone(), repository.clone(), old.clone());
        async move {
            moving.notified().await;
            real.put_manifest(&repository, "v1", &new).await.unwrap();
            real.delete_manifest(&repository, &old.digest).await.unwrap();
            is_moved.store(true, Ordering::SeqCst);
        }
    });
    copy(&from.registry(), &fallback().await, &repository, &old).await.unwrap();
    mover.await.unwrap();
    assert!(is_moved.load(Ordering::SeqCst));
    assert_whole(&repository, &old).await;
}

#[tokio::test]
async fn two_mirrors_may_write_one_image_at_once() {
    let repository = unique("fault");
    let image = image(&repository).await;
    let (from, to) = (primary().await, fallback().await);
    let (one, two) =
        tokio::join!(copy(&from, &to, &repository, &image), copy(&from, &to, &repository, &image));
    one.unwrap();
    two.unwrap();
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn images_that_are_copied_at_once_send_a_shared_blob_once() {
    let (from, shared) = (primary().await, noise(&unique("shared"), 500_000));
    let mut images = Vec::new();
    for _ in 0..10 {
        let repository = unique("fault");
        let files = [("shared", shared.clone()), ("own", noise(&repository, 1_000))];
        images.push((repository.clone(), push(&from, &repository, Family::Oci, &files).await));
    }
    let to = Proxy::start(fallback_server().await, |_| Fate::Pass).await;
    let copier = Copier::new(to.registry());
    let copies =
        images.iter().map(|(repository, image)| copy_with(&copier, &from, repository, image));
    let reports: Vec<CopyReport> =
        futures::future::join_all(copies).await.into_iter().map(Result::unwrap).collect();
    // The shared layer once, and each image's own layer and config.
    assert_eq!(to.passed(Step::PutBlob).len(), 1 + 2 * 10);
    assert_eq!(reports.iter().filter(|report| report.bytes_mounted > 200_000).count(), 9);
    // Each in one piece: GHCR refuses chunks of more than 4 MiB.
    assert!(to.passed(Step::Other).is_empty());
    for (repository, image) in &images {
        assert_whole(repository, image).await;
    }

    // Nothing is left to do: two calls an image, one for each tag.
    let before = to.passed(Step::LookForManifest).len();
    for (repository, image) in &images {
        let (from, to) = ends(&from, repository, image);
        assert!(copier.is_unchanged(&from, &to).await.unwrap());
    }
    assert_eq!(to.passed(Step::LookForManifest).len() - before, 2 * 10);
    for (repository, image) in &images {
        assert!(copy_with(&copier, &from, repository, image).await.unwrap().is_unchanged);
    }
    assert_eq!(to.passed(Step::PutBlob).len(), 1 + 2 * 10);
}

#[tokio::test]
async fn a_copier_whose_memory_of_the_destination_is_out_of_date_looks_again() {
    let (from, repository) = (primary().await, unique("fault"));
    let shared = ("shared", noise(&repository, 10_000));
    let old = push(&from, &repository, Family::Oci, std::slice::from_ref(&shared)).await;
    let new = push(&from, &repository, Family::Oci, &[shared, ("b", noise("b", 10))]).await;
    let copier = Copier::new(fallback().await);
    copy_with(&copier, &from, &repository, &old).await.unwrap();

    let mecapy_registry::Content::Image { layers, .. } = old.parse().unwrap() else { panic!() };
    let server = fallback_server().await;
    let url = format!("http://{}/v2/{repository}/blobs/{}", server.host, layers[0].digest);
    let deleted = reqwest::Client::new()
        .delete(url)
        .basic_auth(&server.username, Some(&server.password))
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), StatusCode::ACCEPTED);
    copier.registry().delete_manifest(&repository, &old.digest).await.unwrap();

    copy_with(&copier, &from, &repository, &new).await.unwrap();
    assert_whole(&repository, &new).await;
}

#[tokio::test]
async fn a_copy_that_has_gone_bad_is_found_when_it_is_read_back() {
    let repository = unique("fault");
    let image = image(&repository).await;
    copy(&primary().await, &fallback().await, &repository, &image).await.unwrap();
    let faults: BTreeMap<&str, Fate> = BTreeMap::from([
        ("spoilt", Fate::Spoil),
        ("short", Fate::Shorten(0)),
        ("gone", status(StatusCode::NOT_FOUND)),
    ]);
    for (name, fate) in faults {
        let proxy = Proxy::start(fallback_server().await, move |passing| match passing.step() {
            Step::ReadBlob => fate.clone(),
            _ => Fate::Pass,
        })
        .await;
        let verifier = Verifier::new(proxy.registry());
        let error = verifier.verify(&repository, &image.digest).await.unwrap_err();
        assert!(error.is_digest_mismatch() || error.is_not_found(), "{name}: {error}");
        assert!(!error.is_transient(), "{name}: {error}");
    }
    let verified =
        Verifier::new(fallback().await).verify(&repository, &image.digest).await.unwrap();
    assert_eq!(verified.bytes_read, image.size_bytes().unwrap());
}

#[tokio::test]
async fn what_another_repository_of_the_destination_holds_is_mounted_from_there() {
    let (from, base, repository) = (primary().await, unique("base"), unique("fault"));
    let layer = ("base", noise(&base, 50_000));
    let below = push(&from, &base, Family::Oci, std::slice::from_ref(&layer)).await;
    let above = push(&from, &repository, Family::Oci, &[layer, ("own", Bytes::from("own"))]).await;
    copy(&from, &fallback().await, &base, &below).await.unwrap();
    // Another process, that knows nothing but where to ask.
    let source = Source { registry: from, repository: repository.clone(), digest: above.digest };
    let target = Target {
        repository: repository.clone(),
        tags: vec!["v1".into(), "latest".into()],
        mount_from: vec![unique("not-there"), base],
    };
    let copier = Copier::new(fallback().await);
    let foreseen = copier.foresee(&source, &target).await.unwrap();
    let report = copier.copy(&source, &target, &ProgressSink::none()).await.unwrap();
    assert!(report.bytes_mounted > 20_000 && report.bytes_sent < 2_000, "{report:?}");
    assert_eq!(foreseen.missing.iter().map(|blob| blob.size).sum::<u64>(), report.bytes_sent);
    assert_whole(&repository, &above).await;
}
