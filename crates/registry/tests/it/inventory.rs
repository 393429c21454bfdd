//! What a real Distribution holds, and how a part of it is deleted.

use axum::http::{Method, StatusCode};
use bytes::Bytes;
use mecapy_registry::{
    Deleted, Deletion, Descriptor, Digest, DistributionInventory, Holds, Inventory, Manifest,
    Registry, StoredManifest, media_types,
};
use mecapy_testkit::unique;
use serde_json::json;

use crate::fake::{Fake, answer, status};
use crate::images::{Family, manifest_of, push, push_index};
use crate::servers::primary;

async fn inventory() -> (Registry, DistributionInventory) {
    let registry = primary().await;
    (registry.clone(), DistributionInventory::new(registry))
}

/// An image that nobody else has.
pub async fn image(registry: &Registry, repository: &str, tags: &[&str]) -> Manifest {
    let content = Bytes::from(unique("content"));
    let image = push(registry, repository, Family::Oci, &[("a", content)]).await;
    for tag in tags {
        registry.put_manifest(repository, tag, &image).await.unwrap();
    }
    image
}

async fn list(inventory: &DistributionInventory, repository: &str) -> Vec<StoredManifest> {
    inventory.manifests(repository, &|_| None).await.unwrap()
}

pub fn find<'a>(all: &'a [StoredManifest], manifest: &Manifest) -> &'a StoredManifest {
    all.iter().find(|stored| stored.digest == manifest.digest).unwrap()
}

pub async fn exists(registry: &Registry, repository: &str, reference: impl ToString) -> bool {
    registry.resolve(repository, &reference.to_string()).await.unwrap().is_some()
}

pub fn whole(digest: Digest, tags: &[&str]) -> Deletion {
    Deletion::Manifest { digest, tags: tags.iter().map(|&tag| tag.to_owned()).collect() }
}

pub fn is_changed(deleted: Deleted, why: &str) -> bool {
    matches!(deleted, Deleted::Changed { reason } if reason.contains(why))
}

/// A report about an image, found by a tag as in the distribution specification's fallback.
pub async fn refer(
    registry: &Registry,
    repository: &str,
    subject: &Manifest,
) -> (Manifest, Manifest) {
    let empty = registry.put_blob(repository, Bytes::from_static(b"{}")).await.unwrap();
    let config = Descriptor::new("application/vnd.oci.empty.v1+json", empty.digest, empty.size);
    let report = json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST,
        "artifactType": "application/sarif+json",
        "config": config, "layers": [config], "subject": subject.descriptor(),
    });
    let report = Manifest::new(report.to_string().into(), media_types::OCI_MANIFEST);
    registry.put_manifest(repository, &report.digest.to_string(), &report).await.unwrap();
    let index = push_index(registry, repository, &[&report]).await;
    let tag = format!("sha256-{}", subject.digest.hex());
    registry.put_manifest(repository, &tag, &index).await.unwrap();
    (report, index)
}

#[tokio::test]
async fn everything_that_tags_lead_to_is_listed_at_any_depth() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let tagged = image(&registry, &repository, &["v1", "latest"]).await;
    let child = image(&registry, &repository, &[]).await;
    let inner = push_index(&registry, &repository, &[&child]).await;
    let outer = push_index(&registry, &repository, &[&inner, &tagged]).await;
    registry.put_manifest(&repository, "all", &outer).await.unwrap();
    let docker = push(&registry, &repository, Family::Docker, &[("d", "docker".into())]).await;
    registry.put_manifest(&repository, "docker", &docker).await.unwrap();
    let (report, reports) = refer(&registry, &repository, &tagged).await;

    let all = list(&inventory, &repository).await;
    assert_eq!(all.len(), 7, "{all:#?}");
    assert_eq!(find(&all, &tagged).tags, ["latest", "v1"]);
    assert_eq!(find(&all, &tagged).size, tagged.raw.len() as u64);
    assert!(find(&all, &child).tags.is_empty());
    assert_eq!(
        find(&all, &outer).holds,
        Holds::Index { children: vec![inner.digest, tagged.digest] }
    );
    assert_eq!(find(&all, &docker).media_type, media_types::DOCKER_MANIFEST);
    assert!(matches!(&find(&all, &docker).holds, Holds::Image { layers, .. } if layers.len() == 1));
    assert_eq!(find(&all, &report).subject, Some(tagged.digest));
    assert_eq!(find(&all, &reports).subject, Some(tagged.digest));
    assert_eq!(find(&all, &tagged).subject, None);

    assert!(inventory.repositories().await.unwrap().contains(&repository));
    assert!(list(&inventory, &unique("unknown")).await.is_empty());
}

#[tokio::test]
async fn what_is_known_is_not_read_again_but_its_tags_are() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let image = image(&registry, &repository, &["v1"]).await;
    let mut known = find(&list(&inventory, &repository).await, &image).clone();
    // A size that no reading would give.
    known.size = 1;
    registry.put_manifest(&repository, "v2", &image).await.unwrap();
    let known = |digest: &Digest| (*digest == known.digest).then(|| known.clone());
    let all = inventory.manifests(&repository, &known).await.unwrap();
    assert_eq!(
        (all[0].size, all[0].tags.as_slice()),
        (1, ["v1".to_owned(), "v2".into()].as_slice())
    );
}

#[tokio::test]
async fn a_manifest_goes_with_the_tags_it_was_planned_with_and_is_gone_once() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let (old, kept) = (
        image(&registry, &repository, &["v1", "old"]).await,
        image(&registry, &repository, &["v2"]).await,
    );
    let deletion = whole(old.digest, &["old", "v1"]);
    assert_eq!(inventory.delete(&repository, &deletion).await.unwrap(), Deleted::Done);
    assert_eq!(inventory.delete(&repository, &deletion).await.unwrap(), Deleted::Absent);
    let all = list(&inventory, &repository).await;
    assert_eq!(all.len(), 1);
    assert_eq!(find(&all, &kept).tags, ["v2"]);
}

#[tokio::test]
async fn a_manifest_whose_tags_are_others_than_planned_stays() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let image = image(&registry, &repository, &["v1"]).await;
    registry.put_manifest(&repository, "v7", &image).await.unwrap();
    let came = inventory.delete(&repository, &whole(image.digest, &["v1"])).await.unwrap();
    assert!(is_changed(came, "`v7` leads to it now"));
    let went =
        inventory.delete(&repository, &whole(image.digest, &["v1", "v7", "v8"])).await.unwrap();
    assert!(is_changed(went, "`v8` no longer"));
    assert!(exists(&registry, &repository, image.digest).await);
}

#[tokio::test]
async fn what_a_tagged_index_needs_stays_until_the_index_is_gone() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let child = image(&registry, &repository, &[]).await;
    let inner = push_index(&registry, &repository, &[&child]).await;
    let outer = push_index(&registry, &repository, &[&inner]).await;
    registry.put_manifest(&repository, "all", &outer).await.unwrap();
    for needed in [&child, &inner] {
        let deleted = inventory.delete(&repository, &whole(needed.digest, &[])).await.unwrap();
        assert!(is_changed(deleted, "`all`"));
        assert!(exists(&registry, &repository, needed.digest).await);
    }
    for (manifest, tags) in [(&outer, ["all"].as_slice()), (&inner, &[]), (&child, &[])] {
        let deleted = inventory.delete(&repository, &whole(manifest.digest, tags)).await.unwrap();
        assert_eq!(deleted, Deleted::Done);
    }
}

#[tokio::test]
async fn one_tag_goes_and_its_siblings_stay() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let image = image(&registry, &repository, &["v1", "v2"]).await;
    let other = self::image(&registry, &repository, &["v3"]).await;
    let tag = |tag: &str| Deletion::Tag { tag: tag.into(), digest: image.digest };
    assert_eq!(inventory.delete(&repository, &tag("v1")).await.unwrap(), Deleted::Done);
    assert_eq!(inventory.delete(&repository, &tag("v1")).await.unwrap(), Deleted::Absent);
    let moved = inventory.delete(&repository, &tag("v3")).await.unwrap();
    assert!(is_changed(moved, &other.digest.to_string()));
    let all = list(&inventory, &repository).await;
    assert_eq!(all.len(), 2, "nothing is left of it: {all:#?}");
    assert_eq!(find(&all, &image).tags, ["v2"]);
    assert_eq!(find(&all, &other).tags, ["v3"]);
}

/// As it is after a kill between the two halves of the removal of a tag.
pub async fn broken_off(registry: &Registry, repository: &str, tag: &str, of: Digest) -> Manifest {
    let index = json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [],
        "annotations": {"org.mecapy.throw-away": of, "org.mecapy.throw-away.nonce": unique("n")},
    });
    let index = Manifest::new(index.to_string().into(), media_types::OCI_INDEX);
    registry.put_manifest(repository, tag, &index).await.unwrap();
    index
}

#[tokio::test]
async fn a_removal_of_a_tag_that_was_broken_off_is_finished_by_the_next_run() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let image = image(&registry, &repository, &["v1", "v2"]).await;

    // By the listing.
    let left = broken_off(&registry, &repository, "v1", image.digest).await;
    let all = list(&inventory, &repository).await;
    assert_eq!(all.len(), 1, "what is left is no image: {all:#?}");
    assert_eq!(find(&all, &image).tags, ["v2"]);
    assert!(!exists(&registry, &repository, left.digest).await);

    // By the same deletion.
    let left = broken_off(&registry, &repository, "v1", image.digest).await;
    let again = Deletion::Tag { tag: "v1".into(), digest: image.digest };
    assert_eq!(inventory.delete(&repository, &again).await.unwrap(), Deleted::Done);
    assert!(!exists(&registry, &repository, left.digest).await);
    assert!(exists(&registry, &repository, "v2").await);
}

#[tokio::test]
async fn what_was_deleted_comes_back_byte_for_byte_with_the_tags_that_are_free() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    let image = image(&registry, &repository, &["v1", "latest"]).await;
    let raw = inventory.raw(&repository, &image.digest).await.unwrap();
    assert_eq!(raw, image);
    inventory.delete(&repository, &whole(image.digest, &["v1", "latest"])).await.unwrap();
    let newer = self::image(&registry, &repository, &["latest"]).await;

    let tags = ["v1".to_owned(), "latest".to_owned()];
    for _ in 0..2 {
        inventory.restore(&repository, &raw, &tags).await.unwrap();
    }
    let all = list(&inventory, &repository).await;
    assert_eq!(find(&all, &image).tags, ["v1"]);
    assert_eq!(find(&all, &newer).tags, ["latest"]);
}

#[tokio::test]
async fn what_has_lost_its_blobs_or_children_does_not_come_back() {
    let (registry, inventory) = inventory().await;
    let repository = unique("inventory");
    image(&registry, &repository, &["v1"]).await;
    let lost = manifest_of(&unique("config").into(), &unique("layer").into());
    let error = inventory.restore(&repository, &lost, &["old".into()]).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("blob"), "{error}");
    let index = json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_INDEX, "manifests": [lost.descriptor()],
    });
    let index = Manifest::new(index.to_string().into(), media_types::OCI_INDEX);
    let error = inventory.restore(&repository, &index, &[]).await.unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("manifest"), "{error}");
    assert!(!exists(&registry, &repository, "old").await);
}

#[tokio::test]
async fn a_tag_stays_on_its_image_where_nothing_can_be_deleted() {
    let image = manifest_of(&"config".into(), &"layer".into());
    let digest = image.digest;
    let fake = Fake::start(move |asked| match (&asked.method, asked.path.as_str()) {
        (_, "/v2/") => status(StatusCode::OK),
        (&Method::DELETE, _) => status(StatusCode::METHOD_NOT_ALLOWED),
        (&Method::PUT, _) => status(StatusCode::CREATED),
        _ => answer(
            StatusCode::OK,
            &[
                ("content-type", media_types::OCI_MANIFEST),
                ("docker-content-digest", &digest.to_string()),
            ],
            image.raw.clone(),
        ),
    })
    .await;
    let inventory = DistributionInventory::new(fake.registry());
    let tag = Deletion::Tag { tag: "v1".into(), digest };
    let deleted = inventory.delete("r", &tag).await.unwrap();
    assert!(matches!(deleted, Deleted::Refused { reason } if reason.contains("storage.delete")));
    let puts = fake.count(Method::PUT, "/v2/r/manifests/v1");
    assert_eq!(puts, 2, "the throw-away manifest, and the image again");
}

/// A registry of these tags, in its own words: each call counts.
async fn told(tags: &[(&str, &Manifest)], referrers: Option<(Digest, &[&Manifest])>) -> Fake {
    let tags: Vec<(String, Manifest)> =
        tags.iter().map(|(tag, manifest)| ((*tag).to_owned(), (*manifest).clone())).collect();
    let referrers = referrers.map(|(subject, all)| {
        (subject, all.iter().map(|&manifest| manifest.clone()).collect::<Vec<_>>())
    });
    Fake::start(move |asked| {
        let path = asked.path.split('?').next().unwrap();
        let reference = path.rsplit('/').next().unwrap();
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        if path.contains("/tags/list") {
            let tags: Vec<&String> = tags.iter().map(|(tag, _)| tag).collect();
            return answer(StatusCode::OK, &[], json!({"name": "r", "tags": tags}).to_string());
        }
        if path.contains("/referrers/") {
            let Some((subject, all)) = &referrers else { return status(StatusCode::NOT_FOUND) };
            let is_its = reference == subject.to_string();
            let all: Vec<_> =
                all.iter().filter(|_| is_its).map(|manifest| manifest.descriptor()).collect();
            let index = json!({"schemaVersion": 2, "manifests": all});
            let headers = [("content-type", media_types::OCI_INDEX)];
            return answer(StatusCode::OK, &headers, index.to_string());
        }
        let all = referrers.iter().flat_map(|(_, all)| all);
        let all = tags.iter().map(|(_, manifest)| manifest).chain(all);
        let by_tag = tags.iter().find(|(tag, _)| tag == reference).map(|(_, manifest)| manifest);
        let found =
            by_tag.or_else(|| all.into_iter().find(|it| it.digest.to_string() == reference));
        match (&asked.method, found) {
            (_, None) => status(StatusCode::NOT_FOUND),
            (&Method::DELETE, Some(_)) => status(StatusCode::ACCEPTED),
            (_, Some(found)) => answer(
                StatusCode::OK,
                &[
                    ("content-type", &found.media_type),
                    ("docker-content-digest", &found.digest.to_string()),
                ],
                found.raw.clone(),
            ),
        }
    })
    .await
}

fn referring(subject: &Manifest, content: &str) -> Manifest {
    let config = Descriptor::new(media_types::OCI_CONFIG, Digest::of(content.as_bytes()), 2);
    let report = json!({
        "schemaVersion": 2, "mediaType": media_types::OCI_MANIFEST,
        "config": config, "layers": [], "subject": subject.descriptor(),
    });
    Manifest::new(report.to_string().into(), media_types::OCI_MANIFEST)
}

#[tokio::test]
async fn referrers_that_only_the_registry_tells_of_are_listed() {
    let image = manifest_of(&"config".into(), &"layer".into());
    let (report, signature) = (referring(&image, "report"), referring(&image, "signature"));
    let fake = told(&[("v1", &image)], Some((image.digest, &[&report, &signature]))).await;
    let inventory = DistributionInventory::new(fake.registry());
    let all = list(&inventory, "r").await;
    assert_eq!(all.len(), 3, "{all:#?}");
    for referrer in [&report, &signature] {
        assert_eq!(find(&all, referrer).subject, Some(image.digest));
        assert!(find(&all, referrer).tags.is_empty());
    }

    // Where there is no such API, that is asked once.
    let fake = told(&[("v1", &image), ("v2", &report)], None).await;
    let inventory = DistributionInventory::new(fake.registry());
    for _ in 0..3 {
        assert_eq!(list(&inventory, "r").await.len(), 2);
    }
    let asked = fake.asked().iter().filter(|asked| asked.path.contains("/referrers/")).count();
    assert!(asked <= 2, "the first wave may ask at once: {asked}");
}

#[tokio::test]
async fn of_many_tags_only_those_that_may_lead_to_it_are_asked_again() {
    let old = manifest_of(&"old".into(), &"layer".into());
    let others: Vec<Manifest> =
        (0..50).map(|n| manifest_of(&format!("config {n}").into(), &"layer".into())).collect();
    let names: Vec<String> = (0..50).map(|n| format!("v{n}")).collect();
    let mut tags: Vec<(&str, &Manifest)> = names.iter().map(String::as_str).zip(&others).collect();
    tags.push(("old", &old));
    let elsewhere = |tag: &str| names.iter().any(|name| name == tag);
    let deletion = whole(old.digest, &["old"]);

    let fake = told(&tags, None).await;
    let inventory = DistributionInventory::new(fake.registry());
    let deleted = inventory.delete_beside("r", &deletion, &elsewhere).await.unwrap();
    assert_eq!(deleted, Deleted::Done);
    let calls = fake.asked().iter().filter(|asked| asked.path != "/v2/").count();
    assert_eq!(calls, 3, "the list, the tag that leads to it, the deletion");

    // One that came since is asked, and keeps it.
    tags.push(("newer", &old));
    let fake = told(&tags, None).await;
    let inventory = DistributionInventory::new(fake.registry());
    let deleted = inventory.delete_beside("r", &deletion, &elsewhere).await.unwrap();
    assert!(is_changed(deleted, "`newer` leads to it now"));
}

#[tokio::test]
async fn a_first_run_reads_each_tag_once_and_later_ones_only_look() {
    const TAGS: usize = 60;
    let image = |n: usize| manifest_of(&format!("config {n}").into(), &"layer".into());
    let fake = Fake::start(move |asked| {
        let path = asked.path.as_str();
        if path == "/v2/" {
            return status(StatusCode::OK);
        }
        if path.contains("/tags/list") {
            let tags: Vec<String> = (0..TAGS).map(|n| format!("t{n}")).collect();
            return answer(StatusCode::OK, &[], json!({"name": "r", "tags": tags}).to_string());
        }
        let reference = path.rsplit('/').next().unwrap();
        let found = (0..TAGS)
            .find(|n| reference == format!("t{n}") || reference == image(*n).digest.to_string());
        let found = image(found.unwrap());
        let headers = [
            ("content-type", media_types::OCI_MANIFEST),
            ("docker-content-digest", &found.digest.to_string()),
        ];
        answer(StatusCode::OK, &headers, found.raw)
    })
    .await;
    let inventory = DistributionInventory::new(fake.registry());
    let asked = |method: Method| {
        let of = |path: &str| path.contains("/manifests/");
        fake.asked().iter().filter(|asked| asked.method == method && of(&asked.path)).count()
    };
    let first = list(&inventory, "r").await;
    assert_eq!(first.len(), TAGS);
    assert_eq!(asked(Method::GET), TAGS);
    assert!(asked(Method::HEAD) < TAGS / 2, "{} tags were asked twice", asked(Method::HEAD));

    let known = |digest: &Digest| first.iter().find(|stored| stored.digest == *digest).cloned();
    let again = async || inventory.manifests("r", &known).await.unwrap();
    assert_eq!(again().await.len(), TAGS);
    let before = asked(Method::GET);
    assert_eq!(again().await.len(), TAGS);
    assert_eq!(asked(Method::GET), before, "what is known is not read");
}
