//! Putting back what was deleted, by the registry API.

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::reader::CONCURRENCY;
use crate::{Content, Digest, Error, Manifest, Registry};

/// Puts a manifest back where all that it needs is still there, then the tags that nobody else has.
pub(super) async fn restore(
    registry: &Registry,
    repository: &str,
    manifest: &Manifest,
    tags: &[String],
) -> Result<(), Error> {
    match manifest.parse()? {
        Content::Image { config, layers } => {
            let own = [config].into_iter().chain(layers).filter(|blob| blob.urls.is_empty());
            let checks: Vec<_> = own
                .map(|blob| async move {
                    match registry.blob_is_whole(repository, &blob).await? {
                        true => Ok(()),
                        false => Err(gone(registry, "blob", repository, &blob.digest)),
                    }
                })
                .collect();
            stream::iter(checks).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        }
        Content::Index { manifests } => {
            for child in manifests {
                if registry.resolve(repository, &child.digest.to_string()).await?.is_none() {
                    return Err(gone(registry, "manifest", repository, &child.digest));
                }
            }
        }
    }
    registry.put_manifest(repository, &manifest.digest.to_string(), manifest).await?;
    for tag in tags {
        match registry.resolve(repository, tag).await? {
            None => registry.put_manifest(repository, tag, manifest).await?,
            Some(lead) if lead.digest == manifest.digest => {}
            Some(lead) => tracing::info!(
                registry.repository = repository,
                tag,
                leads_to = %lead.digest,
                "the tag of a restored image leads elsewhere by now and stays there"
            ),
        }
    }
    Ok(())
}

fn gone(registry: &Registry, what: &str, repository: &str, digest: &Digest) -> Error {
    Error::NotFound {
        host: registry.host().to_owned(),
        subject: format!("{what} {repository}@{digest}"),
    }
}
