//! GitHub's Packages API as it is documented, served over HTTP from what a real registry holds.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use mecapy_registry::{
    Deleted, Deletion, Digest, GhcrOptions, Inventory, InventoryOptions, Manifest, Options,
    Registry,
};
use mecapy_service::Secret;
use mecapy_testkit::unique;
use serde_json::json;

use crate::fake::{Fake, status};
use crate::images::push_index;
use crate::inventory::{broken_off, exists, find, image, is_changed, whole};
use crate::inventory_api::{self as api, Api, Asked, message};
use crate::proxy::{Fate, Proxy, Step};
use crate::servers::{options, primary, primary_server};

const TOKEN: &str = "ghp_secret";

struct Ghcr {
    server: Server,
    api: Api,
    inventory: Box<dyn Inventory>,
}

/// Ids are places in this list.
#[derive(Clone)]
struct Version {
    repository: String,
    digest: Digest,
    /// What is needed to restore it.
    deleted: Option<(Manifest, Vec<String>)>,
}

#[derive(Clone)]
struct Server {
    registry: Registry,
    owner: String,
    versions: Arc<Mutex<Vec<Version>>>,
    popular: Arc<Mutex<HashSet<Digest>>>,
    /// So many of the next calls meet the secondary limit.
    limited: Arc<AtomicUsize>,
    /// The token may not delete: GitHub doesn't say so.
    hides: Arc<AtomicBool>,
    /// `orgs` or `users`.
    owners: &'static str,
    /// Another host that the links to more pages name.
    elsewhere: Arc<Mutex<Option<String>>>,
}

impl Ghcr {
    async fn start() -> Self {
        Self::of("orgs", options(primary_server().await)).await
    }

    /// `registry` is how the inventory reaches it.
    async fn of(owners: &'static str, registry: Options) -> Self {
        let server = Server {
            registry: primary().await,
            owner: unique("org"),
            versions: Arc::default(),
            popular: Arc::default(),
            limited: Arc::default(),
            hides: Arc::default(),
            owners,
            elsewhere: Arc::default(),
        };
        let answering = server.clone();
        let api = Api::start(move |asked| {
            let server = answering.clone();
            async move { server.answer(asked).await }
        })
        .await;
        let options = Options {
            inventory: Some(InventoryOptions::Ghcr(GhcrOptions {
                owner: server.owner.clone(),
                is_user: owners == "users",
                token: Secret::new(TOKEN),
                api: Some(api.url.clone()),
            })),
            ..registry
        };
        let inventory = options.inventory().unwrap();
        Self { server, api, inventory }
    }

    fn registry(&self) -> &Registry {
        &self.server.registry
    }

    /// Its name has a slash, as our repositories' have.
    fn repository(&self) -> String {
        format!("{}/functions/f", self.server.owner)
    }
}

const MAX_PER_PAGE: usize = 2;

impl Server {
    async fn answer(&self, asked: Asked) -> Response {
        if asked
            .headers
            .get(header::AUTHORIZATION)
            .is_none_or(|it| it != &format!("Bearer {TOKEN}"))
        {
            return message(StatusCode::UNAUTHORIZED, "Bad credentials");
        }
        if self
            .limited
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            let mut limited =
                message(StatusCode::FORBIDDEN, "You have exceeded a secondary rate limit.");
            limited.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return limited;
        }
        let path = asked.path();
        assert_eq!(path[..3], [self.owners, self.owner.as_str(), "packages"]);
        match (asked.method.clone(), &path[3..]) {
            (Method::GET, []) => {
                assert_eq!(asked.query("package_type"), Some("container"));
                let prefix = format!("{}/", self.owner);
                let packages = self.registry.catalog().await.unwrap();
                let packages = packages.iter().filter_map(|name| name.strip_prefix(&prefix));
                let packages = packages
                    .map(|name| json!({"id": 1, "name": name, "package_type": "container"}));
                self.page(&asked, packages.collect())
            }
            (Method::GET, ["container", package, "versions"]) => {
                self.list(&asked, &format!("{}/{package}", self.owner)).await
            }
            (Method::DELETE, ["container", package, "versions", id]) => {
                self.delete(&format!("{}/{package}", self.owner), id.parse().unwrap()).await
            }
            (Method::POST, ["container", _, "versions", id, "restore"]) => {
                self.restore(id.parse().unwrap()).await
            }
            other => panic!("{other:?} is not in the documentation"),
        }
    }

    fn pushed(&self, repository: &str, digest: Digest) {
        let mut versions = self.versions.lock().unwrap();
        if !versions.iter().any(|it| it.repository == repository && it.digest == digest) {
            versions.push(Version { repository: repository.into(), digest, deleted: None });
        }
    }

    async fn tags(&self, repository: &str) -> Vec<(String, Digest)> {
        let mut tags = Vec::new();
        for tag in self.registry.tags(repository).await.unwrap_or_default() {
            if let Some(lead) = self.registry.resolve(repository, &tag).await.unwrap() {
                self.pushed(repository, lead.digest);
                tags.push((tag, lead.digest));
            }
        }
        tags
    }

    async fn list(&self, asked: &Asked, repository: &str) -> Response {
        let is_deleted = asked.query("state") == Some("deleted");
        let tags = self.tags(repository).await;
        let versions = self.versions.lock().unwrap().clone();
        let versions = versions.iter().enumerate().filter(|(_, version)| {
            version.repository == repository && version.deleted.is_some() == is_deleted
        });
        let versions = versions.map(|(id, version)| {
            let its = tags.iter().filter(|(_, digest)| *digest == version.digest);
            let its: Vec<_> = its.map(|(tag, _)| tag).collect();
            json!({
                "id": id, "name": version.digest,
                "created_at": "2025-10-01T00:00:00Z", "updated_at": "2025-10-02T00:00:00Z",
                "metadata": {"package_type": "container", "container": {"tags": its}},
            })
        });
        self.page(asked, versions.collect())
    }

    fn page(&self, asked: &Asked, all: Vec<serde_json::Value>) -> Response {
        let host = self.elsewhere.lock().unwrap().as_ref().map(|host| format!("http://{host}"));
        page(asked, all, &host.unwrap_or_default())
    }

    async fn delete(&self, repository: &str, id: usize) -> Response {
        let version = self.versions.lock().unwrap().get(id).cloned();
        let Some(version) = version
            .filter(|version| version.deleted.is_none() && !self.hides.load(Ordering::SeqCst))
        else {
            return message(StatusCode::NOT_FOUND, "Package not found.");
        };
        let tags = self.tags(repository).await;
        let (its, others): (Vec<_>, Vec<_>) =
            tags.into_iter().partition(|(_, digest)| *digest == version.digest);
        if !its.is_empty() && others.is_empty() {
            let refusal = "You cannot delete the last tagged version of a package. You must delete the package instead.";
            return message(StatusCode::BAD_REQUEST, refusal);
        }
        if self.popular.lock().unwrap().contains(&version.digest) {
            let refusal = "Publicly visible package versions with more than 5000 downloads cannot be deleted.";
            return message(StatusCode::BAD_REQUEST, refusal);
        }
        let manifest =
            self.registry.manifest(repository, &version.digest.to_string()).await.unwrap();
        self.registry.delete_manifest(repository, &version.digest).await.unwrap();
        let tags = its.into_iter().map(|(tag, _)| tag).collect();
        self.versions.lock().unwrap()[id].deleted = Some((manifest, tags));
        api::json(StatusCode::NO_CONTENT, json!(null))
    }

    async fn restore(&self, id: usize) -> Response {
        let version = self.versions.lock().unwrap()[id].clone();
        let (manifest, tags) = version.deleted.unwrap();
        let digest = manifest.digest.to_string();
        self.registry.put_manifest(&version.repository, &digest, &manifest).await.unwrap();
        for tag in tags {
            self.registry.put_manifest(&version.repository, &tag, &manifest).await.unwrap();
        }
        self.versions.lock().unwrap()[id].deleted = None;
        api::json(StatusCode::NO_CONTENT, json!(null))
    }
}

fn page(asked: &Asked, all: Vec<serde_json::Value>, host: &str) -> Response {
    let number: usize = asked.query("page").map_or(1, |page| page.parse().unwrap());
    let per_page: usize = asked.query("per_page").unwrap().parse().unwrap();
    assert!(per_page <= 100);
    let per_page = per_page.min(MAX_PER_PAGE);
    let last = all.len().div_ceil(per_page);
    let items: Vec<_> = all.into_iter().skip((number - 1) * per_page).take(per_page).collect();
    let mut response = api::json(StatusCode::OK, json!(items));
    if number < last {
        let mut query: Vec<_> = asked.query.iter().filter(|(key, _)| key != "page").collect();
        let next = ("page".to_owned(), (number + 1).to_string());
        query.push(&next);
        let query: Vec<_> = query.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let path = asked.segments.iter().map(|it| it.replace('/', "%2F")).collect::<Vec<_>>();
        let link = format!(
            r#"<{host}/{0}?{1}>; rel="next", <{host}/{0}?page={last}>; rel="last""#,
            path.join("/"),
            query.join("&")
        );
        response.headers_mut().insert(header::LINK, link.parse().unwrap());
    }
    response
}

#[tokio::test]
async fn packages_and_versions_are_listed_over_all_pages_with_those_that_have_no_tag() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    for name in ["a", "b"] {
        let other = format!("{}/{name}", ghcr.server.owner);
        image(ghcr.registry(), &other, &["v1"]).await;
    }
    let tagged = image(ghcr.registry(), &repository, &["v1", "latest"]).await;
    let child = image(ghcr.registry(), &repository, &[]).await;
    let index = push_index(ghcr.registry(), &repository, &[&child]).await;
    ghcr.registry().put_manifest(&repository, "all", &index).await.unwrap();
    let dangling = image(ghcr.registry(), &repository, &[]).await;
    ghcr.server.pushed(&repository, dangling.digest);

    let repositories = ghcr.inventory.repositories().await.unwrap();
    assert_eq!(repositories.len(), 3);
    assert!(repositories.contains(&repository), "{repositories:?}");
    let all = ghcr.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(all.len(), 4);
    assert_eq!(find(&all, &tagged).tags, ["latest", "v1"]);
    assert!(find(&all, &dangling).tags.is_empty());
    assert_eq!(find(&all, &dangling).pushed_at.unwrap().to_rfc3339(), "2025-10-02T00:00:00+00:00");
    assert!(find(&all, &child).tags.is_empty());
}

#[tokio::test]
async fn a_version_goes_with_the_tags_it_was_planned_with_and_comes_back() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    let old = image(ghcr.registry(), &repository, &["v1", "old"]).await;
    image(ghcr.registry(), &repository, &["v2"]).await;
    let delete = async |tags: &[&str]| {
        ghcr.inventory.delete(&repository, &whole(old.digest, tags)).await.unwrap()
    };
    assert!(is_changed(delete(&["v1"]).await, "`old` leads to it now"));
    assert_eq!(delete(&["v1", "old"]).await, Deleted::Done);
    assert_eq!(delete(&["v1", "old"]).await, Deleted::Absent);
    assert!(!exists(ghcr.registry(), &repository, old.digest).await);

    let tags = ["v1".to_owned(), "old".into()];
    ghcr.inventory.restore(&repository, &old, &tags).await.unwrap();
    let all = ghcr.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(find(&all, &old).tags, ["old", "v1"]);
    assert_eq!(ghcr.api.count(&Method::POST), 1, "by GitHub");
}

#[tokio::test]
async fn what_github_does_not_delete_is_refused_with_its_reason() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    let last = image(ghcr.registry(), &repository, &["v1"]).await;
    let delete = async |digest, tags: &[&str]| {
        ghcr.inventory.delete(&repository, &whole(digest, tags)).await.unwrap()
    };
    let refused = delete(last.digest, &["v1"]).await;
    assert!(matches!(refused, Deleted::Refused { reason } if reason.contains("last tagged")));
    assert_eq!(ghcr.api.count(&Method::DELETE), 0, "nobody had to ask");

    let popular = image(ghcr.registry(), &repository, &["v2"]).await;
    ghcr.server.popular.lock().unwrap().insert(popular.digest);
    let refused = delete(popular.digest, &["v2"]).await;
    assert!(matches!(refused, Deleted::Refused { reason } if reason.contains("5000 downloads")));

    let index = push_index(ghcr.registry(), &repository, &[&popular]).await;
    ghcr.registry().put_manifest(&repository, "all", &index).await.unwrap();
    assert!(is_changed(delete(popular.digest, &["v2"]).await, "`all`"));
}

#[tokio::test]
async fn a_404_of_what_is_listed_still_is_no_deletion() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    let old = image(ghcr.registry(), &repository, &["v1", "v2"]).await;
    image(ghcr.registry(), &repository, &["v3"]).await;
    ghcr.server.hides.store(true, Ordering::SeqCst);
    let tag = Deletion::Tag { tag: "v2".into(), digest: old.digest };
    for deletion in [whole(old.digest, &["v1", "v2"]), tag] {
        let deleted = ghcr.inventory.delete(&repository, &deletion).await.unwrap();
        assert!(
            matches!(&deleted, Deleted::Refused { reason } if reason.contains("right to delete")),
            "{deleted:?}"
        );
    }
    let all = ghcr.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!(find(&all, &old).tags, ["v1", "v2"], "and it is as it was");
}

#[tokio::test]
async fn one_tag_goes_and_its_siblings_stay_and_what_was_broken_off_is_finished() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    let shared = image(ghcr.registry(), &repository, &["v1", "v2"]).await;
    let tag = Deletion::Tag { tag: "v1".into(), digest: shared.digest };
    assert_eq!(ghcr.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Done);
    assert_eq!(ghcr.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Absent);
    assert!(exists(ghcr.registry(), &repository, "v2").await);
    broken_off(ghcr.registry(), &repository, "v1", shared.digest).await;
    assert_eq!(ghcr.inventory.manifests(&repository, &|_| None).await.unwrap().len(), 1);
    assert!(!exists(ghcr.registry(), &repository, "v1").await);
    broken_off(ghcr.registry(), &repository, "v1", shared.digest).await;
    assert_eq!(ghcr.inventory.delete(&repository, &tag).await.unwrap(), Deleted::Done);
    assert!(exists(ghcr.registry(), &repository, shared.digest).await);
}

#[tokio::test]
async fn the_secondary_limit_is_waited_for_as_long_as_it_says() {
    let ghcr = Ghcr::start().await;
    let repository = ghcr.repository();
    image(ghcr.registry(), &repository, &["v1"]).await;
    ghcr.server.limited.store(1, Ordering::SeqCst);
    let began = std::time::Instant::now();
    let repositories = ghcr.inventory.repositories().await.unwrap();
    assert_eq!(repositories, [repository]);
    assert!(began.elapsed() >= std::time::Duration::from_secs(1));
    assert_eq!(ghcr.api.asked().len(), 2);
}

#[tokio::test]
async fn a_token_does_not_follow_a_page_to_another_host() {
    let ghcr = Ghcr::start().await;
    for name in ["a", "b", "c"] {
        image(ghcr.registry(), &format!("{}/{name}", ghcr.server.owner), &["v1"]).await;
    }
    let other = Fake::start(|_| status(StatusCode::OK)).await;
    *ghcr.server.elsewhere.lock().unwrap() = Some(other.host.clone());
    let error = ghcr.inventory.repositories().await.unwrap_err();
    assert!(error.to_string().contains("leads elsewhere"), "{error}");
    assert!(other.asked().is_empty());
}

#[tokio::test]
async fn a_users_packages_are_read_once_and_the_registry_is_asked_to_delete_nothing() {
    let proxy = Proxy::start(primary_server().await, |_| Fate::Pass).await;
    let ghcr = Ghcr::of("users", proxy.options()).await;
    let repository = ghcr.repository();
    let old = image(ghcr.registry(), &repository, &["v1", "v2"]).await;
    image(ghcr.registry(), &repository, &["v3"]).await;
    let all = ghcr.inventory.manifests(&repository, &|_| None).await.unwrap();
    assert_eq!((all.len(), proxy.passed(Step::ReadManifest).len()), (2, 2));
    // Each read of a manifest counts as a download.
    let known = |digest: &Digest| all.iter().find(|stored| stored.digest == *digest).cloned();
    assert_eq!(ghcr.inventory.manifests(&repository, &known).await.unwrap(), all);
    assert_eq!(proxy.passed(Step::ReadManifest).len(), 2);

    let tag = Deletion::Tag { tag: "v2".into(), digest: old.digest };
    for deletion in [tag, whole(old.digest, &["v1"])] {
        let deleted = ghcr.inventory.delete(&repository, &deletion).await.unwrap();
        assert_eq!(deleted, Deleted::Done);
    }
    assert_eq!(ghcr.api.count(&Method::DELETE), 2);
    let others = proxy.passed(Step::Other);
    assert!(others.iter().all(|passing| passing.method != Method::DELETE), "{others:?}");
}
