//! Scaleway's API as it is documented, served over HTTP from what a real registry holds.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{Method, StatusCode};
use axum::response::Response;
use mecapy_registry::{
    Deleted, Deletion, Digest, Error, Inventory, InventoryOptions, Options, Registry,
    ScalewayOptions,
};
use mecapy_service::Secret;
use mecapy_testkit::unique;
use serde_json::{Value, json};

use crate::images::push_index;
use crate::inventory::{broken_off, exists, find, image, is_changed, whole};
use crate::inventory_api::{self as api, Api, Asked, message};
use crate::servers::{options, primary, primary_server};

const SECRET: &str = "scw-secret";

struct Scaleway {
    registry: Registry,
    namespace: String,
    api: Api,
    inventory: Box<dyn Inventory>,
    /// So many of the next calls fail.
    failing: Arc<AtomicUsize>,
    /// So many of the next pages tell another total.
    wobbling: Arc<AtomicUsize>,
    /// A tag that can't be deleted.
    refused: Arc<Mutex<Option<String>>>,
}

impl Scaleway {
    async fn start() -> Self {
        let (registry, namespace) = (primary().await, unique("ns"));
        let (failing, wobbling) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let refused = Arc::new(Mutex::new(None));
        let server = Server {
            registry: registry.clone(),
            namespace: namespace.clone(),
            failing: failing.clone(),
            wobbling: wobbling.clone(),
            refused: refused.clone(),
        };
        let api = Api::start(move |asked| {
            let server = server.clone();
            async move { server.answer(asked).await }
        })
        .await;
        let options = Options {
            inventory: Some(InventoryOptions::Scaleway(ScalewayOptions {
                region: "fr-par".into(),
                namespace: namespace.clone(),
                secret_key: Secret::new(SECRET),
                api: Some(api.url.clone()),
            })),
            ..options(primary_server().await)
        };
        let inventory = options.inventory().unwrap();
        Self { registry, namespace, api, inventory, failing, wobbling, refused }
    }

    fn repository(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }
}

#[derive(Clone)]
struct Server {
    registry: Registry,
    namespace: String,
    failing: Arc<AtomicUsize>,
    wobbling: Arc<AtomicUsize>,
    refused: Arc<Mutex<Option<String>>>,
}

/// The real one gives a hundred: here a few images have pages.
const MAX_PAGE_SIZE: usize = 2;

impl Server {
    async fn answer(&self, asked: Asked) -> Response {
        if asked.headers.get("x-auth-token").is_none_or(|token| token != SECRET) {
            return message(StatusCode::FORBIDDEN, "authentication is denied");
        }
        assert!(!asked.headers.contains_key("authorization"), "the registry's password");
        if let Some(left) = take(&self.failing) {
            return match left % 3 {
                0 => message(StatusCode::TOO_MANY_REQUESTS, "too many requests"),
                1 => message(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
                _ => message(StatusCode::SERVICE_UNAVAILABLE, "maintenance"),
            };
        }
        let path = asked.path();
        assert_eq!(path[..4], ["registry", "v1", "regions", "fr-par"]);
        match (asked.method.clone(), &path[4..]) {
            (Method::GET, ["namespaces"]) => {
                let all = vec![json!({"id": "namespace-id", "name": self.namespace})];
                self.page(&asked, "namespaces", all)
            }
            (Method::GET, ["images"]) => {
                assert_eq!(asked.query("namespace_id"), Some("namespace-id"));
                let mut images = Vec::new();
                for repository in self.registry.catalog().await.unwrap() {
                    let Some(name) = repository.strip_prefix(&format!("{}/", self.namespace))
                    else {
                        continue;
                    };
                    if asked.query("name").is_none_or(|only| only == name) {
                        images.push(json!({"id": id(&repository), "name": name, "size": 5}));
                    }
                }
                self.page(&asked, "images", images)
            }
            (Method::GET, ["images", image, "tags"]) => {
                let repository = name(image);
                let mut tags = Vec::new();
                for (tag, digest) in self.tags(&repository).await {
                    tags.push(json!({
                        "id": id(&format!("{repository}:{tag}")), "name": tag, "image_id": image,
                        "status": "ready", "digest": digest,
                        "created_at": "2025-10-01T00:00:00Z", "updated_at": "2025-10-02T00:00:00Z",
                    }));
                }
                self.page(&asked, "tags", tags)
            }
            (Method::DELETE, ["tags", tag]) => {
                assert_eq!(asked.query("force"), None, "never");
                let full = name(tag);
                let (repository, tag) = full.rsplit_once(':').unwrap();
                self.delete(repository, tag).await
            }
            other => panic!("{other:?} is not in the documentation"),
        }
    }

    fn page(&self, asked: &Asked, what: &str, all: Vec<Value>) -> Response {
        let number: usize = asked.query("page").unwrap().parse().unwrap();
        let size: usize = asked.query("page_size").unwrap().parse().unwrap();
        assert!(size <= 100);
        let size = size.min(MAX_PAGE_SIZE);
        let total = all.len() + usize::from(take(&self.wobbling).is_some());
        let items: Vec<Value> = all.into_iter().skip((number - 1) * size).take(size).collect();
        api::json(StatusCode::OK, json!({ what: items, "total_count": total }))
    }

    async fn tags(&self, repository: &str) -> Vec<(String, Digest)> {
        let mut tags = Vec::new();
        for tag in self.registry.tags(repository).await.unwrap_or_default() {
            if let Some(lead) = self.registry.resolve(repository, &tag).await.unwrap() {
                tags.push((tag, lead.digest));
            }
        }
        tags
    }

    async fn delete(&self, repository: &str, tag: &str) -> Response {
        let tags = self.tags(repository).await;
        let Some((_, digest)) = tags.iter().find(|(name, _)| name == tag) else {
            return message(StatusCode::NOT_FOUND, "resource is not found");
        };
        if self.refused.lock().unwrap().as_deref() == Some(tag) {
            return message(StatusCode::CONFLICT, "the tag is locked");
        }
        if tags.iter().any(|(name, other)| name != tag && other == digest) {
            return message(StatusCode::BAD_REQUEST, "several tags share this digest");
        }
        self.registry.delete_manifest(repository, digest).await.unwrap();
        api::json(StatusCode::OK, json!({"name": tag, "status": "deleting"}))
    }
}

/// What is left, if there was something.
fn take(count: &AtomicUsize) -> Option<usize> {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).ok()
}

fn id(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn name(id: &str) -> String {
    let bytes = (0..id.len()).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap());
    String::from_utf8(bytes.collect()).unwrap()
}

#[tokio::test]
async fn a_namespace_is_listed_over_all_its_pages() {
    let scaleway = Scaleway::start().await;
    let repositories: Vec<String> =
        ["a", "b", "functions/c"].map(|name| scaleway.repository(name)).into();
    for repository in &repositories {
        image(&scaleway.registry, repository, &["v1"]).await;
    }
    let listed = image(&scaleway.registry, &repositories[2], &["v2", "v3", "latest"]).await;
    let child = image(&scaleway.registry, &repositories[2], &[]).await;
    let index = push_index(&scaleway.registry, &repositories[2], &[&child]).await;
    scaleway.registry.put_manifest(&repositories[2], "all", &index).await.unwrap();

    assert_eq!(scaleway.inventory.repositories().await.unwrap(), repositories);
    let all = scaleway.inventory.manifests(&repositories[2], &|_| None).await.unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(find(&all, &listed).tags, ["latest", "v2", "v3"]);
    assert_eq!(
        find(&all, &listed).pushed_at.unwrap().to_rfc3339(),
        "2025-10-02T00:00:00+00:00",
        "as young as its youngest tag"
    );
    assert!(find(&all, &child).tags.is_empty());
    let unknown = scaleway.inventory.manifests(&scaleway.repository("x"), &|_| None).await;
    assert!(unknown.unwrap().is_empty());
}

#[tokio::test]
async fn a_digest_that_tags_share_goes_without_force() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    let shared = image(&scaleway.registry, &repository, &["v1", "v2", "latest"]).await;
    let kept = image(&scaleway.registry, &repository, &["v3"]).await;
    let delete = async |tags: &[&str]| {
        scaleway.inventory.delete(&repository, &whole(shared.digest, tags)).await.unwrap()
    };
    assert!(is_changed(delete(&["v1", "v2"]).await, "`latest` leads to it now"));
    assert_eq!(scaleway.api.count(&Method::DELETE), 0);
    assert_eq!(delete(&["v1", "v2", "latest"]).await, Deleted::Done);
    assert_eq!(scaleway.api.count(&Method::DELETE), 3);
    assert!(!exists(&scaleway.registry, &repository, shared.digest).await);
    assert_eq!(delete(&["v1", "v2", "latest"]).await, Deleted::Absent);
    let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all.len(), 1, "nothing is left of it: {all:#?}");
    assert_eq!(find(&all, &kept).tags, ["v3"]);
}

#[tokio::test]
async fn an_image_that_can_not_go_keeps_all_its_tags() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    let shared = image(&scaleway.registry, &repository, &["v1", "v2", "latest"]).await;
    for refused in ["latest", "v1", "v2"] {
        *scaleway.refused.lock().unwrap() = Some(refused.to_owned());
        let deletion = whole(shared.digest, &["v1", "v2", "latest"]);
        let deleted = scaleway.inventory.delete(&repository, &deletion).await.unwrap();
        assert!(
            matches!(&deleted, Deleted::Refused { reason } if reason.contains("locked")),
            "{deleted:?}"
        );
        let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
        assert_eq!(all.len(), 1, "{refused}: {all:#?}");
        assert_eq!(find(&all, &shared).tags, ["latest", "v1", "v2"], "{refused}");
        let tag = Deletion::Tag { tag: refused.to_owned(), digest: shared.digest };
        let deleted = scaleway.inventory.delete(&repository, &tag).await.unwrap();
        assert!(matches!(deleted, Deleted::Refused { .. }), "{deleted:?}");
        assert!(exists(&scaleway.registry, &repository, refused).await);
    }
}

#[tokio::test]
async fn a_deletion_that_was_broken_off_between_two_tags_goes_on() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    let shared = image(&scaleway.registry, &repository, &["v1", "v2", "latest"]).await;
    let kept = image(&scaleway.registry, &repository, &["v3"]).await;
    let tag = Deletion::Tag { tag: "v2".into(), digest: shared.digest };
    assert_eq!(scaleway.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Done);
    broken_off(&scaleway.registry, &repository, "v1", shared.digest).await;
    let deletion = whole(shared.digest, &["v1", "v2", "latest"]);
    let deleted = scaleway.inventory.delete(&repository, &deletion).await.unwrap();
    assert_eq!(deleted, Deleted::Done);
    let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all.len(), 1, "nothing is left of it: {all:#?}");

    // A tag that somebody has put elsewhere is no broken deletion.
    let moved = whole(kept.digest, &["v3", "v4"]);
    image(&scaleway.registry, &repository, &["v4"]).await;
    let deleted = scaleway.inventory.delete(&repository, &moved).await.unwrap();
    assert!(is_changed(deleted, "`v4` no longer"));
    assert!(exists(&scaleway.registry, &repository, "v3").await);
}

#[tokio::test]
async fn one_tag_goes_and_its_siblings_stay_and_what_was_broken_off_is_finished() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    let shared = image(&scaleway.registry, &repository, &["v1", "v2"]).await;
    let tag = Deletion::Tag { tag: "v1".into(), digest: shared.digest };
    assert_eq!(scaleway.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Done);
    assert_eq!(scaleway.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Absent);
    assert!(exists(&scaleway.registry, &repository, "v2").await);

    broken_off(&scaleway.registry, &repository, "v1", shared.digest).await;
    let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all.len(), 1);
    assert!(!exists(&scaleway.registry, &repository, "v1").await);
    broken_off(&scaleway.registry, &repository, "v1", shared.digest).await;
    assert_eq!(scaleway.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Done);
    assert!(exists(&scaleway.registry, &repository, shared.digest).await);
}

#[tokio::test]
async fn what_an_index_needs_stays_and_what_has_no_tag_is_refused() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    let child = image(&scaleway.registry, &repository, &["v1"]).await;
    let untagged = image(&scaleway.registry, &repository, &[]).await;
    let index = push_index(&scaleway.registry, &repository, &[&child, &untagged]).await;
    scaleway.registry.put_manifest(&repository, "all", &index).await.unwrap();
    let delete = async |digest, tags: &[&str]| {
        scaleway.inventory.delete(&repository, &whole(digest, tags)).await.unwrap()
    };
    assert!(is_changed(delete(child.digest, &["v1"]).await, "`all`"));
    let refused = delete(untagged.digest, &[]).await;
    assert!(matches!(refused, Deleted::Refused { reason } if reason.contains("no tag")));
    assert_eq!(scaleway.api.count(&Method::DELETE), 0);
}

#[tokio::test]
async fn calls_that_fail_for_now_are_made_again_and_those_with_a_wrong_key_are_not() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    image(&scaleway.registry, &repository, &["v1"]).await;
    scaleway.inventory.repositories().await.unwrap();
    scaleway.failing.store(3, Ordering::SeqCst);
    let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all.len(), 1);

    let wrong = Options {
        inventory: Some(InventoryOptions::Scaleway(ScalewayOptions {
            region: "fr-par".into(),
            namespace: scaleway.namespace.clone(),
            secret_key: Secret::new("wrong"),
            api: Some(scaleway.api.url.clone()),
        })),
        ..options(primary_server().await)
    };
    let before = scaleway.api.asked().len();
    let error = wrong.inventory().unwrap().repositories().await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{error}");
    assert_eq!(scaleway.api.asked().len(), before + 1);
    assert!(!format!("{error:?}").contains("wrong"));
}

#[tokio::test]
async fn a_list_that_changes_while_it_is_read_is_read_again_and_not_for_ever() {
    let scaleway = Scaleway::start().await;
    let repository = scaleway.repository("f");
    image(&scaleway.registry, &repository, &["v1", "v2", "v3"]).await;
    scaleway.inventory.repositories().await.unwrap();
    // Both pages, and the one that would hold what is not there.
    scaleway.wobbling.store(3, Ordering::SeqCst);
    let all = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all[0].tags, ["v1", "v2", "v3"]);

    scaleway.wobbling.store(usize::MAX, Ordering::SeqCst);
    let before = scaleway.api.asked().len();
    let error = scaleway.inventory.manifests(&repository, &|_| None).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
    assert_eq!(scaleway.api.asked().len() - before, 3 * 3);
}
