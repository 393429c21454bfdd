//! Registries that say what is not so, or do not come to an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::{Method, StatusCode};
use bytes::Bytes;
use mecapy_registry::{
    Copier, CopyReport, Descriptor, Digest, Error, Manifest, ProgressSink, Source, Target,
    media_types,
};
use mecapy_testkit::unique;
use serde_json::json;

use crate::fake::{Fake, answer, status};
use crate::faults::{assert_nothing, assert_whole, copy, copy_through, image};
use crate::proxy::{Fate, Passing, Proxy, Step};
use crate::servers::{fallback, fallback_server, primary};

/// A copy to a destination that does this to the requests of a step.
async fn copy_to(
    step: Step,
    fate: impl Fn(&Passing) -> Fate + Clone + Send + Sync + 'static,
) -> (String, Manifest, Proxy, Result<CopyReport, Error>) {
    let repository = unique("lies");
    let image = image(&repository).await;
    let to = Proxy::start(fallback_server().await, move |passing| {
        if passing.step() == step { fate(passing) } else { Fate::Pass }
    })
    .await;
    let result = copy(&primary().await, &to.registry(), &repository, &image).await;
    (repository, image, to, result)
}

#[tokio::test]
async fn a_manifest_whose_header_names_another_digest_is_refused() {
    let other = Digest::of(b"other").to_string();
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => {
            let headers = [
                ("content-type", media_types::OCI_MANIFEST),
                ("docker-content-digest", other.as_str()),
            ];
            answer(StatusCode::OK, &headers, "{}")
        }
    })
    .await;
    for reference in ["latest", &Digest::of(b"{}").to_string()] {
        let error = fake.registry().manifest("a", reference).await.unwrap_err();
        assert!(error.is_digest_mismatch(), "{error}");
    }
}

#[tokio::test]
async fn what_is_longer_or_shorter_than_it_says_is_not_copied() {
    let longer = Fate::Header("content-length", "2000000".to_owned());
    for (step, fate) in [(Step::ReadBlob, longer), (Step::ReadManifest, Fate::Shorten(50))] {
        let (repository, image, result) = copy_through(step, move |_| fate.clone()).await;
        assert!(result.unwrap_err().is_digest_mismatch(), "{step:?}");
        assert_nothing(&repository, &image).await;
    }
}

#[tokio::test]
async fn a_blob_that_the_destination_takes_for_another_is_an_error_and_no_manifest_follows() {
    let other = Digest::of(b"other").to_string();
    let says_so = Fate::Header("docker-content-digest", other);
    let fate = says_so.clone();
    let (repository, image, to, result) = copy_to(Step::PutBlob, move |_| fate.clone()).await;
    assert!(result.unwrap_err().is_digest_mismatch());
    assert!(to.passed(Step::PutManifest).is_empty());
    assert_nothing(&repository, &image).await;

    let (from, to) = (unique("from"), unique("to"));
    let proxy = Proxy::start(fallback_server().await, move |passing| match passing.step() {
        Step::StartUpload if passing.path.contains("mount=") => says_so.clone(),
        _ => Fate::Pass,
    })
    .await;
    let blob = proxy.registry().put_blob(&from, Bytes::from(from.clone())).await.unwrap();
    let error = proxy.registry().mount_blob(&to, &blob.digest, &from).await.unwrap_err();
    assert!(error.is_digest_mismatch(), "{error}");
}

#[tokio::test]
async fn a_blob_of_another_size_is_not_taken_for_the_one_that_is_wanted() {
    let (repository, image, to, result) = copy_to(Step::LookForBlob, |_| {
        Fate::Answer(StatusCode::OK, vec![("content-length", "5".to_owned())])
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::SizeMismatch { actual: 5, .. }), "{error}");
    assert!(to.passed(Step::PutManifest).is_empty());
    assert_nothing(&repository, &image).await;
}

#[tokio::test]
async fn a_manifest_that_the_destination_took_and_lost_gets_no_tag_and_may_be_tried_later() {
    let (repository, image, to, result) =
        copy_to(Step::PutManifest, |_| Fate::Swallow(StatusCode::CREATED)).await;
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.is_transient(), "{error}");
    assert_eq!(to.passed(Step::PutManifest).len(), 1, "no tag");
    assert_nothing(&repository, &image).await;

    // One that shows it late.
    let (repository, image, _, result) =
        copy_to(Step::ReadManifest, |passing| match passing.before {
            0 | 1 => Fate::Answer(StatusCode::NOT_FOUND, Vec::new()),
            _ => Fate::Pass,
        })
        .await;
    result.unwrap();
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn blobs_that_the_destination_took_and_lost_are_sent_again_once() {
    let (repository, image, to, result) = copy_to(Step::PutBlob, |passing| match passing.before {
        0 | 1 => Fate::Swallow(StatusCode::CREATED),
        _ => Fate::Pass,
    })
    .await;
    result.unwrap();
    assert!(!to.lacking().is_empty(), "it could not be known");
    assert_whole(&repository, &image).await;

    let (repository, image, to, result) =
        copy_to(Step::PutBlob, |_| Fate::Swallow(StatusCode::CREATED)).await;
    assert!(matches!(result.unwrap_err(), Error::Status { status: 400, .. }));
    assert!(!to.lacking().is_empty());
    assert_eq!(to.passed(Step::PutManifest).len(), 2);
    assert_nothing(&repository, &image).await;

    // Some say by 404 that a manifest names what is not there.
    let (repository, image, _, result) =
        copy_to(Step::PutManifest, |passing| match passing.before {
            0 => Fate::Swallow(StatusCode::NOT_FOUND),
            _ => Fate::Pass,
        })
        .await;
    result.unwrap();
    assert_whole(&repository, &image).await;
}

#[tokio::test]
async fn a_destination_without_the_place_for_it_says_so() {
    let (repository, image, _, result) =
        copy_to(Step::StartUpload, |_| Fate::Answer(StatusCode::NOT_FOUND, Vec::new())).await;
    let error = result.unwrap_err();
    assert!(!error.is_not_found() && error.to_string().contains("project or namespace"), "{error}");
    assert_nothing(&repository, &image).await;
}

/// An image without anything in it, and a registry that has it as `from` and refuses to take it as `to` by a 404 to what
/// ends in `refused`.
async fn refusing(refused: &'static str, words: &'static str) -> (Fake, Source, Target) {
    let raw = json!({"schemaVersion": 2, "manifests": []}).to_string();
    let digest = Digest::of(raw.as_bytes());
    let fake = Fake::start(move |asked| match (&asked.method, asked.path.as_str()) {
        (_, "/v2/") => status(StatusCode::OK),
        (&Method::HEAD, _) => status(StatusCode::NOT_FOUND),
        (&Method::PUT, path) if path.contains(refused) => answer(StatusCode::NOT_FOUND, &[], words),
        (&Method::PUT, _) => status(StatusCode::CREATED),
        _ => answer(StatusCode::OK, &[("content-type", media_types::OCI_INDEX)], raw.clone()),
    })
    .await;
    let from = Source { registry: fake.registry(), repository: "from".to_owned(), digest };
    let to = Target { repository: "to".to_owned(), tags: vec!["v1".into()], ..Target::default() };
    (fake, from, to)
}

#[tokio::test]
async fn what_the_destination_can_not_take_is_told_in_its_words_and_not_missing_at_the_source() {
    let no_name = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such project"}]}"#;
    let no_child = r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"a child is missing"}]}"#;
    // The manifest, or only its tag; and how often that is tried.
    let all = [
        ("to/manifests/sha256", no_name, "NAME_UNKNOWN no such project", 1),
        ("to/manifests/sha256", no_child, "MANIFEST_UNKNOWN a child is missing", 2),
        ("to/manifests/v1", no_name, "NAME_UNKNOWN no such project", 1),
    ];
    for (refused, words, told, tries) in all {
        let (fake, from, to) = refusing(refused, words).await;
        let copier = Copier::new(fake.registry());
        let error = copier.copy(&from, &to, &ProgressSink::none()).await.unwrap_err();
        assert!(!error.is_not_found() && !error.is_transient(), "{error}");
        let said = error.to_string();
        assert!(said.contains(told) && !said.contains("BLOB_UNKNOWN"), "{said}");
        let puts = fake.asked().into_iter();
        let puts = puts.filter(|asked| asked.method == Method::PUT && asked.path.contains(refused));
        assert_eq!(puts.count(), tries, "{told}");
    }
}

#[tokio::test]
async fn a_manifest_that_goes_from_the_destination_before_its_tag_moves_may_be_tried_later() {
    let (repository, to) = (unique("lies"), fallback_server().await);
    let image = image(&repository).await;
    copy(&primary().await, &fallback().await, &repository, &image).await.unwrap();
    // It shows a manifest whose tags lead elsewhere, and does not serve it.
    let to = Proxy::start(to, |passing| match passing.step() {
        Step::LookForManifest if !passing.path.contains("sha256:") => {
            Fate::Answer(StatusCode::NOT_FOUND, Vec::new())
        }
        Step::ReadManifest => Fate::Answer(StatusCode::NOT_FOUND, Vec::new()),
        _ => Fate::Pass,
    })
    .await;
    let copied = copy(&primary().await, &to.registry(), &repository, &image).await;
    let error = copied.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }) && error.is_transient(), "{error}");
}

fn endless() -> Body {
    const PIECE: &[u8] = &[b' '; 64 * 1024];
    let pieces =
        futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(PIECE)));
    Body::from_stream(pieces)
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        path if path.contains("/refuses/") => answer(StatusCode::BAD_REQUEST, &[], endless()),
        _ => answer(StatusCode::OK, &[("content-type", media_types::OCI_INDEX)], endless()),
    })
    .await;
    let registry = fake.registry();
    let digest = Digest::of(b"content");
    for error in [
        registry.manifest("a", "v1").await.unwrap_err(),
        registry.tags("a").await.unwrap_err(),
        registry.referrers("a", &digest).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::TooLarge { .. }) && !error.is_transient(), "{error}");
    }
    let blob = Descriptor::new("x", digest, 7);
    let error = registry.blob_bytes("a", &blob, 7).await.unwrap_err();
    assert!(error.is_digest_mismatch() && !error.is_transient(), "{error}");
    let error = registry.manifest("refuses", "v1").await.unwrap_err();
    assert!(error.to_string().contains("Bad Request"), "{error}");

    let tokens = Fake::start(|asked| {
        if asked.path.starts_with("/token") {
            return answer(StatusCode::OK, &[], endless());
        }
        let challenge = format!(r#"Bearer realm="http://{}/token""#, asked.host);
        answer(StatusCode::UNAUTHORIZED, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let error = tokens.registry().ping().await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_list_that_never_ends_is_left() {
    for (first, content) in [("empty", r#"{"tags":[]}"#), ("circle", r#"{"tags":["a"]}"#)] {
        let pages = Arc::new(AtomicUsize::new(0));
        let fake = Fake::start(move |asked| {
            if asked.path == "/v2/" {
                return status(StatusCode::OK);
            }
            let page = pages.fetch_add(1, Ordering::SeqCst);
            let page = if first == "circle" { page % 3 } else { page };
            let link = format!("</v2/a/tags/list?page={page}>; rel=\"next\"");
            answer(StatusCode::OK, &[("link", &link)], content)
        })
        .await;
        let error = fake.registry().tags("a").await.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{first}: {error}");
        assert!(fake.asked().len() < 200, "{first}: {}", fake.asked().len());
    }
}

/// A source that serves this manifest, whatever is asked for.
async fn copy_of(manifest: Manifest) -> Result<CopyReport, Error> {
    let digest = manifest.digest;
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => {
            let headers = [("content-type", manifest.media_type.as_str())];
            answer(StatusCode::OK, &headers, manifest.raw.clone())
        }
    })
    .await;
    let from = Source { registry: fake.registry(), repository: "a".to_owned(), digest };
    let to = Target { repository: unique("lies"), ..Target::default() };
    let copier = Copier::new(primary().await);
    let copied = copier.copy(&from, &to, &ProgressSink::none()).await;
    assert_eq!(fake.asked().iter().filter(|asked| asked.path != "/v2/").count(), 1);
    copied
}

#[tokio::test]
async fn an_image_that_names_more_than_any_image_is_not_read() {
    let named = |number: usize| {
        let digest = Digest::of(&number.to_le_bytes());
        Descriptor::new(media_types::OCI_MANIFEST, digest, 100)
    };
    let children: Vec<_> = (0..1_001).map(named).collect();
    let index = json!({"schemaVersion": 2, "manifests": children});
    let index = Manifest::new(index.to_string().into(), media_types::OCI_INDEX);
    let error = copy_of(index).await.unwrap_err();
    assert!(error.to_string().contains("1000 manifests"), "{error}");

    let layers: Vec<_> = (0..10_001).map(named).collect();
    let image = json!({"schemaVersion": 2, "config": named(0), "layers": layers});
    let image = Manifest::new(image.to_string().into(), media_types::OCI_MANIFEST);
    let error = copy_of(image).await.unwrap_err();
    assert!(error.to_string().contains("10000 blobs"), "{error}");
}
