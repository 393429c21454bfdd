//! Our own records as the plan wants them: who needs what, and when it was last used.

use chrono::{DateTime, Duration, Utc};
use mecapy_registry::{Digest, ImageRef};
use mecapy_store::PgPool;
use mecapy_store::cleanup_usage::{self, Asked};

use crate::Error;
use crate::plan::{Function, Need, Usage};
use crate::waiting::WaitingTasks;

/// Where base images lie.
const BASES: &str = "mecapy/base/python";
/// What was put back stays at least so long.
const PUT_BACK: Duration = Duration::days(30);

/// Reads the records. Read after the inventory: what was published in between is not in it, and what came to be
/// needed in between is.
pub(crate) async fn usage(
    pool: &PgPool,
    waiting: &WaitingTasks<'_>,
    now: DateTime<Utc>,
) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    waiting.add_to(&mut usage).await?;
    for (digest, used) in cleanup_usage::last_used(pool).await? {
        if let Ok(digest) = digest.parse() {
            usage.last_used.insert(digest, used);
        }
    }
    for function in cleanup_usage::functions(pool).await? {
        let current: Option<Digest> = function.current.and_then(|digest| digest.parse().ok());
        if function.is_live {
            usage.digests.extend(current.map(|current| (current, Need::Current)));
        }
        let state =
            Function { is_live: function.is_live, current, is_publishing: function.is_publishing };
        usage.functions.insert(function.id, state);
    }
    for asked in cleanup_usage::asked_by_tasks(pool).await? {
        match named(&asked) {
            Some(Named::Digest(digest)) => usage.digests.push((digest, Need::Task)),
            Some(Named::Tag(repository, tag)) => usage.tags.push((repository, tag, Need::Task)),
            None => {}
        }
    }
    let digests = [
        (cleanup_usage::of_open_builds(pool).await?, Need::Build),
        (cleanup_usage::base_digests(pool).await?, Need::Base),
    ];
    for (digests, need) in digests {
        let digests = digests.iter().filter_map(|digest| digest.parse().ok());
        usage.digests.extend(digests.map(|digest| (digest, need)));
    }
    for base in cleanup_usage::bases(pool).await? {
        usage.tags.push((BASES.to_owned(), base, Need::Base));
    }
    for (_, digest) in cleanup_usage::put_back(pool, now - PUT_BACK).await? {
        usage.digests.extend(digest.parse().ok().map(|digest| (digest, Need::PutBack)));
    }
    Ok(usage)
}

/// What a task asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// In whichever repository.
    Digest(Digest),
    /// Repository and tag.
    Tag(String, String),
}

/// A task names its image by nothing (the function's own), a digest, a tag, or a whole reference.
pub(crate) fn named(asked: &Asked) -> Option<Named> {
    let own = asked.docker_image.as_deref().and_then(|image| image.parse::<ImageRef>().ok());
    let reference = match asked.image.as_str() {
        "" => own?,
        digest if digest.starts_with("sha256:") => return digest.parse().ok().map(Named::Digest),
        tag if !tag.contains('/') => {
            let repository = own.map_or_else(
                || format!("mecapy/functions/user-{}-func-{}", asked.owner, asked.function_id),
                |own| own.repository,
            );
            return Some(Named::Tag(repository, tag.to_owned()));
        }
        reference => reference.parse().ok()?,
    };
    Some(match reference.digest {
        Some(digest) => Named::Digest(digest),
        None => {
            let tag = reference.tag.unwrap_or_else(|| "latest".to_owned());
            Named::Tag(reference.repository, tag)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn needed(image: &str, docker_image: Option<String>) -> Option<Named> {
        let asked = Asked {
            image: image.to_owned(),
            function_id: 7,
            owner: "acme".to_owned(),
            docker_image,
        };
        named(&asked)
    }

    #[test]
    fn however_a_task_names_its_image_it_is_needed() {
        let own = "mecapy/functions/user-acme-func-7";
        let tag = |tag: &str| Some(Named::Tag(own.to_owned(), tag.to_owned()));
        let digest = || Some(Named::Digest(DIGEST.parse().unwrap()));
        let current = Some(format!("h:1/{own}:v1-a@{DIGEST}"));
        assert_eq!(needed("", current.clone()), digest());
        assert_eq!(needed("", None), None);
        assert_eq!(needed(DIGEST, None), digest());
        assert_eq!(needed("sha256:x", None), None);
        assert_eq!(needed("v1-a", None), tag("v1-a"));
        assert_eq!(needed("v1-a", current), tag("v1-a"));
        assert_eq!(needed(&format!("h:1/{own}:v2-b"), None), tag("v2-b"));
        assert_eq!(needed(&format!("h:1/{own}"), None), tag("latest"));
        assert_eq!(needed(&format!("h:1/{own}:v2-b@{DIGEST}"), None), digest());
    }
}
