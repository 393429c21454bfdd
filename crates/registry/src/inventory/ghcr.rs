//! GitHub's Container Registry, by the Packages API.
//!
//! A package is a repository, a version of it a digest with all its tags. The registry itself deletes nothing (405).
//! The last tagged version of a package can't be deleted, nor a public one that was downloaded over 5,000 times.
//! What was deleted can be restored for 30 days. Reading a manifest counts as a download, so what is known is not read.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use mecapy_service::Secret;
use reqwest::Method;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::reader::{Reader, Root, Tagged, difference};
use super::rest::Rest;
use super::restore::restore;
use super::{Deleted, Elsewhere, Inventory, Known, StoredManifest, is_under_way, throw_away};
use crate::{Digest, Error, GhcrOptions, Manifest, Options, Registry};

const API: &str = "https://api.github.com";
const API_VERSION: &str = "2022-11-28";
const PER_PAGE: &str = "100";
const MAX_PAGES: usize = 10_000;
/// The API learns of a push a little later than the registry.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The container packages of one organisation or user.
#[derive(Clone)]
pub struct GhcrInventory {
    reader: Reader,
    rest: Rest,
    owner: String,
    /// `orgs` or `users`.
    owners: &'static str,
}

#[derive(Deserialize)]
struct Package {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Version {
    id: u64,
    /// Its digest.
    name: Digest,
    updated_at: Option<DateTime<Utc>>,
    metadata: Metadata,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    container: Container,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    tags: Vec<String>,
}

impl Version {
    fn tags(&self) -> &[String] {
        &self.metadata.container.tags
    }
}

impl GhcrInventory {
    pub(crate) fn new(
        registry: Registry,
        options: &Options,
        ghcr: &GhcrOptions,
    ) -> Result<Self, Error> {
        let invalid = |reason: &str| Error::Options {
            host: options.host.clone(),
            reason: format!("inventory: {reason}"),
        };
        let base = match &ghcr.api {
            Some(api) => api.clone(),
            None => Url::parse(API).map_err(|error| invalid(&error.to_string()))?,
        };
        let headers = headers(&ghcr.token)
            .ok_or_else(|| invalid("token has characters that no header can have"))?;
        Ok(Self {
            rest: Rest::new(registry.clone(), options, base, headers)?,
            reader: Reader::of_all(registry),
            owner: ghcr.owner.clone(),
            owners: if ghcr.is_user { "users" } else { "orgs" },
        })
    }

    async fn list<T: DeserializeOwned>(
        &self,
        subject: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Vec<T>, Error> {
        let mut url = self.rest.url(path, &[query, &[("per_page", PER_PAGE)]].concat())?;
        let mut all = Vec::new();
        for _ in 0..MAX_PAGES {
            let (page, next) = self.rest.get::<Vec<T>>(subject, &url).await?;
            all.extend(page);
            match next {
                Some(next) => url = next,
                None => return Ok(all),
            }
        }
        Err(self.rest.nonsense(subject, "its pages do not end"))
    }

    /// The package of a repository, if it is of this owner. Its name may have slashes: in a URL it is one segment.
    fn package<'a>(&self, repository: &'a str) -> Option<&'a str> {
        let (owner, package) = repository.split_once('/')?;
        owner.eq_ignore_ascii_case(&self.owner).then_some(package)
    }

    fn path<'a>(&'a self, package: &'a str, end: &[&'a str]) -> Vec<&'a str> {
        [&[self.owners, self.owner.as_str(), "packages", "container", package], end].concat()
    }

    /// `state` is `active` or `deleted`. None of a package that is not there.
    async fn versions(&self, repository: &str, state: &str) -> Result<Vec<Version>, Error> {
        let Some(package) = self.package(repository) else { return Ok(Vec::new()) };
        let subject = format!("versions of {repository}");
        let path = self.path(package, &["versions"]);
        match self.list(&subject, &path, &[("state", state)]).await {
            Ok(versions) => Ok(versions),
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// `versions` are all of the package.
    async fn delete_version(
        &self,
        repository: &str,
        version: &Version,
        versions: &[Version],
    ) -> Result<Deleted, Error> {
        let has_other_tags =
            versions.iter().any(|other| other.id != version.id && !other.tags().is_empty());
        if !version.tags().is_empty() && !has_other_tags {
            return Ok(Deleted::Refused {
                reason:
                    "GitHub keeps the last tagged version of a package: delete the package there"
                        .into(),
            });
        }
        let Some(package) = self.package(repository) else { return Ok(Deleted::Absent) };
        let subject = format!("version {repository}@{}", version.name);
        let id = version.id.to_string();
        let url = self.rest.url(&self.path(package, &["versions", &id]), &[])?;
        match self.rest.act(&Method::DELETE, &subject, &url).await {
            Ok(true) => Ok(Deleted::Done),
            // GitHub says 404 as well where the token may not delete. Only what it lists no more is gone.
            Ok(false) => {
                let left = self.versions(repository, "active").await?;
                Ok(if left.iter().any(|other| other.id == version.id) {
                    Deleted::Refused {
                        reason: "GitHub answers 404 to its deletion, and lists it still: give the token the right to delete packages".into(),
                    }
                } else {
                    Deleted::Absent
                })
            }
            // Too many downloads, or the last tagged version after all.
            Err(Error::Status { status: 400 | 422, detail, .. }) => {
                Ok(Deleted::Refused { reason: format!("GitHub refuses: {detail}") })
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait::async_trait]
impl Inventory for GhcrInventory {
    fn registry(&self) -> &Registry {
        self.reader.registry()
    }

    async fn repositories(&self) -> Result<Vec<String>, Error> {
        let path = [self.owners, self.owner.as_str(), "packages"];
        let packages =
            self.list::<Package>("packages", &path, &[("package_type", "container")]).await?;
        let owner = self.owner.to_ascii_lowercase();
        Ok(packages.into_iter().map(|package| format!("{owner}/{}", package.name)).collect())
    }

    async fn manifests(
        &self,
        repository: &str,
        known: Known<'_>,
    ) -> Result<Vec<StoredManifest>, Error> {
        let versions = self.versions(repository, "active").await?;
        let mut roots: BTreeMap<Digest, Root> = BTreeMap::new();
        for version in &versions {
            let root = Root { tags: version.tags().to_vec(), pushed_at: version.updated_at };
            roots.insert(version.name, root);
        }
        let found =
            self.reader.walk(repository, Tagged { roots, ..Tagged::default() }, known).await?;
        for left in versions.iter().filter(|version| found.throw_aways.contains(&version.name)) {
            if let Err(error) = self.delete_version(repository, left, &versions).await {
                tracing::warn!(
                    registry.repository = repository,
                    digest = %left.name,
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
        let versions = self.versions(repository, "active").await?;
        let Some(version) = versions.iter().find(|version| version.name == *digest) else {
            return Ok(Deleted::Absent);
        };
        if let Some(reason) = difference(expected, version.tags().iter()) {
            return Ok(Deleted::Changed { reason });
        }
        let leads = versions
            .iter()
            .filter_map(|version| version.tags().first().map(|tag| (tag.as_str(), version.name)));
        if let Some(reason) = self.reader.needed_by(repository, digest, leads).await? {
            return Ok(Deleted::Changed { reason });
        }
        self.delete_version(repository, version, &versions).await
    }

    async fn delete_tag(
        &self,
        repository: &str,
        tag: &str,
        digest: &Digest,
    ) -> Result<Deleted, Error> {
        let versions = self.versions(repository, "active").await?;
        let has_tag = |version: &&Version| version.tags().iter().any(|its| its == tag);
        let Some(version) = versions.iter().find(has_tag) else {
            return Ok(Deleted::Absent);
        };
        if version.name != *digest {
            // It may be ours, from a try that was killed half way.
            if throw_away::is_one(&self.reader.raw(repository, &version.name).await?) {
                return self.delete_version(repository, version, &versions).await;
            }
            let reason = format!("the tag `{tag}` leads to {} now", version.name);
            return Ok(Deleted::Changed { reason });
        }
        let original = self.reader.raw(repository, digest).await?;
        let throw_away = throw_away::make(repository, tag, digest)
            .map_err(|e| Error::Manifest { digest: *digest, reason: e.to_string() })?;
        self.reader.registry().put_manifest(repository, tag, &throw_away).await?;
        for _ in 0..LOOKS {
            let versions = self.versions(repository, "active").await?;
            let isolated = versions.iter().find(|version| version.name == throw_away.digest);
            // A version goes with all its tags, so it must have this one alone.
            if let Some(isolated) = isolated.filter(|version| version.tags() == [tag]) {
                let deleted = self.delete_version(repository, isolated, &versions).await;
                if !is_under_way(&deleted) {
                    self.reader.registry().put_manifest(repository, tag, &original).await?;
                }
                return deleted;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(Error::TimedOut {
            host: self.reader.registry().host().to_owned(),
            subject: format!("the push of {repository}:{tag} in GitHub's API"),
            after: LOOK_EVERY * LOOKS,
        })
    }

    /// By GitHub for 30 days, with its blobs; then by pushing it again. Its tags in both cases.
    async fn restore(
        &self,
        repository: &str,
        manifest: &Manifest,
        tags: &[String],
    ) -> Result<(), Error> {
        let deleted = self.versions(repository, "deleted").await?;
        let version = deleted.iter().find(|version| version.name == manifest.digest);
        if let (Some(version), Some(package)) = (version, self.package(repository)) {
            let id = version.id.to_string();
            let url = self.rest.url(&self.path(package, &["versions", &id, "restore"]), &[])?;
            let subject = format!("version {repository}@{}", version.name);
            self.rest.act(&Method::POST, &subject, &url).await?;
        }
        restore(self.reader.registry(), repository, manifest, tags).await
    }
}

fn headers(token: &Secret) -> Option<HeaderMap> {
    let mut bearer = HeaderValue::from_str(&format!("Bearer {}", token.expose())).ok()?;
    bearer.set_sensitive(true);
    Some(HeaderMap::from_iter([
        (AUTHORIZATION, bearer),
        (ACCEPT, HeaderValue::from_static("application/vnd.github+json")),
        (HeaderName::from_static("x-github-api-version"), HeaderValue::from_static(API_VERSION)),
    ]))
}
