//! What the record says of a build whose image is to be published. The record decides, not the event: anybody may
//! publish an event.

use mecapy_bus::HandlerError;
use mecapy_proto::v1::{Failure, ScanDone, Verdict};
use mecapy_proto::{BuildId, ErrorCode, failure};
use mecapy_registry::{Digest, ImageRef};
use mecapy_store::builds::Build;
use mecapy_store::functions::Version;
use mecapy_store::scans::Scan;
use mecapy_store::{BuildState, PgPool, builds, functions, scans};

use crate::release::Release;

/// An image that may be published, and all that is on record of it.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) build: Build,
    pub(crate) scan: Scan,
    /// None: it is of a base image.
    pub(crate) version: Option<Version>,
    /// Empty: it is of a base image.
    pub(crate) owner: String,
    pub(crate) digest: Digest,
    /// In staging.
    pub(crate) staged: ImageRef,
    pub(crate) release: Release,
}

/// What came of looking at the record.
pub(crate) enum Check {
    Publish(Box<Checked>),
    /// The build is not waiting to be published: it moved on, or was never ours.
    Nothing,
    Refuse(Failure),
}

/// Who it is of, under which names it goes out.
struct Identity {
    version: Option<Version>,
    owner: String,
    release: Release,
}

pub(crate) async fn check(
    pool: &PgPool,
    id: BuildId,
    event: &ScanDone,
    digest: Digest,
) -> Result<Check, HandlerError> {
    let Some(build) = builds::get(pool, id).await? else {
        return Err(HandlerError::permanent(format!("build {id} is not known")));
    };
    if build.state.is_final() {
        return Ok(Check::Nothing);
    }
    if build.state != BuildState::Publishing {
        // An event ahead of the record must not be remembered in the place of the one that follows it.
        return Err(HandlerError::transient(format!("build {id} is {} yet", build.state)));
    }
    let Some(identity) = identity(pool, id, &build, event).await? else {
        let deleted = failure(ErrorCode::UnknownFunction, "the function was deleted");
        return Ok(Check::Refuse(deleted));
    };
    let text = digest.to_string();
    if build.digest.as_deref() != Some(text.as_str())
        || build.tag.as_deref() != Some(event.tag.as_str())
    {
        return Err(HandlerError::permanent(format!(
            "scan.done is not about the image that build {id} left"
        )));
    }
    let staged = build.staging_image.as_deref().map(str::parse::<ImageRef>);
    let Some(Ok(staged)) = staged else {
        return Err(HandlerError::permanent(format!("build {id} left no image in staging")));
    };
    let scan = scans::get(pool, id).await?;
    let Some(scan) = scan.filter(|scan| scan.verdict == "PASSED" && scan.digest == text) else {
        return Ok(Check::Refuse(failure(
            ErrorCode::NotScanned,
            format!("{text} has no PASSED scan on record, so it is not published"),
        )));
    };
    if scan.refused {
        return Ok(Check::Refuse(failure(
            ErrorCode::ImageRevoked,
            format!("{text} had passed, and was revoked before it was published"),
        )));
    }
    let Identity { version, owner, release } = identity;
    Ok(Check::Publish(Box::new(Checked { build, scan, version, owner, digest, staged, release })))
}

/// None: the function was deleted. The name that an image is published under comes from the record: an event could name
/// another's.
async fn identity(
    pool: &PgPool,
    id: BuildId,
    build: &Build,
    event: &ScanDone,
) -> Result<Option<Identity>, HandlerError> {
    let (is_the_builds, identity) = match (build.function_id()?, &build.base) {
        (Some(function), _) => {
            let Some(record) = functions::get(pool, function).await? else { return Ok(None) };
            let number = build.version.unsigned_abs();
            let version = functions::version(pool, function, number).await?;
            let is_the_builds = (event.function_id, event.owner.as_str(), event.base.as_str())
                == (function.get(), record.owner.as_str(), "")
                && event.version == number;
            let release = Release::function(&record.owner, function, &event.tag);
            (is_the_builds, Identity { version, owner: record.owner, release })
        }
        (None, Some(base)) => {
            let is_the_builds = (event.function_id, event.base.as_str()) == (0, base.as_str());
            let release = Release::base(base, &event.tag);
            (is_the_builds, Identity { version: None, owner: String::new(), release })
        }
        (None, None) => {
            return Err(HandlerError::permanent(format!("build {id} is of nothing")));
        }
    };
    if !is_the_builds || event.verdict != i32::from(Verdict::Passed) {
        return Err(HandlerError::permanent(format!(
            "scan.done does not say of build {id} what the record does"
        )));
    }
    Ok(Some(identity))
}
