//! Names, labels and the layer of a function's image. Pure: the same inputs, the same image.

use std::collections::BTreeMap;

use bytes::Bytes;
use mecapy_proto::{FunctionId, Owner};
use mecapy_registry::{ConfigPatch, Digest, Error, LayerFile, TarLayer};

/// Where the code is, from the root of the image.
const CODE_PATH: &str = "app/user_function.py";

pub type Labels = BTreeMap<String, String>;

/// `v{version}-{first 8 digits of the inputs' hash}`
pub fn tag(version: u32, inputs_sha256: &str) -> String {
    let short: String = inputs_sha256.chars().take(8).collect();
    format!("v{version}-{short}")
}

/// Its repository in the staging registry.
pub fn staging_repository(owner: &Owner, function: FunctionId) -> String {
    format!("mecapy/staging/user-{owner}-func-{function}")
}

/// What the image says of itself.
pub fn labels(
    owner: &Owner,
    function: FunctionId,
    version: u32,
    python: &str,
    inputs_sha256: &str,
    base: &Digest,
) -> Labels {
    let label = |name: &str, value: String| (format!("org.mecapy.{name}"), value);
    Labels::from([
        label("function.id", function.to_string()),
        label("function.owner", owner.to_string()),
        label("function.version", version.to_string()),
        label("function.inputs", inputs_sha256.to_owned()),
        label("python", python.to_owned()),
        label("base.digest", base.to_string()),
    ])
}

/// The layer with the code.
pub fn layer(code: Bytes) -> Result<TarLayer, Error> {
    TarLayer::from_files([LayerFile { path: CODE_PATH.to_owned(), mode: 0o444, bytes: code }])
}

/// How the image is started.
pub fn config(labels: Labels) -> ConfigPatch {
    ConfigPatch {
        labels,
        cmd: Some(vec!["python".to_owned(), "user_function.py".to_owned()]),
        user: Some("mecapy".to_owned()),
        workdir: Some("/app".to_owned()),
        env: BTreeMap::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_after_owner_function_version_and_inputs() {
        let owner: Owner = "acme".parse().unwrap();
        let function = FunctionId::new(456).unwrap();
        assert_eq!(staging_repository(&owner, function), "mecapy/staging/user-acme-func-456");
        assert_eq!(tag(2, "0123456789abcdef"), "v2-01234567");
    }

    #[test]
    fn the_same_code_makes_the_same_layer() {
        let tar =
            |code: &'static str| layer(Bytes::from_static(code.as_bytes())).unwrap().tar().clone();
        assert_eq!(tar("print(1)"), tar("print(1)"));
        assert_ne!(tar("print(1)"), tar("print(2)"));
    }
}
