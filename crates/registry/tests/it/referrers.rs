//! What refers to an image, in a registry that lists nothing by itself, and in one that does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use mecapy_registry::{
    Artifact, Content, Copier, CopyReport, Digest, Manifest, MissingReferrers, ProgressSink,
    Referrer, Registry, Source, Target, media_types, referrers_tag,
};
use mecapy_testkit::unique;
use serde_json::json;

use crate::fake::{Fake, answer, status};
use crate::images::{Family, noise, push, push_index};
use crate::inventory::refer;
use crate::proxy::{Fate, Proxy, Step};
use crate::servers::{fallback, primary, primary_server};

fn artifact(kind: &str, content: &str) -> Artifact {
    Artifact {
        artifact_type: format!("application/vnd.{kind}+json"),
        file_name: format!("{kind}.json"),
        content: Bytes::from(content.to_owned()),
        annotations: BTreeMap::from([("org.example.kind".to_owned(), kind.to_owned())]),
    }
}

async fn image(registry: &Registry, repository: &str) -> Manifest {
    let image =
        push(registry, repository, Family::Docker, &[("a", noise(repository, 20_000))]).await;
    registry.put_manifest(repository, "v1", &image).await.unwrap();
    image
}

async fn attach(
    registry: &Registry,
    repository: &str,
    image: &Manifest,
    artifacts: &[Artifact],
) -> Vec<Referrer> {
    let put = registry.put_artifacts(repository, &image.descriptor(), artifacts).await.unwrap();
    registry.list_referrers(repository, &image.digest, &put).await.unwrap();
    put
}

/// Brings what is missing to where the copier copies, and lists it there.
async fn bring(copier: &Copier, from: &Source, missing: Vec<MissingReferrers>) -> CopyReport {
    let mut all = CopyReport { is_unchanged: true, ..CopyReport::default() };
    for MissingReferrers { subject, referrers } in missing {
        let repository = &from.repository;
        let (report, brought) = copier.bring_referrers(from, repository, referrers).await.unwrap();
        copier.registry().list_referrers(repository, &subject, &brought).await.unwrap();
        all.bytes_sent += report.bytes_sent;
        all.is_unchanged &= report.is_unchanged;
    }
    all
}

async fn list(registry: &Registry, repository: &str, image: &Manifest) -> Vec<Referrer> {
    registry.referrers(repository, &image.digest).await.unwrap()
}

#[tokio::test]
async fn what_is_attached_is_found_by_its_subject_and_again_changes_nothing() {
    let (registry, repository) = (primary().await, unique("refer"));
    let image = image(&registry, &repository).await;
    assert!(list(&registry, &repository, &image).await.is_empty());
    let artifacts = [artifact("sbom", "{\"packages\":[]}"), artifact("report", "{\"found\":0}")];
    let put = attach(&registry, &repository, &image, &artifacts).await;
    assert_eq!(list(&registry, &repository, &image).await, put);
    assert_eq!(put[0].artifact_type.as_deref(), Some("application/vnd.sbom+json"));
    assert_eq!(put[0].annotations["org.example.kind"], "sbom");

    // As somebody pulls it who knows the specification and nothing of us.
    let tag = format!("sha256-{}", image.digest.hex());
    let index = registry.manifest(&repository, &tag).await.unwrap();
    let Content::Index { manifests } = index.parse().unwrap() else { panic!("no index") };
    let sbom = registry.manifest(&repository, &manifests[0].digest.to_string()).await.unwrap();
    let read: serde_json::Value = serde_json::from_slice(&sbom.raw).unwrap();
    assert_eq!(read["subject"], json!(image.descriptor()));
    let Content::Image { layers, .. } = sbom.parse().unwrap() else { panic!("no manifest") };
    let content = registry.blob_bytes(&repository, &layers[0], 1_000).await.unwrap();
    assert_eq!(content, "{\"packages\":[]}");

    assert_eq!(attach(&registry, &repository, &image, &artifacts).await, put);
    assert_eq!(registry.manifest(&repository, &tag).await.unwrap(), index);
}

#[tokio::test]
async fn what_others_attached_stays_listed() {
    let (registry, repository) = (primary().await, unique("refer"));
    let image = image(&registry, &repository).await;
    let (theirs, _) = refer(&registry, &repository, &image).await;
    let put = attach(&registry, &repository, &image, &[artifact("sbom", "{}")]).await;
    let listed = list(&registry, &repository, &image).await;
    assert_eq!(
        listed.iter().map(|one| one.digest).collect::<Vec<_>>(),
        [theirs.digest, put[0].digest]
    );
}

#[tokio::test]
async fn a_list_that_somebody_wrote_over_is_written_again() {
    let (real, repository) = (primary().await, unique("refer"));
    let image = image(&real, &repository).await;
    let tag = referrers_tag(&image.digest);
    // The first time, the list is gone again as soon as it is written.
    let of_tag = tag.clone();
    let proxy = Proxy::start(primary_server().await, move |passing| {
        let is_list = passing.step() == Step::PutManifest && passing.path.ends_with(&of_tag);
        // The artifact's own manifest is the one before.
        if is_list && passing.before == 1 {
            return Fate::Answer(StatusCode::CREATED, Vec::new());
        }
        Fate::Pass
    })
    .await;
    let put = attach(&proxy.registry(), &repository, &image, &[artifact("sbom", "{}")]).await;
    assert_eq!(list(&real, &repository, &image).await, put);
}

#[tokio::test]
async fn a_registry_that_lists_referrers_itself_gets_no_tag() {
    let subject = Digest::of(b"subject");
    let entry = |name: &str| {
        json!({
            "mediaType": media_types::OCI_MANIFEST, "digest": Digest::of(name.as_bytes()), "size": 3,
            "artifactType": "application/x",
        })
    };
    let page = |entries: &[serde_json::Value]| {
        json!({"schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": entries})
            .to_string()
    };
    let (first, second) = (page(&[entry("a")]), page(&[entry("b")]));
    let path = format!("/v2/r/referrers/{subject}");
    let more = format!("{path}?page=2");
    let fake = Fake::start({
        let (path, more) = (path.clone(), more.clone());
        move |asked| match asked.path.as_str() {
            "/v2/" => status(StatusCode::OK),
            asked if asked == path => {
                let link = format!("<{more}>; rel=\"next\"");
                let headers = [("content-type", media_types::OCI_INDEX), ("link", &link)];
                answer(StatusCode::OK, &headers, first.clone())
            }
            asked if asked == more => {
                let headers = [("content-type", media_types::OCI_INDEX)];
                answer(StatusCode::OK, &headers, second.clone())
            }
            _ => status(StatusCode::NOT_FOUND),
        }
    })
    .await;
    let registry = fake.registry();
    let listed = registry.referrers("r", &subject).await.unwrap();
    assert_eq!(listed.len(), 2);
    registry.list_referrers("r", &subject, &listed).await.unwrap();
    assert!(fake.asked().iter().all(|asked| asked.method == Method::GET), "nothing is written");
}

#[tokio::test]
async fn no_answer_for_a_subject_that_is_not_there_says_nothing_of_the_registry() {
    let subject = Digest::of(b"subject");
    let path = format!("/v2/r/referrers/{subject}");
    let is_there = Arc::new(AtomicBool::new(false));
    let fake = Fake::start({
        let (path, is_there) = (path.clone(), Arc::clone(&is_there));
        move |asked| {
            let list =
                json!({"schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": []});
            match asked.path.as_str() {
                "/v2/" => status(StatusCode::OK),
                asked if asked == path && is_there.load(Ordering::Relaxed) => {
                    let headers = [("content-type", media_types::OCI_INDEX)];
                    answer(StatusCode::OK, &headers, list.to_string())
                }
                _ => status(StatusCode::NOT_FOUND),
            }
        }
    })
    .await;
    let registry = fake.registry();
    assert!(registry.referrers("r", &subject).await.unwrap().is_empty());
    is_there.store(true, Ordering::Relaxed);
    assert!(registry.referrers("r", &subject).await.unwrap().is_empty());
    assert_eq!(fake.asked().iter().filter(|asked| asked.path == path).count(), 2);
}

#[tokio::test]
async fn one_that_does_not_is_asked_once_whether_it_does() {
    let (repository, real) = (unique("refer"), primary().await);
    let image = image(&real, &repository).await;
    let proxy = Proxy::start(primary_server().await, |_| Fate::Pass).await;
    let registry = proxy.registry();
    for _ in 0..3 {
        assert!(list(&registry, &repository, &image).await.is_empty());
    }
    assert_eq!(proxy.passed(Step::Other).len(), 1);
}

#[tokio::test]
async fn referrers_go_with_an_image_and_once_they_are_there_they_are_not_missing() {
    let (from, to, repository) = (primary().await, fallback().await, unique("refer"));
    let image = image(&from, &repository).await;
    let artifacts = [artifact("sbom", "{}"), artifact("report", "{\"found\":0}")];
    let put = attach(&from, &repository, &image, &artifacts).await;
    let copier = Copier::new(to.clone());
    let source =
        Source { registry: from.clone(), repository: repository.clone(), digest: image.digest };
    let target =
        Target { repository: repository.clone(), tags: vec!["v1".into()], mount_from: Vec::new() };
    copier.copy(&source, &target, &ProgressSink::none()).await.unwrap();
    let missing = copier.missing_referrers(&source, &repository).await.unwrap();
    assert_eq!(missing, [MissingReferrers { subject: image.digest, referrers: put.clone() }]);
    // There, somebody has signed it already.
    let (theirs, _) = refer(&to, &repository, &image).await;
    let report = bring(&copier, &source, missing).await;
    assert!(report.bytes_sent > 0 && !report.is_unchanged);
    let listed: Vec<_> =
        list(&to, &repository, &image).await.iter().map(|one| one.digest).collect();
    assert_eq!(listed, [theirs.digest, put[0].digest, put[1].digest]);
    for one in &put {
        let reference = one.digest.to_string();
        let there = to.manifest(&repository, &reference).await.unwrap();
        assert_eq!(there, from.manifest(&repository, &reference).await.unwrap());
    }
    assert!(copier.missing_referrers(&source, &repository).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_referrer_that_is_listed_and_gone_keeps_no_other_from_going() {
    let (from, to, repository) = (primary().await, fallback().await, unique("refer"));
    let image = image(&from, &repository).await;
    let gone = attach(&from, &repository, &image, &[artifact("gone", "{\"a\":1}")]).await;
    let kept = attach(&from, &repository, &image, &[artifact("kept", "{\"b\":1}")]).await;
    assert!(from.delete_manifest(&repository, &gone[0].digest).await.unwrap());
    let copier = Copier::new(to.clone());
    let source =
        Source { registry: from.clone(), repository: repository.clone(), digest: image.digest };
    copier.bring_image(&source, &repository, &ProgressSink::none()).await.unwrap();
    let missing = copier.missing_referrers(&source, &repository).await.unwrap();
    bring(&copier, &source, missing).await;
    assert_eq!(list(&to, &repository, &image).await, kept);
}

#[tokio::test]
async fn what_refers_to_a_referrer_goes_too() {
    let (from, to, repository) = (primary().await, fallback().await, unique("refer"));
    let image = image(&from, &repository).await;
    let proxy = Proxy::start(primary_server().await, |_| Fate::Pass).await;
    let copier = Copier::new(to.clone());
    let source =
        Source { registry: proxy.registry(), repository: repository.clone(), digest: image.digest };
    copier.bring_image(&source, &repository, &ProgressSink::none()).await.unwrap();
    // Where nothing refers to an image, its list is all that is asked for. The first time it is also asked for by an
    // API that this registry has not got.
    assert!(copier.missing_referrers(&source, &repository).await.unwrap().is_empty());
    let before = proxy.all();
    assert!(copier.missing_referrers(&source, &repository).await.unwrap().is_empty());
    assert_eq!(proxy.all() - before, 1);

    // An SBOM, its signature, and that one's timestamp.
    let mut subjects = vec![image];
    for kind in ["sbom", "signature", "timestamp"] {
        let subject = subjects.last().unwrap();
        let put = attach(&from, &repository, subject, &[artifact(kind, &unique(kind))]).await;
        let put = from.manifest(&repository, &put[0].digest.to_string()).await.unwrap();
        subjects.push(put);
    }
    let missing = copier.missing_referrers(&source, &repository).await.unwrap();
    let of: Vec<_> = missing.iter().map(|missing| missing.subject).collect();
    let expected: Vec<_> = subjects[..3].iter().map(|subject| subject.digest).collect();
    assert_eq!(of, expected);
    bring(&copier, &source, missing).await;
    for pair in subjects.windows(2) {
        let listed = list(&to, &repository, &pair[0]).await;
        assert_eq!(listed.iter().map(|one| one.digest).collect::<Vec<_>>(), [pair[1].digest]);
        let there = to.manifest(&repository, &pair[1].digest.to_string()).await.unwrap();
        assert_eq!(there, pair[1]);
    }
    assert!(copier.missing_referrers(&source, &repository).await.unwrap().is_empty());

    // What comes later to one that is there already.
    let late = attach(&from, &repository, &subjects[1], &[artifact("late", "{}")]).await;
    let missing = copier.missing_referrers(&source, &repository).await.unwrap();
    let subject = subjects[1].digest;
    assert_eq!(missing, [MissingReferrers { subject, referrers: late }]);
}

/// What is missing at `to` of what a registry lists: of each number, what `referrers` makes of it. And how often it was
/// asked.
async fn missing_of(
    referrers: impl Fn(usize) -> Vec<usize> + Clone + Send + Sync + 'static,
) -> (usize, Vec<MissingReferrers>) {
    let digest = |number: usize| format!("sha256:{number:064x}");
    let fake = Fake::start(move |asked| {
        let Some((repository, subject)) = asked.path.split_once("/referrers/sha256:") else {
            return status(StatusCode::OK);
        };
        let number = usize::from_str_radix(subject, 16).unwrap();
        let listed = if repository.ends_with("/to") { Vec::new() } else { referrers(number) };
        let entry = |number| {
            json!({"mediaType": media_types::OCI_MANIFEST, "digest": digest(number), "size": 3})
        };
        let listed: Vec<_> = listed.into_iter().map(entry).collect();
        let list =
            json!({"schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": listed});
        let headers = [("content-type", media_types::OCI_INDEX)];
        answer(StatusCode::OK, &headers, list.to_string())
    })
    .await;
    let (registry, digest) = (fake.registry(), digest(0).parse().unwrap());
    let source = Source { registry: registry.clone(), repository: "from".to_owned(), digest };
    let missing = Copier::new(registry).missing_referrers(&source, "to").await.unwrap();
    let asked = fake.asked();
    (asked.iter().filter(|asked| asked.path.starts_with("/v2/from/")).count(), missing)
}

#[tokio::test]
async fn lists_that_lead_to_one_another_or_on_and_on_come_to_an_end() {
    let (asked, missing) = missing_of(|number| vec![(number + 1) % 3, number]).await;
    assert_eq!((asked, missing.len()), (3, 3));
    let (asked, missing) = missing_of(|number| vec![number + 1]).await;
    assert_eq!((asked, missing.len()), (8, 8));
    // All that refers to the image itself is brought all the same.
    let (asked, missing) = missing_of(|number| vec![number + 1; 1_000]).await;
    assert_eq!((asked, missing[0].referrers.len()), (8, 1_000));
    let (asked, missing) = missing_of(|_| (1..=1_000).collect()).await;
    assert_eq!((asked, missing[0].referrers.len()), (256, 1_000));
    // The newest are followed.
    assert!(missing[1].subject.to_string().ends_with(&format!("{:x}", 1_000 - 254)));
}

#[tokio::test]
async fn an_index_of_images_has_referrers_like_an_image() {
    let (registry, repository) = (primary().await, unique("refer"));
    let image = image(&registry, &repository).await;
    let index = push_index(&registry, &repository, &[&image]).await;
    let put = attach(&registry, &repository, &index, &[artifact("sbom", "{}")]).await;
    assert_eq!(list(&registry, &repository, &index).await, put);
    assert!(list(&registry, &repository, &image).await.is_empty());
}
