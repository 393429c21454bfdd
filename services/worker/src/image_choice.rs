//! Which image a task runs: the function's current one, or the one that it names.

use mecapy_proto::v1::Failure;
use mecapy_proto::{ErrorCode, failure};
use mecapy_registry::{Digest, ImageRef};
use mecapy_store::scans::Standing;
use mecapy_store::task_runs::KnownFunction;
use mecapy_store::{PgPool, scans};

use crate::Error;
use crate::error::Problem;
use crate::sources::{Source, Sources};

/// An image that may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub repository: String,
    pub digest: Digest,
}

/// What is asked for, before a registry was asked.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    repository: String,
    version: Version,
}

#[derive(Debug, PartialEq, Eq)]
enum Version {
    Digest(Digest),
    Tag(String),
}

/// Chooses, and refuses what has no PASSED scan on record.
pub(crate) async fn choose(
    pool: &PgPool,
    sources: &Sources,
    function: &KnownFunction,
    asked: &str,
) -> Result<Choice, Problem> {
    let Wanted { repository, version } =
        wanted(function, asked, &sources.hosts()).map_err(Problem::Refused)?;
    let digest = match version {
        Version::Digest(digest) => digest,
        Version::Tag(tag) => digest_of(sources, &repository, &tag).await?,
    };
    // Read with the task, where it is the current one that is asked for.
    let current = function.docker_image.as_deref().map(str::parse::<ImageRef>);
    let standing = match current {
        Some(Ok(current)) if current.digest == Some(digest) => function.standing,
        _ => scans::standing(pool, &digest.to_string(), function.id).await?,
    };
    match standing {
        Standing::Passed => Ok(Choice { repository, digest }),
        Standing::NotPassed => Err(Problem::refused(
            ErrorCode::ImageNotScanned,
            format!("{repository}@{digest} has no PASSED scan on record, so it is not run"),
        )),
        Standing::Refused => Err(Problem::refused(
            ErrorCode::ImageRevoked,
            format!("{repository}@{digest} passed its scan, but a newer advisory rejects it"),
        )),
    }
}

/// The digest that a task's image has, where it is known without asking a registry.
pub(crate) fn wanted_digest(function: &KnownFunction, asked: &str) -> Option<Digest> {
    let asked = if asked.is_empty() { function.docker_image.as_deref()? } else { asked };
    let digest = asked.rsplit_once('@').map_or(asked, |(_, digest)| digest);
    digest.parse().ok()
}

/// Reads what is asked for: nothing, a tag, a digest, or a whole reference. Whatever it is, it must be an image
/// of this function: a scan says that an image is safe to run, not whose it is.
fn wanted(function: &KnownFunction, asked: &str, hosts: &[&str]) -> Result<Wanted, Failure> {
    let unknown = |why: String| failure(ErrorCode::ImageNotFound, why);
    let name = format!("user-{}-func-{}", function.owner, function.id);
    let current = function.docker_image.as_deref().map(|image| {
        image
            .parse::<ImageRef>()
            .map_err(|error| failure(ErrorCode::Internal, format!("the function's image: {error}")))
    });
    if asked.is_empty() {
        let current = current.unwrap_or_else(|| {
            Err(failure(
                ErrorCode::FunctionNotReady,
                format!(
                    "function {} has no version that is ready: see how its newest build stands",
                    function.id
                ),
            ))
        })?;
        return Ok(version_of(current));
    }
    let repository = match &current {
        Some(Ok(current)) => current.repository.clone(),
        _ => format!("mecapy/functions/{name}"),
    };
    if asked.starts_with("sha256:") {
        let digest =
            asked.parse().map_err(|error: mecapy_registry::Error| unknown(error.to_string()))?;
        return Ok(Wanted { repository, version: Version::Digest(digest) });
    }
    let reference = match asked.contains('/') {
        true => asked.to_owned(),
        false => format!("{}/{repository}:{asked}", hosts.first().unwrap_or(&"localhost")),
    };
    let reference: ImageRef =
        reference.parse().map_err(|error: mecapy_registry::Error| unknown(error.to_string()))?;
    if !hosts.contains(&reference.registry.as_str()) {
        return Err(unknown(format!(
            "{} is not a registry that images run from",
            reference.registry
        )));
    }
    if reference.repository.rsplit('/').next() != Some(name.as_str()) {
        return Err(unknown(format!("{asked} is not an image of function {}", function.id)));
    }
    Ok(version_of(reference))
}

fn version_of(reference: ImageRef) -> Wanted {
    let version = match (reference.digest, reference.tag) {
        (Some(digest), _) => Version::Digest(digest),
        (None, tag) => Version::Tag(tag.unwrap_or_else(|| "latest".to_owned())),
    };
    Wanted { repository: reference.repository, version }
}

/// Where a tag leads on the primary; on the fallback when that can't be asked.
async fn digest_of(sources: &Sources, repository: &str, tag: &str) -> Result<Digest, Problem> {
    let absent = || {
        Problem::refused(
            ErrorCode::ImageNotFound,
            format!("the registry has no image {repository}:{tag}"),
        )
    };
    // The fallback lags behind: the primary has the last word, when it can be asked.
    let from_fallback = async || match &sources.fallback {
        Some(fallback) => resolve(sources, fallback, repository, tag).await.ok().flatten(),
        None => None,
    };
    let is_closed = sources.primary.is_closed();
    if !is_closed && let Some(digest) = from_fallback().await {
        return Ok(digest);
    }
    match resolve(sources, &sources.primary, repository, tag).await {
        Ok(digest) => digest.ok_or_else(absent),
        Err(failed) if is_closed => from_fallback().await.ok_or(Problem::Passing(failed)),
        Err(failed) => Err(Problem::Passing(failed)),
    }
}

async fn resolve(
    sources: &Sources,
    source: &Source,
    repository: &str,
    tag: &str,
) -> Result<Option<Digest>, Error> {
    let host = source.registry.host();
    match tokio::time::timeout(sources.limit, source.registry.resolve(repository, tag)).await {
        Ok(Ok(found)) => Ok(found.map(|descriptor| descriptor.digest)),
        Ok(Err(error)) => {
            if error.is_transient() {
                source.failed();
            }
            Err(error.into())
        }
        Err(_) => {
            source.failed();
            Err(Error::RegistrySlow {
                host: host.to_owned(),
                what: format!("{repository}:{tag}"),
                seconds: sources.limit.as_secs(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &[&str] = &["primary:5000", "fallback:5000"];
    const REPOSITORY: &str = "mecapy/functions/user-acme-func-7";

    fn function(docker_image: Option<String>) -> KnownFunction {
        let id = mecapy_proto::FunctionId::new(7).unwrap();
        let (owner, standing) = ("acme".to_owned(), Standing::Passed);
        KnownFunction { id, owner, docker_image, standing }
    }

    fn code(asked: &str) -> String {
        wanted(&function(None), asked, HOSTS).unwrap_err().code
    }

    #[test]
    fn nothing_asked_for_is_the_functions_current_image() {
        let digest = Digest::of(b"x");
        let current = function(Some(format!("primary:5000/{REPOSITORY}:v2-0a1b2c3d@{digest}")));
        let expected =
            Wanted { repository: REPOSITORY.to_owned(), version: Version::Digest(digest) };
        assert_eq!(wanted(&current, "", HOSTS).unwrap(), expected);
        assert_eq!(code(""), "function-not-ready");
    }

    #[test]
    fn the_digest_is_known_of_the_current_image_and_of_one_that_is_asked_for_by_it() {
        let digest = Digest::of(b"x");
        let current = function(Some(format!("primary:5000/{REPOSITORY}:v2@{digest}")));
        assert_eq!(wanted_digest(&current, ""), Some(digest));
        assert_eq!(wanted_digest(&function(None), ""), None);
        assert_eq!(wanted_digest(&current, "v1"), None);
        for asked in [digest.to_string(), format!("primary:5000/{REPOSITORY}@{digest}")] {
            assert_eq!(wanted_digest(&function(None), &asked), Some(digest));
        }
    }

    #[test]
    fn a_tag_a_digest_and_a_reference_are_taken() {
        let digest = Digest::of(b"x");
        for (asked, version) in [
            ("v2".to_owned(), Version::Tag("v2".to_owned())),
            (digest.to_string(), Version::Digest(digest)),
            (format!("primary:5000/{REPOSITORY}:v2"), Version::Tag("v2".to_owned())),
            (format!("primary:5000/{REPOSITORY}"), Version::Tag("latest".to_owned())),
            (format!("fallback:5000/{REPOSITORY}:v2@{digest}"), Version::Digest(digest)),
        ] {
            let expected = Wanted { repository: REPOSITORY.to_owned(), version };
            assert_eq!(wanted(&function(None), &asked, HOSTS).unwrap(), expected, "{asked}");
        }
    }

    #[test]
    fn an_image_of_another_function_or_registry_is_not_found() {
        for asked in [
            "primary:5000/mecapy/functions/user-acme-func-8:v1",
            "primary:5000/mecapy/functions/user-other-func-7:v1",
            "elsewhere:5000/mecapy/functions/user-acme-func-7:v1",
            "mecapy/functions/user-acme-func-7:v1",
            "sha256:short",
            "not a tag",
            "primary:5000/UPPER",
        ] {
            assert_eq!(code(asked), "image-not-found", "{asked}");
        }
    }
}
