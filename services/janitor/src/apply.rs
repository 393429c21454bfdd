//! Applies a plan, one thing after the other: each is kept first, checked again just before, and recorded after.
//! Whoever goes on with a run that was cut off finds in the rows what is left.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use chrono::Utc;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use mecapy_registry::{Deleted, Deletion, Digest, Manifest};
use mecapy_store::cleanup_items::{self, Item};
use mecapy_store::cleanup_runs::{Lock, Run};
use mecapy_store::{Turn, cleanup_usage, registry_images};
use tokio::sync::Mutex;

use crate::plan::{Tag, function_of};
use crate::waiting::WaitingTasks;
use crate::{Error, Janitor, metric_definitions as metrics};

/// What became of one thing.
enum End {
    Done,
    Absent(&'static str),
    Skipped(String),
    Refused(String),
}

/// A run that is applied, by whoever has the lock.
pub(crate) struct Applying<'a> {
    pub janitor: &'a Janitor,
    pub run: &'a Run,
    pub lock: &'a Lock,
    pub waiting: &'a WaitingTasks<'a>,
    /// Of the repository that was come to last.
    tags: Mutex<Option<(String, Tags)>>,
}

/// Where the tags of a repository led when the run planned.
type Tags = Arc<HashMap<String, String>>;

impl Janitor {
    pub(crate) async fn apply(
        &self,
        run: &Run,
        lock: &Lock,
        waiting: &WaitingTasks<'_>,
    ) -> Result<(), Error> {
        Applying { janitor: self, run, lock, waiting, tags: Mutex::default() }.all().await
    }
}

impl Applying<'_> {
    /// Does what is planned still, in the order of the plan: what others depend on goes first.
    async fn all(&self) -> Result<(), Error> {
        let items = cleanup_items::items(&self.janitor.pool, &self.run.id).await?;
        for level in items.chunk_by(|one, other| one.depth == other.depth) {
            let planned: Vec<Item> =
                level.iter().filter(|item| item.state == "planned").cloned().collect();
            stream::iter(planned)
                .map(|item| self.item(item))
                .buffer_unordered(self.janitor.options.concurrency)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Read once for each repository: items begin in the order of the plan, which has each repository's together.
    async fn tags(&self, repository: &str) -> Result<Tags, Error> {
        let mut newest = self.tags.lock().await;
        if let Some((of, tags)) = &*newest
            && of == repository
        {
            return Ok(Arc::clone(tags));
        }
        let (pool, run) = (&self.janitor.pool, &self.run.id);
        let tags = registry_images::tags_as_planned(pool, repository, run).await?;
        let tags = Tags::new(tags.into_iter().collect());
        *newest = Some((repository.to_owned(), Arc::clone(&tags)));
        Ok(tags)
    }

    async fn item(&self, item: Item) -> Result<(), Error> {
        let item = &item;
        let tags = self.tags(&item.repository).await?;
        let (run, pool) = (self.run, &self.janitor.pool);
        let end = match cleanup_items::may_go(pool, item, run.fence).await? {
            None => return Err(Error::Overtaken),
            Some(false) => End::Skipped("what it belongs to stays".to_owned()),
            Some(true) => match self.act(item, &tags).await {
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
        if !cleanup_items::settle(pool, item, &["planned"], state, outcome).await? {
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

    /// Whoever may have lost the lock touches nothing any more.
    async fn check_lock(&self) -> Result<(), Error> {
        if self.lock.is_held().await { Ok(()) } else { Err(Error::LockLost) }
    }

    async fn act(&self, item: &Item, tags: &HashMap<String, String>) -> Result<End, Error> {
        let Janitor { pool, inventory, .. } = self.janitor;
        let digest: Digest = item.digest.parse()?;
        if let Some(to) = &item.moved_to {
            return self.move_tag(item, digest, to.parse()?).await;
        }
        if !item.has_manifest {
            match inventory.raw(&item.repository, &digest).await {
                Ok(manifest) => {
                    let (media_type, raw) = (&manifest.media_type, &manifest.raw);
                    cleanup_items::keep_manifest(pool, item, media_type, raw).await?;
                }
                Err(error) if error.is_not_found() => {
                    return Ok(End::Absent("it was gone before the run came to it"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(objection) = self.objection(item, digest).await? {
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
        // Of versions' tags, and those of referrers, that led elsewhere in the plan it is known where they lead: they
        // are not moved onto an older image, but by a build, whose record was asked.
        let elsewhere = |tag: &str| {
            tags.get(tag).is_some_and(|lead| *lead != item.digest)
                && matches!(Tag::read(tag), Tag::Version(_) | Tag::Referrer(_))
        };
        self.check_lock().await?;
        Ok(match inventory.delete_beside(&item.repository, &deletion, &elsewhere).await? {
            Deleted::Done => self.unless_needed(item, digest).await?,
            // Kept by an earlier try, and gone now: that try deleted it and could not say so.
            Deleted::Absent if item.has_manifest => End::Done,
            Deleted::Absent => End::Absent("it was gone before the run came to it"),
            Deleted::Changed { reason } => End::Skipped(reason),
            Deleted::Refused { reason } => End::Refused(reason),
        })
    }

    /// The deletion took its time. What has come to need the image meanwhile gets it back at once.
    async fn unless_needed(&self, item: &Item, digest: Digest) -> Result<End, Error> {
        match self.objection(item, digest).await? {
            Some(objection) if item.action == "delete" && self.be_there(item, digest).await? => {
                Ok(End::Skipped(format!("it was put back at once: {objection}")))
            }
            _ => Ok(End::Done),
        }
    }

    /// What was deleted a moment ago still has its blobs. False: it can't be put back by itself, so that it counts as
    /// deleted, and an undo finds it.
    async fn be_there(&self, item: &Item, digest: Digest) -> Result<bool, Error> {
        if self.janitor.primary.resolve(&item.repository, &digest.to_string()).await?.is_some() {
            return Ok(true);
        }
        let Some((media_type, raw)) = cleanup_items::manifest(&self.janitor.pool, item).await?
        else {
            return Ok(false);
        };
        let manifest = Manifest::new(Bytes::from(raw), media_type);
        match self.janitor.inventory.restore(&item.repository, &manifest, &item.tags).await {
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

    /// `latest` goes where the function's current version is, unless somebody moved it in between.
    async fn move_tag(&self, item: &Item, from: Digest, to: Digest) -> Result<End, Error> {
        let Some(tag) = item.tags.first() else {
            return Ok(End::Skipped("it names no tag".to_owned()));
        };
        // The publisher moves it in its own turn.
        let _turn = Turn::at(&self.janitor.pool, &format!("tag {}:{tag}", item.repository)).await?;
        let now =
            self.janitor.primary.resolve(&item.repository, tag).await?.map(|lead| lead.digest);
        if now == Some(to) {
            return Ok(End::Absent("it leads there already"));
        }
        if now != Some(from) {
            return Ok(End::Skipped(format!("`{tag}` was moved after the plan")));
        }
        let function = match function_of(&item.repository) {
            Some(id) => cleanup_usage::function(&self.janitor.pool, id).await?,
            None => None,
        };
        let is_current = function.is_some_and(|function| {
            function.is_live
                && !function.is_publishing
                && function.current.as_deref() == item.moved_to.as_deref()
        });
        if !is_current {
            return Ok(End::Skipped("another version is the newest by now".to_owned()));
        }
        let is_awaited = self.waiting.need(&item.repository, &item.tags, from).await?;
        let (names, function) = (self.names(item), function_of(&item.repository));
        let needs =
            cleanup_usage::needs(&self.janitor.pool, &item.digest, &names, function, Utc::now())
                .await?;
        if is_awaited || needs.task {
            return Ok(End::Skipped("a task names it that came after the plan".to_owned()));
        }
        let manifest = self.janitor.primary.manifest(&item.repository, &to.to_string()).await?;
        self.check_lock().await?;
        self.janitor.primary.put_manifest(&item.repository, tag, &manifest).await?;
        Ok(End::Done)
    }
}
