//! What speaks against deleting an image, asked just before.

use mecapy_registry::Digest;
use mecapy_store::cleanup_items::Item;
use mecapy_store::cleanup_usage;

use crate::Error;
use crate::apply::Applying;
use crate::plan::function_of;

impl Applying<'_> {
    /// What has come up since the plan.
    pub async fn objection(&self, item: &Item, digest: Digest) -> Result<Option<String>, Error> {
        let (run, pool) = (self.run, &self.janitor.pool);
        // The queue before the rows: a task that a worker takes in between is found there.
        if self.waiting.need(&item.repository, &item.tags, digest).await? {
            return Ok(Some("a task that waits needs it".to_owned()));
        }
        let since = run.planned_at.unwrap_or(run.requested_at);
        let function = function_of(&item.repository);
        let names = self.names(item);
        let needs = cleanup_usage::needs(pool, &item.digest, &names, function, since).await?;
        if needs.task {
            return Ok(Some("a task needs it that came after the plan".to_owned()));
        }
        if needs.build {
            return Ok(Some("a build needs it that came after the plan".to_owned()));
        }
        // The tag of an old version may go from what runs now; the image may not.
        if needs.current && item.action == "delete" {
            return Ok(Some("a live function has come to run it".to_owned()));
        }
        if needs.put_back && item.action == "delete" {
            return Ok(Some("it was put back since the plan".to_owned()));
        }
        if needs.used && item.rule == "unused" {
            return Ok(Some("a task has used it since the plan".to_owned()));
        }
        if self.janitor.options.require_mirrored && item.action == "delete" {
            return self.missing_in_fallback(item, digest).await;
        }
        Ok(None)
    }

    async fn missing_in_fallback(
        &self,
        item: &Item,
        digest: Digest,
    ) -> Result<Option<String>, Error> {
        let Some(fallback) = &self.janitor.fallback else {
            return Ok(Some("there is no fallback registry that could hold it".to_owned()));
        };
        // Read, not only asked for: its bytes are then what the digest says.
        match fallback.manifest(&item.repository, &digest.to_string()).await {
            Ok(_) => Ok(None),
            Err(error) if error.is_not_found() => {
                Ok(Some("the fallback registry does not hold it".to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The ways in which a task may name it.
    pub fn names(&self, item: &Item) -> Vec<String> {
        let mut names = Vec::new();
        for tag in &item.tags {
            names.push(tag.clone());
            for host in &self.janitor.hosts {
                names.push(format!("{host}/{}:{tag}", item.repository));
                if tag == "latest" {
                    names.push(format!("{host}/{}", item.repository));
                }
            }
        }
        names
    }
}
