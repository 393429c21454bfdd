//! What refers to an image: its SBOM, reports, provenance, signatures (distribution specification 1.1, "referrers").
//!
//! A registry that knows referrers lists them by itself. In one that doesn't, as Distribution 2.8 and GHCR, whoever puts
//! one writes it into an index under the tag `sha256-<hex of the subject>`.
//!
//! ```text
//! Artifact ─▶ blob ─▶ manifest with `subject` ─▶ the registry's list, or the index under the tag
//! ```
//!
//! No registry has a conditional put. So writers of one index take turns, which is the callers' to see to; and an index
//! is read back, because there are writers that nobody can make wait (`cosign`, `oras`).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::blobs::found;
use crate::challenge::Scope;
use crate::config_patch::sorted;
use crate::exchange::Call;
use crate::listing::next_page;
use crate::manifest::media_types::{OCI_INDEX, OCI_MANIFEST};
use crate::registry::Registry;
use crate::{Descriptor, Digest, Error, Manifest, retry};

/// The config of a manifest that has none (image specification, "guidelines for artifact usage").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_CONTENT: &[u8] = b"{}";
/// The name that a file gets when it is pulled.
const TITLE: &str = "org.opencontainers.image.title";
/// As for any manifest.
const MAX_PAGE_BYTES: u64 = 4 * 1024 * 1024;
const MAX_PAGES: usize = 100;
/// Of all pages.
const MAX_LIST_BYTES: usize = 16 * 1024 * 1024;
/// How often an index is written that somebody else keeps writing over.
const MAX_WRITES: u32 = 5;
/// Before another write, growing: somebody else may be at it, and some registries show what they have with delay.
const PAUSE: Duration = Duration::from_millis(200);

/// Something to attach to an image. The same artifact and subject make the same manifest.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What it is: `application/vnd.cyclonedx+json`. Also the media type of its content.
    pub artifact_type: String,
    pub file_name: String,
    pub content: Bytes,
    /// Shown where referrers are listed.
    pub annotations: BTreeMap<String, String>,
}

/// One entry in the list of what refers to an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Referrer {
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What others wrote there.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// The list, by one of the two ways.
enum Listed {
    ByApi(Vec<Referrer>),
    /// None: there is no such tag.
    ByTag(Option<Manifest>),
}

/// The tag of the index of an image's referrers.
pub fn referrers_tag(subject: &Digest) -> String {
    format!("sha256-{}", subject.hex())
}

impl Registry {
    /// What refers to an image that is there.
    pub async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        match self.listed(repository, subject).await? {
            Listed::ByApi(all) => Ok(all),
            Listed::ByTag(index) => index.as_ref().map_or_else(|| Ok(Vec::new()), entries),
        }
    }

    /// Puts artifacts that refer to `subject`. They are found once they are listed, too: [`Registry::list_referrers`].
    pub async fn put_artifacts(
        &self,
        repository: &str,
        subject: &Descriptor,
        artifacts: &[Artifact],
    ) -> Result<Vec<Referrer>, Error> {
        let contents = artifacts
            .iter()
            .map(|artifact| self.put_new_blob(repository, artifact.content.clone()));
        let config = self.put_blob(repository, Bytes::from_static(EMPTY_CONTENT));
        let (config, contents) = futures::try_join!(config, try_join_all(contents))?;
        let config = Descriptor { media_type: EMPTY.to_owned(), ..config };
        let puts = artifacts.iter().zip(contents).map(|(artifact, content)| {
            let (config, subject) = (&config, subject);
            async move {
                let content = Descriptor { media_type: artifact.artifact_type.clone(), ..content };
                let manifest = manifest(artifact, config, &content, subject);
                let reference = manifest.digest.to_string();
                self.put_manifest(repository, &reference, &manifest).await?;
                Ok::<_, Error>(Referrer {
                    media_type: manifest.media_type.clone(),
                    digest: manifest.digest,
                    size: manifest.raw.len() as u64,
                    artifact_type: Some(artifact.artifact_type.clone()),
                    annotations: artifact.annotations.clone(),
                    rest: BTreeMap::new(),
                })
            }
        });
        try_join_all(puts).await
    }

    /// Sees to it that these, which are there, are in the list of what refers to `subject`. Nobody else of ours may do
    /// so for the same subject at the same time.
    pub async fn list_referrers(
        &self,
        repository: &str,
        subject: &Digest,
        referrers: &[Referrer],
    ) -> Result<(), Error> {
        let tag = referrers_tag(subject);
        let mut index = match self.listed(repository, subject).await? {
            Listed::ByApi(all) if lacking(&all, referrers).is_empty() => return Ok(()),
            // Older tools, and those whose registry learned of referrers later, look at the tag.
            Listed::ByApi(_) => self.referrers_index(repository, &tag).await?,
            Listed::ByTag(index) => index,
        };
        for write in 0..MAX_WRITES {
            let Some(longer) = with(index.as_ref(), referrers)? else { return Ok(()) };
            tokio::time::sleep(PAUSE * write).await;
            self.put_manifest(repository, &tag, &longer).await?;
            index = self.referrers_index(repository, &tag).await?;
        }
        match with(index.as_ref(), referrers)? {
            None => Ok(()),
            Some(_) => Err(Error::Contended {
                host: self.host().to_owned(),
                subject: format!("referrers of {repository}@{subject}"),
            }),
        }
    }

    async fn listed(&self, repository: &str, subject: &Digest) -> Result<Listed, Error> {
        if let Some(all) = self.referrers_told(repository, subject).await? {
            return Ok(Listed::ByApi(all));
        }
        self.referrers_index(repository, &referrers_tag(subject)).await.map(Listed::ByTag)
    }

    /// What the registry's API of referrers tells. None: nothing, mostly since it has no such API.
    pub(crate) async fn referrers_told(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Option<Vec<Referrer>>, Error> {
        if self.lacks_referrers().load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.referrers_by_api(repository, subject).await {
            Ok(all) => Ok(Some(all)),
            // The API answers an empty list where nothing refers to a digest (distribution specification); but some that
            // have it say this of a repository or subject that is not there.
            Err(Error::NotFound { .. } | Error::Status { status: 405, .. }) => {
                if self.resolve(repository, &subject.to_string()).await?.is_some() {
                    self.lacks_referrers().store(true, Ordering::Relaxed);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn referrers_by_api(
        &self,
        repository: &str,
        subject: &Digest,
    ) -> Result<Vec<Referrer>, Error> {
        let url = self.origin().repository_url(repository, &format!("referrers/{subject}"))?;
        let what = format!("referrers of {repository}@{subject}");
        let mut call = Call::new("referrers", what, Method::GET, url, Scope::pull(repository))
            .accepting_manifests();
        let (mut all, mut bytes, mut seen) = (Vec::new(), 0, HashSet::new());
        for _ in 0..MAX_PAGES {
            let (page, next) = retry::transient(self.host(), call.operation, || async {
                let response = self.call_once(&call).await?;
                if !is_index(response.headers()) {
                    // Something that answers every question with the same page.
                    let host = self.host().to_owned();
                    return Err(Error::NotFound { host, subject: call.subject.clone() });
                }
                let next = next_page(response.headers());
                Ok((self.body(&call.subject, response, MAX_PAGE_BYTES).await?, next))
            })
            .await?;
            bytes += page.len() + next.as_ref().map_or(0, String::len);
            all.extend(entries(&Manifest::new(page, OCI_INDEX))?);
            match next {
                None => return Ok(all),
                Some(_) if bytes > MAX_LIST_BYTES => break,
                Some(next) => self.turn_page(&mut call, &next, &mut seen)?,
            }
        }
        Err(self.nonsense(&call.subject, "its pages do not end"))
    }

    async fn referrers_index(
        &self,
        repository: &str,
        tag: &str,
    ) -> Result<Option<Manifest>, Error> {
        found(self.manifest(repository, tag).await)
    }
}

/// Those of `wanted` that a list hasn't got.
pub(crate) fn lacking(listed: &[Referrer], wanted: &[Referrer]) -> Vec<Referrer> {
    let is_listed = |one: &&Referrer| listed.iter().any(|other| other.digest == one.digest);
    wanted.iter().filter(|one| !is_listed(one)).cloned().collect()
}

fn is_index(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type
        .is_some_and(|value| value.split(';').next().unwrap_or_default().trim() == OCI_INDEX)
}

fn manifest(
    artifact: &Artifact,
    config: &Descriptor,
    content: &Descriptor,
    subject: &Descriptor,
) -> Manifest {
    let mut layer = json!(content);
    layer["annotations"] = json!({ TITLE: artifact.file_name });
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact.artifact_type,
        "config": config,
        "layers": [layer],
        "subject": Descriptor::new(&subject.media_type, subject.digest, subject.size),
    });
    if !artifact.annotations.is_empty() {
        manifest["annotations"] = json!(artifact.annotations);
    }
    Manifest::new(sorted(manifest).to_string().into(), OCI_MANIFEST)
}

fn entries(index: &Manifest) -> Result<Vec<Referrer>, Error> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<Referrer>,
    }
    let read: Result<Index, _> = serde_json::from_slice(&index.raw);
    read.map(|index| index.manifests).map_err(|error| unusable(index, &error.to_string()))
}

/// The index with these as well, and all else that is in it as it was. None: they are in it.
fn with(index: Option<&Manifest>, referrers: &[Referrer]) -> Result<Option<Manifest>, Error> {
    let Some(index) = index else {
        if referrers.is_empty() {
            return Ok(None);
        }
        let new = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": referrers });
        return Ok(Some(Manifest::new(sorted(new).to_string().into(), OCI_INDEX)));
    };
    let more = lacking(&entries(index)?, referrers);
    if more.is_empty() {
        return Ok(None);
    }
    let mut longer: Value =
        serde_json::from_slice(&index.raw).map_err(|error| unusable(index, &error.to_string()))?;
    match longer.get_mut("manifests").and_then(Value::as_array_mut) {
        Some(manifests) if index.is_index() => {
            manifests.extend(more.iter().map(|referrer| json!(referrer)));
        }
        _ => return Err(unusable(index, "its tag is of a list of referrers, and it is none")),
    }
    Ok(Some(Manifest::new(sorted(longer).to_string().into(), index.media_type.clone())))
}

fn unusable(index: &Manifest, reason: &str) -> Error {
    Error::Manifest { digest: index.digest, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media_types;

    fn referrer(name: &str) -> Referrer {
        Referrer {
            media_type: OCI_MANIFEST.to_owned(),
            digest: Digest::of(name.as_bytes()),
            size: 7,
            artifact_type: Some("application/x".to_owned()),
            annotations: BTreeMap::from([("name".to_owned(), name.to_owned())]),
            rest: BTreeMap::new(),
        }
    }

    #[test]
    fn a_list_grows_and_keeps_what_others_wrote() {
        let theirs = json!({
            "schemaVersion": 2, "mediaType": OCI_INDEX, "annotations": {"by": "them"},
            "manifests": [{
                "mediaType": OCI_MANIFEST, "digest": Digest::of(b"theirs"), "size": 1,
                "artifactType": "application/signature", "platform": {"os": "x", "architecture": "y"},
            }],
        });
        let index = Manifest::new(theirs.to_string().into(), OCI_INDEX);
        let ours = [referrer("one"), referrer("two")];
        let longer = with(Some(&index), &ours).unwrap().unwrap();
        let read: Value = serde_json::from_slice(&longer.raw).unwrap();
        assert_eq!(read["annotations"], theirs["annotations"]);
        assert_eq!(read["manifests"][0], theirs["manifests"][0]);
        let listed = entries(&longer).unwrap();
        assert_eq!(listed[1..], ours);
        // Again, and only a part of them.
        assert_eq!(with(Some(&longer), &ours).unwrap(), None);
        assert_eq!(with(Some(&longer), &ours[1..]).unwrap(), None);
        assert_eq!(with(None, &[]).unwrap(), None);
        assert_eq!(entries(&with(None, &ours).unwrap().unwrap()).unwrap(), ours);
    }

    #[test]
    fn what_is_no_list_is_not_written_over() {
        let image = json!({"schemaVersion": 2, "manifests": []});
        let image = Manifest::new(image.to_string().into(), media_types::OCI_MANIFEST);
        assert!(with(Some(&image), &[referrer("one")]).is_err());
        let other = Manifest::new("{}".into(), OCI_INDEX);
        assert!(with(Some(&other), &[referrer("one")]).is_err());
    }

    #[test]
    fn the_same_artifact_makes_the_same_manifest_and_it_names_its_subject() {
        let artifact = Artifact {
            artifact_type: "application/vnd.cyclonedx+json".to_owned(),
            file_name: "sbom.cdx.json".to_owned(),
            content: Bytes::from_static(b"{}"),
            annotations: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        };
        let of = |name: &str| Descriptor::new(name, Digest::of(name.as_bytes()), 5);
        let make = || manifest(&artifact, &of(EMPTY), &of("content"), &of("subject"));
        let made = make();
        assert_eq!(made, make());
        let read: Value = serde_json::from_slice(&made.raw).unwrap();
        assert_eq!(read["subject"], json!(of("subject")));
        assert_eq!(read["artifactType"], "application/vnd.cyclonedx+json");
        assert_eq!(read["layers"][0]["annotations"][TITLE], "sbom.cdx.json");
        assert!(made.parse().is_ok());
    }
}
