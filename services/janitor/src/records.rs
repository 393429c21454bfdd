//! Our own records as the plan wants them: who needs what, and when it was last used.

use chrono::{DateTime, Duration, Utc};
use mecapy_registry::{Digest, ImageRef};
use mecapy_store::PgPool;
use mecapy_store::cleanup_usage::{self, Asked};

use crate::Error;
use crate::plan::{Function, Need, Usage};

/// Where base images lie.
const BASES: &str = "mecapy/base/python";
/// What was put back stays at least so long.
const PUT_BACK: Duration = Duration::days(30);

/// Reads the records. Read after the inventory: what was published in between is not in it, and what came to be
/// needed in between is.
pub async fn usage(pool: &PgPool, now: DateTime<Utc>) -> Result<Usage, Error> {
    let mut usage = Usage::default();
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
        need(&mut usage, &asked);
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

/// A task names its image by nothing (the function's own), a digest, a tag, or a whole reference.
fn need(usage: &mut Usage, asked: &Asked) {
    let own = asked.docker_image.as_deref().and_then(|image| image.parse::<ImageRef>().ok());
    let repository = own.as_ref().map_or_else(
        || format!("mecapy/functions/user-{}-func-{}", asked.owner, asked.function_id),
        |own| own.repository.clone(),
    );
    let named = match asked.image.as_str() {
        "" => own,
        digest if digest.starts_with("sha256:") => {
            usage.digests.extend(digest.parse().ok().map(|digest| (digest, Need::Task)));
            return;
        }
        tag if !tag.contains('/') => {
            usage.tags.push((repository, tag.to_owned(), Need::Task));
            return;
        }
        reference => reference.parse().ok(),
    };
    let Some(named) = named else { return };
    match named.digest {
        Some(digest) => usage.digests.push((digest, Need::Task)),
        None => {
            let tag = named.tag.unwrap_or_else(|| "latest".to_owned());
            usage.tags.push((named.repository, tag, Need::Task));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn needed(image: &str, docker_image: Option<String>) -> (usize, Vec<(String, String)>) {
        let mut usage = Usage::default();
        let asked = Asked {
            image: image.to_owned(),
            function_id: 7,
            owner: "acme".to_owned(),
            docker_image,
        };
        need(&mut usage, &asked);
        let tags = usage.tags.into_iter().map(|(repository, tag, _)| (repository, tag)).collect();
        (usage.digests.len(), tags)
    }

    #[test]
    fn however_a_task_names_its_image_it_is_needed() {
        let own = "mecapy/functions/user-acme-func-7";
        let tag = |tag: &str| vec![(own.to_owned(), tag.to_owned())];
        let current = Some(format!("h:1/{own}:v1-a@{DIGEST}"));
        assert_eq!(needed("", current.clone()), (1, vec![]));
        assert_eq!(needed("", None), (0, vec![]));
        assert_eq!(needed(DIGEST, None), (1, vec![]));
        assert_eq!(needed("v1-a", None), (0, tag("v1-a")));
        assert_eq!(needed("v1-a", current), (0, tag("v1-a")));
        assert_eq!(needed(&format!("h:1/{own}:v2-b"), None), (0, tag("v2-b")));
        assert_eq!(needed(&format!("h:1/{own}"), None), (0, tag("latest")));
        assert_eq!(needed(&format!("h:1/{own}:v2-b@{DIGEST}"), None), (1, vec![]));
    }
}
