use std::sync::{Arc, Mutex};

use axum::http::StatusCode;
use bytes::Bytes;
use mecapy_registry::{
    Copier, CopyReport, Destination, Digest, Error, Manifest, Progress, ProgressSink, Registry,
    Source, Target, copy_image, media_types,
};
use mecapy_testkit::unique;

use crate::fake::{Fake, answer, cut, status};
use crate::images::{Family, blob_path, manifest_of, noise, push, push_index, push_list};
use crate::proxy::{Fate, Proxy, Step};
use crate::servers::{fallback, fallback_server, primary, primary_server};

fn source(registry: &Registry, repository: &str, manifest: &Manifest) -> Source {
    let digest = manifest.digest;
    Source { registry: registry.clone(), repository: repository.to_owned(), digest }
}

fn destination(registry: &Registry, repository: &str, tags: &[&str]) -> Destination {
    Destination {
        registry: registry.clone(),
        repository: repository.to_owned(),
        tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
    }
}

async fn copy(from: &Source, to: &Destination) -> Result<CopyReport, Error> {
    // As services run it: in a task of its own.
    let (from, to) = (from.clone(), to.clone());
    tokio::spawn(async move { copy_image(&from, &to, &ProgressSink::none()).await }).await.unwrap()
}

#[tokio::test]
async fn an_image_keeps_its_bytes_from_registry_to_registry() {
    let (from, to) = (primary().await, fallback().await);
    for family in [Family::Oci, Family::Docker] {
        let repository = unique("copy");
        let files = [
            ("large", noise(&repository, 5_000_000)),
            ("small", noise("small", 100)),
            ("twin", noise("twin", 100)),
        ];
        let image = push(&from, &repository, family, &files).await;
        let seen = Arc::new(Mutex::new(Vec::<Progress>::new()));
        let sink = ProgressSink::new({
            let seen = seen.clone();
            move |progress| seen.lock().unwrap().push(progress)
        });
        let to = destination(&to, &repository, &["v1", "latest"]);
        let report = copy_image(&source(&from, &repository, &image), &to, &sink).await.unwrap();

        let size = image.size_bytes().unwrap();
        assert_eq!((report.bytes_sent, report.blobs), (size, 4));
        assert_eq!((report.bytes_mounted, report.bytes_skipped), (0, 0));
        assert!(!report.is_unchanged);
        for reference in ["v1", "latest", &image.digest.to_string()] {
            assert_eq!(to.registry.manifest(&repository, reference).await.unwrap(), image);
        }
        let seen = seen.lock().unwrap();
        let end = Progress { bytes_done: size, bytes_total: size, blobs_done: 4, blobs_total: 4 };
        assert_eq!(seen.last(), Some(&end));
        assert_eq!(seen.first(), Some(&Progress { bytes_done: 0, blobs_done: 0, ..end }));
    }
}

#[tokio::test]
async fn a_second_copy_sends_nothing_and_a_new_tag_only_the_tag() {
    let (from, to) = (primary().await, fallback().await);
    let repository = unique("copy");
    let image = push(&from, &repository, Family::Oci, &[("a", noise(&repository, 10_000))]).await;
    let from = source(&from, &repository, &image);
    let once = destination(&to, &repository, &["v1"]);
    copy(&from, &once).await.unwrap();
    let again = copy(&from, &once).await.unwrap();
    assert_eq!(again, CopyReport { is_unchanged: true, ..CopyReport::default() });

    let tagged = copy(&from, &destination(&to, &repository, &["v1", "v2"])).await.unwrap();
    assert_eq!(tagged, CopyReport::default());
    assert_eq!(to.manifest(&repository, "v2").await.unwrap(), image);
}

#[tokio::test]
async fn what_the_destination_has_is_skipped() {
    let (from, to) = (primary().await, fallback().await);
    let repository = unique("copy");
    let base = ("base", noise(&repository, 50_000));
    let old = push(&from, &repository, Family::Oci, std::slice::from_ref(&base)).await;
    let new = push(&from, &repository, Family::Oci, &[base, ("code", noise("code", 100))]).await;
    let to = destination(&to, &repository, &["latest"]);
    let first = copy(&source(&from, &repository, &old), &to).await.unwrap();
    let second = copy(&source(&from, &repository, &new), &to).await.unwrap();
    assert!(second.bytes_skipped > 10 * second.bytes_sent, "{second:?}");
    assert_eq!(second.bytes_sent + second.bytes_skipped, new.size_bytes().unwrap());
    assert_eq!(first.bytes_sent, old.size_bytes().unwrap());
    assert_eq!(to.registry.manifest(&repository, "latest").await.unwrap(), new);
}

#[tokio::test]
async fn within_a_registry_everything_is_mounted() {
    let registry = primary().await;
    let (from, to) = (unique("staging"), unique("functions"));
    let image = push(&registry, &from, Family::Docker, &[("a", noise(&from, 100_000))]).await;
    let report = copy(&source(&registry, &from, &image), &destination(&registry, &to, &["v1"]))
        .await
        .unwrap();
    assert_eq!((report.bytes_sent, report.bytes_skipped), (0, 0));
    assert_eq!(report.bytes_mounted, image.size_bytes().unwrap());
    assert_eq!(registry.manifest(&to, "v1").await.unwrap(), image);
    // In the same repository only the tag is new.
    let retag = destination(&registry, &from, &["released"]);
    copy(&source(&registry, &from, &image), &retag).await.unwrap();
    assert_eq!(registry.manifest(&from, "released").await.unwrap(), image);
}

#[tokio::test]
async fn an_index_comes_with_its_children_and_a_lost_child_is_brought_back() {
    let (from, to) = (primary().await, fallback().await);
    let repository = unique("copy");
    let shared = ("shared", noise(&repository, 50_000));
    let one = push(&from, &repository, Family::Oci, &[shared.clone(), ("a", "a".into())]).await;
    let two = push(&from, &repository, Family::Oci, &[shared, ("b", "b".into())]).await;
    let index = push_index(&from, &repository, &[&one, &two]).await;
    let from = source(&from, &repository, &index);
    let to = destination(&to, &repository, &["latest"]);
    let report = copy(&from, &to).await.unwrap();
    // Two configs, two layers of their own, one shared.
    assert_eq!(report.blobs, 5);
    for image in [&one, &two, &index] {
        let there = to.registry.manifest(&repository, &image.digest.to_string()).await.unwrap();
        assert_eq!(&there, image);
    }
    // Registries let the child of a live index be deleted.
    to.registry.delete_manifest(&repository, &one.digest).await.unwrap();
    let repaired = copy(&from, &to).await.unwrap();
    assert!(!repaired.is_unchanged);
    // What is small is not looked for.
    assert!(repaired.bytes_sent < 2_000, "{repaired:?}");
    let there = to.registry.manifest(&repository, &one.digest.to_string()).await.unwrap();
    assert_eq!(there, one);
    assert!(copy(&from, &to).await.unwrap().bytes_sent == 0);
}

#[tokio::test]
async fn a_list_of_schema_2_images_is_copied_like_an_index() {
    let (from, to, repository) = (primary().await, fallback().await, unique("copy"));
    let layers = [("a", noise(&repository, 1_000))];
    let image = push(&from, &repository, Family::Docker, &layers).await;
    let list = push_list(&from, &repository, media_types::DOCKER_LIST, &[&image]).await;
    let target = destination(&to, &repository, &["latest"]);
    let report = copy(&source(&from, &repository, &list), &target).await.unwrap();
    assert_eq!((report.blobs, report.bytes_sent), (2, image.size_bytes().unwrap()));
    assert_eq!(to.manifest(&repository, "latest").await.unwrap(), list);
    assert_eq!(to.manifest(&repository, &image.digest.to_string()).await.unwrap(), image);
}

/// A source that serves an image, whose one layer comes as `layer` makes it.
async fn faulty_source(
    name: &str,
    layer: impl Fn(&Bytes, usize) -> axum::response::Response + Clone + Send + Sync + 'static,
) -> (Fake, Manifest, Bytes) {
    let content = noise(name, 1_000_000);
    let config = Bytes::from("{}");
    let image = manifest_of(&config, &content);
    let raw = image.clone();
    let served = content.clone();
    let layer_path = blob_path(name, &content);
    let fake = Fake::start(move |asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        path if path.contains("/manifests/") => {
            answer(StatusCode::OK, &[("content-type", &raw.media_type)], raw.raw.clone())
        }
        path if path == layer_path => layer(&served, asked.before),
        _ => answer(StatusCode::OK, &[], config.clone()),
    })
    .await;
    (fake, image, content)
}

/// One bit off.
fn spoilt(content: &Bytes) -> Bytes {
    let mut spoilt = content.to_vec();
    spoilt[10] ^= 1;
    spoilt.into()
}

#[tokio::test]
async fn a_wrong_blob_is_never_committed() {
    let repository = unique("copy");
    let (fake, image, content) =
        faulty_source(&repository, |content, _| answer(StatusCode::OK, &[], spoilt(content))).await;
    let to = destination(&primary().await, &repository, &["v1"]);
    let error = copy(&source(&fake.registry(), &repository, &image), &to).await.unwrap_err();
    assert!(error.is_digest_mismatch(), "{error}");
    for content in [&content, &spoilt(&content)] {
        let digest = Digest::of(content);
        assert!(!to.registry.blob_exists(&repository, &digest).await.unwrap());
    }
    assert_eq!(to.registry.resolve(&repository, "v1").await.unwrap(), None);
}

#[tokio::test]
async fn a_source_cut_in_the_middle_is_read_again() {
    let repository = unique("copy");
    let (fake, image, content) = faulty_source(&repository, |content, before| match before {
        0 => cut(content, 300_000),
        _ => answer(StatusCode::OK, &[], content.clone()),
    })
    .await;
    let to = destination(&primary().await, &repository, &["v1"]);
    let seen = Arc::new(Mutex::new(Progress::default()));
    let sink = ProgressSink::new({
        let seen = seen.clone();
        move |progress| *seen.lock().unwrap() = progress
    });
    let from = source(&fake.registry(), &repository, &image);
    let report = copy_image(&from, &to, &sink).await.unwrap();
    assert_eq!(report.bytes_sent, content.len() as u64 + 2);
    // What was read in vain is not counted.
    assert_eq!(seen.lock().unwrap().bytes_done, report.bytes_sent);
    assert_eq!(to.registry.manifest(&repository, "v1").await.unwrap(), image);
}

#[tokio::test]
async fn an_unknown_image_is_not_found_and_makes_no_tag() {
    let (from, to) = (primary().await, fallback().await);
    let repository = unique("copy");
    let never_pushed = manifest_of(&Bytes::from("{}"), &noise(&repository, 10));
    let to = destination(&to, &repository, &["v1"]);
    let error = copy(&source(&from, &repository, &never_pushed), &to).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(to.registry.resolve(&repository, "v1").await.unwrap(), None);
}

#[tokio::test]
async fn a_new_layer_of_code_alone_costs_few_calls() {
    let real = primary().await;
    let repository = unique("copy");
    let base = ("base", noise(&repository, 100_000));
    let code = |text: &str| ("code", Bytes::from(format!("{text} {repository}")));
    let old = push(&real, &repository, Family::Oci, &[base.clone(), code("old")]).await;
    let new = push(&real, &repository, Family::Oci, &[base, code("new")]).await;
    let from = Proxy::start(primary_server().await, |_| Fate::Pass).await;
    let to = Proxy::start(fallback_server().await, |_| Fate::Pass).await;
    // As long as a publisher lives.
    let copier = Copier::new(to.registry());
    let source = |image| source(&from.registry(), &repository, image);
    let steps = [
        Step::LookForManifest,
        Step::LookForBlob,
        Step::StartUpload,
        Step::PutBlob,
        Step::PutManifest,
        Step::ReadManifest,
    ];
    let asked = || {
        let of_source = [Step::ReadManifest, Step::ReadBlob].map(|step| from.passed(step).len());
        (of_source, steps.map(|step| to.passed(step).len()))
    };
    copier.bring_image(&source(&old), &repository, &ProgressSink::none()).await.unwrap();
    let before = asked();
    let brought =
        copier.bring_image(&source(&new), &repository, &ProgressSink::none()).await.unwrap();
    let after = asked();
    assert_eq!(brought.manifest, new);
    assert!(brought.report.bytes_sent < 2_000, "{:?}", brought.report);
    // Config and code; what is below is known to be there.
    assert_eq!([0, 1].map(|at| after.0[at] - before.0[at]), [1, 2]);
    assert_eq!([0, 1, 2, 3, 4, 5].map(|at| after.1[at] - before.1[at]), [0, 0, 2, 2, 1, 1]);
}

#[tokio::test]
async fn an_image_that_was_brought_and_is_gone_from_its_source_is_there() {
    let (from, to, repository) = (primary().await, fallback().await, unique("copy"));
    let image = push(&from, &repository, Family::Oci, &[("a", noise(&repository, 10_000))]).await;
    let lost = push(&from, &repository, Family::Oci, &[("b", "b".into())]).await;
    let copier = Copier::new(to);
    let bring = async |image: &Manifest| {
        let from = source(&from, &repository, image);
        copier.bring_image(&from, &repository, &ProgressSink::none()).await
    };
    let first = bring(&image).await.unwrap();
    assert_eq!(first.report.bytes_sent, image.size_bytes().unwrap());
    // Again, it is put again, and what is not small is not sent.
    let again = bring(&image).await.unwrap();
    assert_eq!((again.report.bytes_sent, &again.manifest), (0, &image));
    for gone in [&image, &lost] {
        from.delete_manifest(&repository, &gone.digest).await.unwrap();
    }
    assert_eq!(bring(&image).await.unwrap().manifest, image);
    assert!(bring(&lost).await.unwrap_err().is_not_found());
}

/// A destination with one image, and where its tags lead. It knows conditional calls.
async fn conditional(image: Manifest, tags: &'static [(&'static str, bool)]) -> Fake {
    Fake::start(move |asked| {
        let Some((_, reference)) = asked.path.split_once("/manifests/") else {
            return status(StatusCode::OK);
        };
        let digest = match tags.iter().find(|(tag, _)| *tag == reference) {
            Some((_, true)) => image.digest,
            Some((_, false)) => Digest::of(b"another"),
            None => return status(StatusCode::NOT_FOUND),
        };
        let digest = digest.to_string();
        if asked.if_none_match == Some(format!("\"{digest}\"")) {
            return status(StatusCode::NOT_MODIFIED);
        }
        let length = image.raw.len().to_string();
        let headers = [
            ("content-type", image.media_type.as_str()),
            ("docker-content-digest", &digest),
            ("content-length", &length),
        ];
        answer(StatusCode::OK, &headers, Bytes::new())
    })
    .await
}

#[tokio::test]
async fn an_unchanged_image_is_looked_at_by_one_tag_and_the_others_only_for_where_they_lead() {
    let image = manifest_of(&Bytes::from("{}"), &noise("conditional", 10));
    let from = source(&primary().await, "r", &image);
    let is_unchanged = async |fake: &Fake, tags: &[&str]| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let to = Target { repository: "r".to_owned(), tags, mount_from: Vec::new() };
        Copier::new(fake.registry()).is_unchanged(&from, &to).await.unwrap()
    };
    let fake = conditional(image.clone(), &[("v1", true), ("latest", true), ("old", false)]).await;
    assert!(is_unchanged(&fake, &["v1", "latest"]).await);
    let asked = |tag: &str| {
        let path = format!("/v2/r/manifests/{tag}");
        fake.asked().into_iter().find(|asked| asked.path == path).unwrap().if_none_match
    };
    assert_eq!(asked("v1"), None, "the manifest itself is looked at");
    assert_eq!(asked("latest"), Some(format!("\"{}\"", image.digest)));
    for tags in [["old", "v1"], ["v1", "old"], ["none", "v1"], ["v1", "none"]] {
        assert!(!is_unchanged(&fake, &tags).await, "{tags:?}");
    }
}

#[tokio::test]
async fn nothing_is_unchanged_that_was_not_asked_for_as_such() {
    let image = manifest_of(&Bytes::from("{}"), &noise("not modified", 10));
    let fake = Fake::start(|asked| match asked.path.as_str() {
        "/v2/" => status(StatusCode::OK),
        _ => status(StatusCode::NOT_MODIFIED),
    })
    .await;
    let registry = fake.registry();
    let digest = image.digest.to_string();
    assert!(registry.resolve("r", &digest).await.is_err());
    assert!(registry.manifest("r", &digest).await.is_err());
    assert!(registry.put_manifest("r", "v1", &image).await.is_err());
    assert!(registry.blob_exists("r", &image.digest).await.is_err());
}
