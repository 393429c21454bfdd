//! Scaleway's Container Registry, by its REST API.
//!
//! It knows tags and their digests, and deletes by tag alone. A tag whose digest has another tag is refused; its
//! `force` is deprecated, may take the newest tags along, and is never used. So siblings are told apart first, each by
//! a manifest of its own put on the tag. What was deleted can't come back but by being pushed again.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_service::Secret;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;
use url::Url;

use super::reader::{Reader, Root, Tagged};
use super::rest::Rest;
use super::{Deleted, Elsewhere, Inventory, Known, StoredManifest, is_under_way, throw_away};
use crate::{Digest, Error, Manifest, Options, Registry, ScalewayOptions};

const API: &str = "https://api.scaleway.com";
/// The most that a page may have.
const PAGE_SIZE: &str = "100";
const MAX_PAGES: u32 = 10_000;
/// A list that changes while its pages are read is read again, so often.
const MAX_READS: u32 = 3;
/// The API learns of a push a little later than the registry.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The images of one namespace.
#[derive(Clone)]
pub struct ScalewayInventory {
    reader: Reader,
    rest: Rest,
    region: String,
    namespace: String,
    namespace_id: Arc<OnceCell<String>>,
    /// Ids of images, by repository.
    images: Arc<Mutex<HashMap<String, String>>>,
}

#[derive(Deserialize)]
struct Namespace {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Image {
    id: String,
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Tag {
    id: String,
    name: String,
    #[serde(default)]
    status: String,
    digest: Digest,
    updated_at: Option<DateTime<Utc>>,
}

/// A page of any of the lists.
trait Page: DeserializeOwned {
    type Item;
    fn parts(self) -> (Vec<Self::Item>, usize);
}

macro_rules! page {
    ($page:ident, $items:ident, $item:ident) => {
        #[derive(Deserialize)]
        struct $page {
            $items: Vec<$item>,
            total_count: usize,
        }

        impl Page for $page {
            type Item = $item;

            fn parts(self) -> (Vec<$item>, usize) {
                (self.$items, self.total_count)
            }
        }
    };
}

page!(Namespaces, namespaces, Namespace);
page!(Images, images, Image);
page!(Tags, tags, Tag);

impl ScalewayInventory {
    pub(crate) fn new(
        registry: Registry,
        options: &Options,
        scaleway: &ScalewayOptions,
    ) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::Options {
            host: options.host.clone(),
            reason: format!("inventory: {reason}"),
        };
        let base = match &scaleway.api {
            Some(api) => api.clone(),
            None => Url::parse(API).map_err(|error| invalid(&error.to_string()))?,
        };
        let headers = headers(&scaleway.secret_key)
            .ok_or_else(|| invalid("secret_key has characters that no header can have"))?;
        Ok(Self {
            rest: Rest::new(registry.clone(), options, base, headers)?,
            reader: Reader::new(registry),
            region: scaleway.region.clone(),
            namespace: scaleway.namespace.clone(),
            namespace_id: Arc::default(),
            images: Arc::default(),
        })
    }

    fn path<'a>(&'a self, end: &[&'a str]) -> Vec<&'a str> {
        [&["registry", "v1", "regions", self.region.as_str()], end].concat()
    }

    /// All pages of a list. Pages are counted by place: one that misses or repeats something is read again.
    async fn list<P: Page>(
        &self,
        subject: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<P::Item>, Error> {
        for _ in 0..MAX_READS {
            let mut all = Vec::new();
            let mut expected = 0;
            for page in 1..=MAX_PAGES {
                let number = page.to_string();
                let paging = [("page", number.as_str()), ("page_size", PAGE_SIZE)];
                let url = self.rest.url(path, &[query, &paging].concat())?;
                let (items, total) = self.rest.get::<P>(subject, &url).await?.0.parts();
                expected = total;
                let is_empty = items.is_empty();
                all.extend(items);
                if is_empty || all.len() >= total {
                    break;
                }
            }
            if all.len() == expected {
                return Ok(all);
            }
        }
        Err(self.rest.nonsense(subject, "its pages do not add up to its total"))
    }

    async fn namespace_id(&self) -> Result<&str, Error> {
        let find = async || {
            let subject = format!("namespace {}", self.namespace);
            let query = [("name", self.namespace.as_str())];
            let found =
                self.list::<Namespaces>(&subject, &self.path(&["namespaces"]), &query).await?;
            let ours = found.into_iter().find(|namespace| namespace.name == self.namespace);
            ours.map(|namespace| namespace.id)
                .ok_or_else(|| self.rest.nonsense(&subject, "it is not in this region"))
        };
        Ok(self.namespace_id.get_or_try_init(find).await?)
    }

    /// The id of an image. None: the namespace does not have it.
    async fn image_id(&self, repository: &str) -> Result<Option<String>, Error> {
        if let Some(id) = self.known_image(repository) {
            return Ok(Some(id));
        }
        let Some(name) = self.name_of(repository) else { return Ok(None) };
        let query = [("namespace_id", self.namespace_id().await?), ("name", name)];
        let found = self.list::<Images>("images", &self.path(&["images"]), &query).await?;
        Ok(found.into_iter().find(|image| image.name == name).map(|image| image.id))
    }

    fn name_of<'a>(&self, repository: &'a str) -> Option<&'a str> {
        repository.strip_prefix(self.namespace.as_str())?.strip_prefix('/')
    }

    fn known_image(&self, repository: &str) -> Option<String> {
        let images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.get(repository).cloned()
    }

    /// The tags of a repository, without those that are on their way out.
    async fn tags(&self, repository: &str) -> Result<Vec<Tag>, Error> {
        let Some(image) = self.image_id(repository).await? else { return Ok(Vec::new()) };
        let subject = format!("tags of {repository}");
        let query = [("order_by", "created_at_asc")];
        let listed =
            self.list::<Tags>(&subject, &self.path(&["images", &image, "tags"]), &query).await;
        match listed {
            Ok(tags) => Ok(tags.into_iter().filter(|tag| tag.status != "deleting").collect()),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Why an image with these tags must stay: a tag came to it, or went from it to something else. One that is gone
    /// altogether may have gone by a deletion that was broken off, which goes on.
    async fn objection(
        &self,
        repository: &str,
        digest: &Digest,
        expected: &[String],
        tags: &[Tag],
    ) -> Result<Option<String>, Error> {
        let unexpected = |tag: &&Tag| tag.digest == *digest && !expected.contains(&tag.name);
        if let Some(tag) = tags.iter().find(unexpected) {
            return Ok(Some(format!("the tag `{}` leads to it now", tag.name)));
        }
        for tag in tags.iter().filter(|tag| tag.digest != *digest && expected.contains(&tag.name)) {
            // It may be ours, from a try that was killed half way.
            if !throw_away::is_one(&self.reader.raw(repository, &tag.digest).await?) {
                return Ok(Some(format!("the tag `{}` no longer leads to it", tag.name)));
            }
            self.delete_by_id(&tag.id, repository, &tag.name).await?;
        }
        Ok(None)
    }

    /// Deletes one of several tags of a digest: it is led to a manifest of its own first.
    async fn delete_isolated(
        &self,
        repository: &str,
        name: &str,
        original: &Manifest,
    ) -> Result<Deleted, Error> {
        let digest = &original.digest;
        let throw_away = throw_away::make(repository, name, digest)
            .map_err(|e| Error::Manifest { digest: *digest, reason: e.to_string() })?;
        self.reader.registry().put_manifest(repository, name, &throw_away).await?;
        for _ in 0..LOOKS {
            let tags = self.tags(repository).await?;
            let tag = tags.into_iter().find(|tag| tag.name == name);
            if let Some(tag) = tag.filter(|tag| tag.digest == throw_away.digest) {
                let deleted = self.delete_by_id(&tag.id, repository, name).await;
                if !is_under_way(&deleted) {
                    self.reader.registry().put_manifest(repository, name, original).await?;
                }
                return deleted;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(Error::TimedOut {
            host: self.reader.registry().host().to_owned(),
            subject: format!("the push of {repository}:{name} in Scaleway's API"),
            after: LOOK_EVERY * LOOKS,
        })
    }

    async fn delete_by_id(&self, id: &str, repository: &str, name: &str) -> Result<Deleted, Error> {
        let subject = format!("tag {repository}:{name}");
        let url = self.rest.url(&self.path(&["tags", id]), &[])?;
        match self.rest.act(&Method::DELETE, &subject, &url).await {
            Ok(true) => Ok(Deleted::Done),
            Ok(false) => Ok(Deleted::Absent),
            Err(Error::Status { status: 400 | 409 | 412, detail, .. }) => {
                Ok(Deleted::Refused { reason: format!("Scaleway refuses: {detail}") })
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait::async_trait]
impl Inventory for ScalewayInventory {
    fn registry(&self) -> &Registry {
        self.reader.registry()
    }

    async fn repositories(&self) -> Result<Vec<String>, Error> {
        let query = [("namespace_id", self.namespace_id().await?), ("order_by", "created_at_asc")];
        let images = self.list::<Images>("images", &self.path(&["images"]), &query).await?;
        let images: HashMap<String, String> = images
            .into_iter()
            .map(|image| (format!("{}/{}", self.namespace, image.name), image.id))
            .collect();
        let mut repositories: Vec<String> = images.keys().cloned().collect();
        repositories.sort();
        *self.images.lock().unwrap_or_else(PoisonError::into_inner) = images;
        Ok(repositories)
    }

    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error> {
        let tags = self.tags(repository).await?;
        let mut roots: BTreeMap<Digest, Root> = BTreeMap::new();
        for tag in &tags {
            let root = roots.entry(tag.digest).or_default();
            root.tags.push(tag.name.clone());
            // As young as its youngest tag: nothing goes too early.
            root.pushed_at = root.pushed_at.max(tag.updated_at);
        }
        let found =
            self.reader.walk(repository, Tagged { roots, ..Tagged::default() }, known).await?;
        for tag in tags.iter().filter(|tag| found.throw_aways.contains(&tag.digest)) {
            if let Err(error) = self.delete_by_id(&tag.id, repository, &tag.name).await {
                tracing::warn!(
                    registry.repository = repository,
                    tag = tag.name,
                    error = mecapy_service::chain(&error),
                    "the removal of a tag was broken off and can't be finished"
                );
            }
        }
        Ok(found.manifests)
    }

    async fn delete_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        expected: &[String],
        _elsewhere: Elsewhere<'_>,
    ) -> Result<Deleted, Error> {
        let tags = self.tags(repository).await?;
        let (its, others): (Vec<_>, Vec<_>) = tags.iter().partition(|tag| tag.digest == *digest);
        let registry = self.reader.registry();
        let Some((last, siblings)) = its.split_first() else {
            return match registry.resolve(repository, &digest.to_string()).await? {
                None => Ok(Deleted::Absent),
                Some(_) if expected.is_empty() => Ok(Deleted::Refused {
                    reason: "it has no tag, and Scaleway deletes by tags: it goes with the last that needs it".into(),
                }),
                Some(_) => Ok(Deleted::Changed { reason: "no tag leads to it any more".into() }),
            };
        };
        if let Some(reason) = self.objection(repository, digest, expected, &tags).await? {
            return Ok(Deleted::Changed { reason });
        }
        let leads = others.iter().map(|tag| (tag.name.as_str(), tag.digest));
        if let Some(reason) = self.reader.needed_by(repository, digest, leads).await? {
            return Ok(Deleted::Changed { reason });
        }
        if siblings.is_empty() {
            return self.delete_by_id(&last.id, repository, &last.name).await;
        }
        let original = self.reader.raw(repository, digest).await?;
        let mut removed = Vec::new();
        let deleted = async {
            for sibling in siblings {
                match self.delete_isolated(repository, &sibling.name, &original).await? {
                    Deleted::Done | Deleted::Absent => removed.push(&sibling.name),
                    other => return Ok(other),
                }
            }
            self.delete_by_id(&last.id, repository, &last.name).await
        }
        .await;
        if !is_under_way(&deleted) {
            // It stays, and so it has its tags.
            for name in removed {
                registry.put_manifest(repository, name, &original).await?;
            }
        }
        deleted
    }

    async fn delete_tag(
        &self,
        repository: &str,
        name: &str,
        digest: &Digest,
    ) -> Result<Deleted, Error> {
        let tags = self.tags(repository).await?;
        let Some(tag) = tags.iter().find(|tag| tag.name == name) else {
            return Ok(Deleted::Absent);
        };
        if tag.digest != *digest {
            // It may be ours, from a try that was killed half way.
            if throw_away::is_one(&self.reader.raw(repository, &tag.digest).await?) {
                return self.delete_by_id(&tag.id, repository, name).await;
            }
            let reason = format!("the tag `{name}` leads to {} now", tag.digest);
            return Ok(Deleted::Changed { reason });
        }
        let original = self.reader.raw(repository, digest).await?;
        self.delete_isolated(repository, name, &original).await
    }
}

fn headers(secret_key: &Secret) -> Option<HeaderMap> {
    let mut value = HeaderValue::from_str(secret_key.expose()).ok()?;
    value.set_sensitive(true);
    Some(HeaderMap::from_iter([(HeaderName::from_static("x-auth-token"), value)]))
}
