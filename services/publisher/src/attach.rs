//! What goes with a published image, as referrers of its digest: SBOM, scan report, SARIF, provenance.
//!
//! One of each kind for each build: a build whose image has it attached already is not read about again.

use std::collections::BTreeMap;

use bytes::Bytes;
use mecapy_objects::{Key, Objects};
use mecapy_registry::{Artifact, Manifest, Referrer, Registry};
use mecapy_store::{PgPool, Turn};

use crate::checked::Checked;
use crate::provenance::{self, Facts};
use crate::trouble::Trouble;

pub const SBOM: &str = "application/vnd.cyclonedx+json";
pub const REPORT: &str = "application/vnd.mecapy.scan-report+json";
pub const SARIF: &str = "application/sarif+json";
pub const PROVENANCE: &str = "application/vnd.in-toto+json";

const CREATED: &str = "org.opencontainers.image.created";
const BUILD: &str = "org.mecapy.build.id";
/// As BuildKit marks it.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The largest report that is attached: an image with a hundred thousand packages.
const MAX_BYTES: u64 = 64 << 20;

/// Attaches to an image what it lacks.
pub(crate) async fn attach(
    pool: &PgPool,
    registry: &Registry,
    repository: &str,
    image: &Manifest,
    artifacts: &[Artifact],
) -> Result<(), Trouble> {
    let listed = registry.referrers(repository, &image.digest).await?;
    let missing: Vec<Artifact> = artifacts
        .iter()
        .filter(|one| !listed.iter().any(|other| is(other, one)))
        .cloned()
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let put = registry.put_artifacts(repository, &image.descriptor(), &missing).await?;
    let digest = image.digest.to_string();
    let _turn = Turn::at_referrers(pool, registry.host(), repository, &digest).await?;
    registry.list_referrers(repository, &image.digest, &put).await?;
    Ok(())
}

/// Whether a referrer is this artifact of this build, whatever its bytes.
fn is(referrer: &Referrer, artifact: &Artifact) -> bool {
    referrer.artifact_type.as_ref() == Some(&artifact.artifact_type)
        && referrer.annotations.get(BUILD) == artifact.annotations.get(BUILD)
}

/// What goes with the image of a build.
pub(crate) async fn artifacts(
    objects: &Objects,
    checked: &Checked,
) -> Result<Vec<Artifact>, Trouble> {
    let (build, scan) = (&checked.build, &checked.scan);
    let read = |key: Key| async move {
        match objects.get(&key, MAX_BYTES).await? {
            Some(content) => Ok(content),
            None => Err(Trouble::Lost(key.to_string())),
        }
    };
    let lock = async {
        match &build.lock_key {
            Some(key) => read(Key::given(key)).await.map(Some),
            None => Ok(None),
        }
    };
    let (sbom, report, sarif, lock) = futures::try_join!(
        read(Key::given(&scan.sbom_key)),
        read(Key::given(&scan.report_key)),
        read(Key::sarif(build.id())),
        lock,
    )?;
    let facts = Facts {
        build,
        version: checked.version.as_ref(),
        owner: &checked.owner,
        repository: &checked.release.repository,
        digest: checked.digest,
        lock: lock.as_deref(),
    };
    let statement = Bytes::from(provenance::statement(&facts).to_string());

    let annotations = BTreeMap::from([
        (BUILD.to_owned(), build.id().to_string()),
        (CREATED.to_owned(), scan.scanned_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)),
    ]);
    let artifact = |artifact_type: &str, file_name: &str, content| Artifact {
        artifact_type: artifact_type.to_owned(),
        file_name: file_name.to_owned(),
        content,
        annotations: annotations.clone(),
    };
    let mut provenance = artifact(PROVENANCE, "provenance.intoto.json", statement);
    provenance.annotations.insert(PREDICATE_TYPE.to_owned(), provenance::PREDICATE.to_owned());
    Ok(vec![
        artifact(SBOM, "sbom.cdx.json", sbom),
        artifact(REPORT, "scan-report.json", report),
        artifact(SARIF, "results.sarif", sarif),
        provenance,
    ])
}
