//! The style and the script. Their names hold their hash: a browser keeps each for good, and a new one has a new name.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::problem::Answer;
use crate::Error;

pub(super) struct Asset {
    name: String,
    kind: &'static str,
    text: &'static str,
}

impl Asset {
    fn new(stem: &str, extension: &str, kind: &'static str, text: &'static str) -> Self {
        let hash = hex::encode(Sha256::digest(text));
        Self { name: format!("{stem}-{}.{extension}", &hash[..16]), kind, text }
    }

    pub(super) fn path(&self) -> String {
        format!("/console/assets/{}", self.name)
    }
}

pub(super) static STYLE: LazyLock<Asset> = LazyLock::new(|| {
    Asset::new(
        "console",
        "css",
        "text/css; charset=utf-8",
        include_str!("../../assets/console.css"),
    )
});

pub(super) static SCRIPT: LazyLock<Asset> = LazyLock::new(|| {
    let text = include_str!("../../assets/console.js");
    Asset::new("console", "js", "text/javascript; charset=utf-8", text)
});

pub(super) async fn get(Path(name): Path<String>) -> Answer {
    let asset = [&*STYLE, &*SCRIPT].into_iter().find(|asset| asset.name == name);
    let asset = asset.ok_or_else(|| Error::NotFound("such a file".to_owned()))?;
    let headers =
        [(CONTENT_TYPE, asset.kind), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
    let response: Response = (headers, asset.text).into_response();
    Ok(response)
}
