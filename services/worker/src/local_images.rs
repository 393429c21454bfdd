//! Function images that the engine has already: what a cache begins with.

use std::collections::HashMap;

use bollard::query_parameters::ListImagesOptionsBuilder;
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::{StreamExt as _, stream};
use mecapy_engine::{Engine, ImageInfo, Layer};
use mecapy_registry::{Digest, ImageRef};

use crate::Error;
use crate::image_cache::Image;

/// What every image of a function carries.
pub(crate) const FUNCTION_LABEL: &str = "org.mecapy.function.id";
/// What a base image has that functions can run on, and of which version its runner's frames are.
const RUNNER_LABEL: &str = "org.mecapy.runner";
const RUNNER_VERSION: &str = "1";
const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
const LIMIT_SECONDS: u64 = 60;
const LOOKS_AT_ONCE: usize = 8;

/// All images with the label that came from one of these registries, oldest first.
pub(crate) async fn list(
    engine: &Engine,
    options: &mecapy_engine::Options,
    registries: &[&str],
) -> Result<Vec<(Digest, Image)>, Error> {
    let host = options.host.as_deref().unwrap_or(DEFAULT_HOST);
    let docker = if host.starts_with("unix://") {
        Docker::connect_with_unix(host, LIMIT_SECONDS, API_DEFAULT_VERSION)?
    } else {
        Docker::connect_with_http(host, LIMIT_SECONDS, API_DEFAULT_VERSION)?
    };
    let docker = docker.negotiate_version().await?;
    let filters = HashMap::from([("label", vec![FUNCTION_LABEL])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let mut images = docker.list_images(Some(options)).await?;
    images.sort_by_key(|image| image.created);
    let ours = images.into_iter().filter_map(|image| {
        let names = by_digest(&image.repo_digests, registries);
        (!names.is_empty()).then_some((image.id, image.size, names))
    });
    let looks = stream::iter(ours).map(|(id, size, names)| async move {
        let (layers, has_runner) = match engine.image(&id).await {
            Ok(Some(image)) => (layers(engine, &image).await, has_runner(&image)),
            // It has gone since.
            Ok(None) => return Vec::new(),
            // One image that the engine can't show keeps no worker from starting.
            Err(_) => (vec![whole(&id, size.try_into().unwrap_or_default())], true),
        };
        let image = |names| Image { id: id.clone(), names, layers: layers.clone(), has_runner };
        names.into_iter().map(|(digest, names)| (digest, image(names))).collect()
    });
    let images: Vec<Vec<_>> = looks.buffered(LOOKS_AT_ONCE).collect().await;
    Ok(images.into_iter().flatten().collect())
}

/// Whether it says that it has a runner that this worker can talk to.
pub(crate) fn has_runner(image: &ImageInfo) -> bool {
    image.labels.get(RUNNER_LABEL).is_some_and(|version| version == RUNNER_VERSION)
}

/// What counts for the cache's limit. Where the engine can't tell the layers, all of the image is its own: that is
/// rather too much than too little.
pub(crate) async fn layers(engine: &Engine, image: &ImageInfo) -> Vec<Layer> {
    engine.layers(image).await.unwrap_or_else(|error| {
        tracing::debug!(
            image = image.id,
            error = mecapy_service::chain(&error),
            "no layers are told"
        );
        vec![whole(&image.id, image.size)]
    })
}

fn whole(id: &str, bytes: u64) -> Layer {
    Layer { id: Digest::of(id.as_bytes()), bytes }
}

/// An image's names that are ours to remove, by digest.
pub(crate) fn by_digest(
    repo_digests: &[String],
    registries: &[&str],
) -> Vec<(Digest, Vec<String>)> {
    let mut found: Vec<(Digest, Vec<String>)> = Vec::new();
    for name in repo_digests {
        let Ok(ImageRef { registry, repository, digest: Some(digest), .. }) = name.parse() else {
            continue;
        };
        if !registries.contains(&registry.as_str()) || !is_published(&repository) {
            continue;
        }
        match found.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, names)) => names.push(name.clone()),
            None => found.push((digest, vec![name.clone()])),
        }
    }
    found
}

/// Where images run from: `…/functions/user-{owner}-func-{id}`. What the builder has in staging is not ours.
pub(crate) fn is_published(repository: &str) -> bool {
    let mut parts = repository.rsplit('/');
    parts.next().is_some_and(|name| name.starts_with("user-")) && parts.next() == Some("functions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_published_images_of_our_registries_are_ours() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let names = |names: &[String]| by_digest(names, &["a:1", "b.c"]);
        let ours = format!("a:1/mecapy/functions/user-x-func-1@{one}");
        let fallback = format!("b.c/mecapy/functions/user-x-func-1@{one}");
        let other_digest = format!("b.c/mecapy/functions/user-x-func-1@{two}");
        assert_eq!(
            names(&[ours.clone(), fallback.clone(), other_digest.clone()]),
            [(one, vec![ours, fallback]), (two, vec![other_digest])]
        );
        assert_eq!(
            names(&[
                format!("a:1/mecapy/staging/user-x-func-1@{one}"),
                format!("a:1/mecapy/base/python@{one}"),
                format!("elsewhere:1/mecapy/functions/user-x-func-1@{one}"),
                "<none>@<none>".to_owned(),
            ]),
            []
        );
    }
}
