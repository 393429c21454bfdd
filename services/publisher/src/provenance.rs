//! Where an image comes from: an in-toto statement with a SLSA provenance predicate. Pure, from the record: the same
//! build, the same bytes.
//!
//! The formats: <https://in-toto.io/Statement/v1>, <https://slsa.dev/provenance/v1>.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, Utc};
use mecapy_registry::{Digest, ImageRef};
use mecapy_store::builds::Build;
use mecapy_store::functions::Version;
use serde_json::{Value, json};

pub(crate) const STATEMENT: &str = "https://in-toto.io/Statement/v1";
pub(crate) const PREDICATE: &str = "https://slsa.dev/provenance/v1";
const BUILDER: &str = "urn:mecapy:builder";

/// What the statement is made of.
pub(crate) struct Facts<'f> {
    pub(crate) build: &'f Build,
    /// None: it is of a base image.
    pub(crate) version: Option<&'f Version>,
    pub(crate) owner: &'f str,
    /// The image's repository, the same in every registry.
    pub(crate) repository: &'f str,
    pub(crate) digest: Digest,
    /// None: the function has no dependencies.
    pub(crate) lock: Option<&'f [u8]>,
}

/// The statement about the image of a build.
pub(crate) fn statement(facts: &Facts<'_>) -> Value {
    json!({
        "_type": STATEMENT,
        "subject": [{ "name": facts.repository, "digest": { "sha256": facts.digest.hex() } }],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": definition(facts),
            "runDetails": {
                "builder": { "id": BUILDER },
                "metadata": {
                    "invocationId": facts.build.id().to_string(),
                    "startedOn": time(facts.build.started_at),
                    "finishedOn": time(facts.build.built_at),
                },
            },
        },
    })
}

fn definition(facts: &Facts<'_>) -> Value {
    let build = facts.build;
    let Some(version) = facts.version else {
        return json!({
            "buildType": "urn:mecapy:base-image:1",
            "externalParameters": { "base": build.base, "run": build.base_run },
            "resolvedDependencies": [],
        });
    };
    json!({
        "buildType": "urn:mecapy:function-image:1",
        "externalParameters": {
            "function": version.function_id,
            "owner": facts.owner,
            "version": version.version,
            "python": version.python_version,
            "variant": version.base_variant,
            "requirements": version.requirements,
        },
        "resolvedDependencies": dependencies(facts, version),
    })
}

fn dependencies(facts: &Facts<'_>, version: &Version) -> Vec<Value> {
    // Over code, requirements, Python and variant.
    let mut all = vec![json!({ "name": "inputs", "digest": { "sha256": version.inputs_sha256 } })];
    let base: Option<Digest> = facts.build.base_digest.as_ref().and_then(|base| base.parse().ok());
    if let Some(base) = base {
        all.push(json!({ "name": "base image", "digest": { "sha256": base.hex() } }));
    }
    let image: Option<ImageRef> =
        facts.build.dependency_image.as_ref().and_then(|image| image.parse().ok());
    // Without requirements, it is the base image.
    if let Some(image) = image
        && let Some(digest) = image.digest.filter(|digest| base != Some(*digest))
    {
        all.push(json!({
            "name": "dependency image",
            "uri": format!("oci://{}/{}", image.registry, image.repository),
            "digest": { "sha256": digest.hex() },
        }));
    }
    if let Some(lock) = facts.lock {
        all.push(json!({
            "name": "requirements.lock",
            "digest": { "sha256": Digest::of(lock).hex() },
            "mediaType": "text/plain",
            "content": STANDARD.encode(lock),
        }));
    }
    all
}

fn time(at: Option<DateTime<Utc>>) -> Option<String> {
    at.map(|at| at.to_rfc3339_opts(SecondsFormat::Micros, true))
}
