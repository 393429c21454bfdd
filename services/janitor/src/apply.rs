//! Applies a plan, one thing after the other: each is kept first, checked again just before, and recorded after.
//! Whoever goes on with a run that was cut off finds in the rows what is left.

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_registry::{Deleted, Deletion, Digest, Manifest};
use mecapy_store::cleanup_items::{self, Item};
use mecapy_store::cleanup_runs::Run;
use mecapy_store::{Turn, cleanup_usage};

use crate::plan::function_of;
use crate::{Error, Janitor, metric_definitions as metrics};

/// What became of one thing.
enum End {
    Done,
    Absent(&'static str),
    Skipped(String),
    Refused(String),
}

impl Janitor {
    /// Does what is planned still, in the order of the plan: what others depend on goes first.
    pub(crate) async fn apply(&self, run: &Run) -> Result<(), Error> {
        let items = cleanup_items::items(&self.pool, &run.id).await?;
        for level in items.chunk_by(|one, other| one.depth == other.depth) {
            let planned: Vec<Item> =
                level.iter().filter(|item| item.state == "planned").cloned().collect();
            stream::iter(planned)
                .map(|item| self.item(run, item))
                .buffer_unordered(self.options.concurrency)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn item(&self, run: &Run, item: Item) -> Result<(), Error> {
        let item = &item;
        let end = match cleanup_items::may_go(&self.pool, item, run.fence).await? {
            None => return Err(Error::Overtaken),
            Some(false) => End::Skipped("what it belongs to stays".to_owned()),
            Some(true) => match self.act(run, item).await {
                Ok(end) => end,
                // It concerns this image; the others can go.
                Err(Error::Registry(error)) if !error.is_transient() => {
                    End::Refused(mecapy_service::chain(&error))
                }
                Err(error) => return Err(error),
            },
        };
        let (state, outcome) = match &end {
            End::Done => ("done", ""),
            End::Absent(why) => ("absent", *why),
            End::Skipped(why) => ("skipped", why.as_str()),
            End::Refused(why) => ("refused", why.as_str()),
        };
        if !cleanup_items::settle(&self.pool, item, &["planned"], state, outcome).await? {
            return Ok(());
        }
        match end {
            End::Done if item.action == "delete" => {
                metrics::images_deleted(format!("{}/{}", item.policy, item.rule)).increment(1);
            }
            End::Skipped(_) | End::Refused(_) => metrics::images_skipped().increment(1),
            End::Done | End::Absent(_) => {}
        }
        tracing::info!(
            run.id = run.id,
            image = format!("{}@{}", item.repository, item.digest),
            action = item.action,
            rule = item.rule,
            state,
            outcome,
            "{}",
            item.reason
        );
        Ok(())
    }

    async fn act(&self, run: &Run, item: &Item) -> Result<End, Error> {
        let digest: Digest = item.digest.parse()?;
        if let Some(to) = &item.moved_to {
            return self.move_tag(item, digest, to.parse()?).await;
        }
        if !item.has_manifest {
            match self.inventory.raw(&item.repository, &digest).await {
                Ok(manifest) => {
                    let (media_type, raw) = (&manifest.media_type, &manifest.raw);
                    cleanup_items::keep_manifest(&self.pool, item, media_type, raw).await?;
                }
                Err(error) if error.is_not_found() => {
                    return Ok(End::Absent("it was gone before the run came to it"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(objection) = self.objection(run, item, digest).await? {
            // An earlier try may have deleted it, and not have come to put it back.
            let is_there = !item.has_manifest
                || item.action != "delete"
                || self.be_there(item, digest).await?;
            return Ok(if is_there { End::Skipped(objection) } else { End::Done });
        }
        let deletion = match (item.action.as_str(), item.tags.first()) {
            ("remove_tag", Some(tag)) => Deletion::Tag { tag: tag.clone(), digest },
            _ => Deletion::Manifest { digest, tags: item.tags.clone() },
        };
        Ok(match self.inventory.delete(&item.repository, &deletion).await? {
            Deleted::Done => self.unless_needed(run, item, digest).await?,
            // Kept by an earlier try, and gone now: that try deleted it and could not say so.
            Deleted::Absent if item.has_manifest => End::Done,
            Deleted::Absent => End::Absent("it was gone before the run came to it"),
            Deleted::Changed { reason } => End::Skipped(reason),
            Deleted::Refused { reason } => End::Refused(reason),
        })
    }

    /// The deletion took its time. What has come to need the image meanwhile gets it back at once.
    async fn unless_needed(&self, run: &Run, item: &Item, digest: Digest) -> Result<End, Error> {
        match self.objection(run, item, digest).await? {
            Some(objection) if item.action == "delete" && self.be_there(item, digest).await? => {
                Ok(End::Skipped(format!("it was put back at once: {objection}")))
            }
            _ => Ok(End::Done),
        }
    }

    /// What was deleted a moment ago still has its blobs. False: it can't be put back by itself, so that it counts as
    /// deleted, and an undo finds it.
    async fn be_there(&self, item: &Item, digest: Digest) -> Result<bool, Error> {
        if self.primary.resolve(&item.repository, &digest.to_string()).await?.is_some() {
            return Ok(true);
        }
        let Some((media_type, raw)) = cleanup_items::manifest(&self.pool, item).await? else {
            return Ok(false);
        };
        let manifest = Manifest::new(Bytes::from(raw), media_type);
        match self.inventory.restore(&item.repository, &manifest, &item.tags).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => {
                tracing::error!(
                    image = format!("{}@{digest}", item.repository),
                    error = mecapy_service::chain(&error),
                    "an image that is needed was deleted and can't be put back: try `mecapy cleanup undo`"
                );
                Ok(false)
            }
        }
    }

    /// What has come up since the plan.
    async fn objection(
        &self,
        run: &Run,
        item: &Item,
        digest: Digest,
    ) -> Result<Option<String>, Error> {
        let since = run.planned_at.unwrap_or(run.requested_at);
        let function = function_of(&item.repository);
        let names = self.names(item);
        let needs = cleanup_usage::needs(&self.pool, &item.digest, &names, function, since).await?;
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
        if self.options.require_mirrored && item.action == "delete" {
            return self.missing_in_fallback(item, digest).await;
        }
        Ok(None)
    }

    async fn missing_in_fallback(
        &self,
        item: &Item,
        digest: Digest,
    ) -> Result<Option<String>, Error> {
        let Some(fallback) = &self.fallback else {
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
    fn names(&self, item: &Item) -> Vec<String> {
        let mut names = Vec::new();
        for tag in &item.tags {
            names.push(tag.clone());
            for host in &self.hosts {
                names.push(format!("{host}/{}:{tag}", item.repository));
                if tag == "latest" {
                    names.push(format!("{host}/{}", item.repository));
                }
            }
        }
        names
    }

    /// `latest` goes where the function's current version is, unless somebody moved it in between.
    async fn move_tag(&self, item: &Item, from: Digest, to: Digest) -> Result<End, Error> {
        let Some(tag) = item.tags.first() else {
            return Ok(End::Skipped("it names no tag".to_owned()));
        };
        // The publisher moves it in its own turn.
        let _turn = Turn::at(&self.pool, &format!("tag {}:{tag}", item.repository)).await?;
        let now = self.primary.resolve(&item.repository, tag).await?.map(|lead| lead.digest);
        if now == Some(to) {
            return Ok(End::Absent("it leads there already"));
        }
        if now != Some(from) {
            return Ok(End::Skipped(format!("`{tag}` was moved after the plan")));
        }
        let functions = cleanup_usage::functions(&self.pool).await?;
        let is_current = functions.iter().any(|function| {
            Some(function.id) == function_of(&item.repository)
                && function.is_live
                && !function.is_publishing
                && function.current.as_deref() == item.moved_to.as_deref()
        });
        if !is_current {
            return Ok(End::Skipped("another version is the newest by now".to_owned()));
        }
        let (names, function) = (self.names(item), function_of(&item.repository));
        let needs =
            cleanup_usage::needs(&self.pool, &item.digest, &names, function, Utc::now()).await?;
        if needs.task {
            return Ok(End::Skipped("a task names it that came after the plan".to_owned()));
        }
        let manifest = self.primary.manifest(&item.repository, &to.to_string()).await?;
        self.primary.put_manifest(&item.repository, tag, &manifest).await?;
        Ok(End::Done)
    }
}
