//! Images: to and from registries, by digest; what the engine has of them.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use bollard::errors::Error as EngineError;
use bollard::query_parameters::{
    CreateImageOptionsBuilder, ListImagesOptionsBuilder, PushImageOptionsBuilder,
    RemoveImageOptionsBuilder, TagImageOptionsBuilder,
};
use chrono::DateTime;
use futures::{Stream, StreamExt};
use mecapy_registry::{Digest, ImageRef};

use crate::{Credentials, Engine, Error};

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The config's digest, `sha256:…`.
    pub id: String,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// `repository@sha256:…` under which a registry knows it.
    pub repo_digests: Vec<String>,
    /// Digests of the unpacked layers, lowest first.
    pub layers: Vec<String>,
    pub labels: BTreeMap<String, String>,
}

/// A layer of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The same in two images only where they share it, with all layers below.
    pub id: Digest,
    /// Unpacked.
    pub bytes: u64,
}

impl Engine {
    /// Pulls an image within `limit`; with a digest in the reference, exactly that one. Dropping the
    /// future ends the pull.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        auth: Option<&Credentials>,
        limit: Duration,
    ) -> Result<(), Error> {
        let name = repository(reference);
        let version = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        };
        let options = CreateImageOptionsBuilder::default().from_image(&name).tag(&version).build();
        let auth = auth.map(|auth| auth.for_host(&reference.registry));
        let stream = self.docker.create_image(Some(options), None, auth);
        self.transfer("pull an image", reference, limit, stream, |_| ()).await?;

        let Some(digest) = &reference.digest else { return Ok(()) };
        let exact = format!("{name}@{digest}");
        match self.image(&exact).await? {
            Some(image) if image.repo_digests.contains(&exact) => Ok(()),
            Some(image) => Err(Error::DigestMismatch {
                image: exact,
                message: format!("the engine has it as {}", image.repo_digests.join(", ")),
            }),
            None => Err(Error::Incomplete { call: "pull an image", what: "image" }),
        }
    }

    /// Pushes the local image of that name and tag, and returns the manifest's digest in the registry.
    pub async fn push(
        &self,
        reference: &ImageRef,
        auth: Option<&Credentials>,
        limit: Duration,
    ) -> Result<Digest, Error> {
        let Some(tag) = &reference.tag else {
            return Err(Error::NoTag { image: reference.to_string() });
        };
        let options = PushImageOptionsBuilder::default().tag(tag).build();
        let auth = auth.map(|auth| auth.for_host(&reference.registry));
        let name = repository(reference);
        let stream = self.docker.push_image(&name, Some(options), auth);
        let mut pushed = None;
        self.transfer("push an image", reference, limit, stream, |info| {
            if let Some(digest) = info.status.as_deref().and_then(|s| pushed_digest(tag, s)) {
                pushed = Some(digest);
            }
        })
        .await?;
        pushed.ok_or(Error::Incomplete { call: "push an image", what: "digest" })
    }

    /// What the engine knows of an image, by any reference or id; `None` when it hasn't got it.
    pub async fn image(&self, reference: &str) -> Result<Option<ImageInfo>, Error> {
        let image = match self.call("inspect an image", self.docker.inspect_image(reference)).await
        {
            Ok(image) => image,
            Err(Error::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let labels = image.config.and_then(|config| config.labels).unwrap_or_default();
        Ok(Some(ImageInfo {
            id: image.id.unwrap_or_default(),
            size: image.size.unwrap_or_default().try_into().unwrap_or_default(),
            repo_digests: image.repo_digests.unwrap_or_default(),
            layers: image.root_fs.and_then(|fs| fs.layers).unwrap_or_default(),
            labels: labels.into_iter().collect(),
        }))
    }

    /// The layers of an image that are not empty, lowest first.
    pub async fn layers(&self, image: &ImageInfo) -> Result<Vec<Layer>, Error> {
        let history = self.docker.image_history(&image.id);
        match self.call("list an image's layers", history).await {
            Ok(steps) => {
                let sizes: Vec<u64> = steps
                    .iter()
                    .rev()
                    .map(|step| step.size.try_into().unwrap_or_default())
                    .collect();
                Ok(layers(&image.layers, &sizes, image.size))
            }
            Err(Error::Refused { status: 404, .. }) => {
                Err(Error::ImageNotFound { image: image.id.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// The names `repository:tag` that match a pattern of the engine's (`*` is anything but `/`).
    pub async fn image_names(&self, pattern: &str) -> Result<Vec<String>, Error> {
        let filters = HashMap::from([("reference", vec![pattern])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        let images = self.call("list images", self.docker.list_images(Some(options))).await?;
        Ok(images.into_iter().flat_map(|image| image.repo_tags).collect())
    }

    /// When an image was last given a name here, by the engine's clock. None: it isn't there.
    pub async fn named_at(&self, reference: &str) -> Result<Option<SystemTime>, Error> {
        let call = "inspect an image";
        let image = match self.call(call, self.docker.inspect_image(reference)).await {
            Ok(image) => image,
            Err(Error::Refused { status: 404, .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let at = image.metadata.and_then(|metadata| metadata.last_tag_time);
        let at = at.and_then(|at| DateTime::parse_from_rfc3339(&at).ok());
        Ok(Some(at.ok_or(Error::Incomplete { call, what: "time of its last name" })?.into()))
    }

    /// Gives a local image another name.
    pub async fn tag(&self, image: &str, reference: &ImageRef) -> Result<(), Error> {
        let tag = reference.tag.as_deref().unwrap_or("latest");
        let options =
            TagImageOptionsBuilder::default().repo(&repository(reference)).tag(tag).build();
        match self.call("tag an image", self.docker.tag_image(image, Some(options))).await {
            Err(Error::Refused { status: 404, .. }) => {
                Err(Error::ImageNotFound { image: image.to_owned() })
            }
            other => other,
        }
    }

    /// Removes a name of an image, and the image with its last name. `false` when it wasn't there.
    /// Never forced: an image that a container uses stays.
    pub async fn remove_image(&self, reference: &str) -> Result<bool, Error> {
        let options = RemoveImageOptionsBuilder::default().build();
        let removal = self.docker.remove_image(reference, Some(options), None);
        match self.call("remove an image", removal).await {
            Ok(_) => Ok(true),
            Err(Error::Refused { status: 404, .. }) => Ok(false),
            Err(Error::Refused { status: 409, message, .. }) => {
                Err(Error::ImageInUse { image: reference.to_owned(), message })
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a transfer's stream to its end. Its errors come as a status before the first byte and
    /// inside the stream afterwards.
    async fn transfer<T>(
        &self,
        call: &'static str,
        reference: &ImageRef,
        limit: Duration,
        stream: impl Stream<Item = Result<T, EngineError>>,
        mut each: impl FnMut(T),
    ) -> Result<(), Error> {
        let image = reference.to_string();
        let all = async {
            let mut stream = std::pin::pin!(stream);
            while let Some(item) = stream.next().await {
                match item {
                    Ok(item) => each(item),
                    Err(EngineError::DockerStreamError { error: message })
                    | Err(EngineError::DockerResponseServerError { message, .. }) => {
                        return Err(Error::of_registry(&image, message));
                    }
                    // The caller looks whether it has the digest.
                    Err(error)
                        if Error::is_a_lone_line_end(&error) && reference.digest.is_some() =>
                    {
                        break;
                    }
                    Err(error) => return Err(Error::of_call(call, &self.host, error)),
                }
            }
            Ok(())
        };
        match tokio::time::timeout(limit, all).await {
            Ok(result) => result,
            Err(_) => Err(Error::TransferTimedOut { image, limit }),
        }
    }
}

/// Of the digests of all layers and the sizes of all steps, lowest first: a step of no size may be an empty layer or
/// none. Each layer is taken for the highest that it can be, so that what is not surely shared is not.
fn layers(digests: &[String], steps: &[u64], size: u64) -> Vec<Layer> {
    let sizes: Vec<u64> = steps.iter().copied().filter(|size| *size > 0).collect();
    let id = |height: usize, number: usize, bytes: u64| {
        let below = digests.get(..height).unwrap_or(digests).join(" ");
        Digest::of(format!("{number} {bytes} {below}").as_bytes())
    };
    let empty = digests.len().saturating_sub(sizes.len());
    let mut layers: Vec<Layer> = sizes
        .iter()
        .enumerate()
        .map(|(number, bytes)| Layer { id: id(empty + number + 1, number, *bytes), bytes: *bytes })
        .collect();
    let untold = size.saturating_sub(sizes.iter().sum());
    if untold > 0 {
        layers.push(Layer { id: id(digests.len(), layers.len(), untold), bytes: untold });
    }
    layers
}

fn repository(reference: &ImageRef) -> String {
    format!("{}/{}", reference.registry, reference.repository)
}

/// From the status `v1: digest: sha256:… size: 1234`, the only place where the client library shows
/// the digest of a push.
fn pushed_digest(tag: &str, status: &str) -> Option<Digest> {
    let rest = status.strip_prefix(tag)?.strip_prefix(": digest: ")?;
    rest.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn images_share_the_layers_that_they_have_in_common_from_below() {
        let bytes = |layers: &[Layer]| layers.iter().map(|layer| layer.bytes).collect::<Vec<_>>();
        let one = layers(&digests(&["base", "packages", "one"]), &[100, 0, 50, 0, 1], 151);
        let two = layers(&digests(&["base", "packages", "two"]), &[100, 0, 50, 1, 0], 151);
        assert_eq!((bytes(&one), &one[..2]), (vec![100, 50, 1], &two[..2]));
        assert_ne!(one[2], two[2], "as large, and another");
        let other = layers(&digests(&["base", "others", "one"]), &[100, 50, 1], 151);
        assert_eq!(one[0], other[0]);
        assert!(one[1].id != other[1].id && one[2].id != other[2].id);
        // With an empty layer, of which nobody knows which it is.
        let empty = layers(&digests(&["base", "none", "packages", "one"]), &[100, 0, 50, 1], 151);
        assert_eq!(bytes(&empty), [100, 50, 1]);
        let same = layers(&digests(&["base", "none", "packages", "two"]), &[100, 50, 0, 1], 151);
        assert_eq!(empty[..2], same[..2]);
        // Without a history, all of it is its own.
        let untold = layers(&digests(&["base", "one"]), &[], 151);
        assert_eq!(bytes(&untold), [151]);
        assert_ne!(untold, layers(&digests(&["base", "two"]), &[], 151));
    }

    #[test]
    fn the_digest_of_a_push_is_read_from_its_last_status() {
        let hex = "0".repeat(64);
        let status = format!("v1: digest: sha256:{hex} size: 1234");
        assert_eq!(pushed_digest("v1", &status).unwrap().to_string(), format!("sha256:{hex}"));
        assert_eq!(pushed_digest("v2", &status), None);
        assert_eq!(pushed_digest("v1", "v1: Pushed"), None);
    }
}
