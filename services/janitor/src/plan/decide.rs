//! Each image by itself: what its policy says of its own tags and age, and what protects it.

use std::collections::HashMap;
use std::ops::Range;

use chrono::{DateTime, Utc};

use super::snapshot::{DigestId, Repository};
use super::tags::Tag;
use super::usage::{Function, Need, Usage, function_of};
use super::{Decision, ImageId, Policies, Policy, Rule, Snapshot, TagChange};

const DAY: i64 = 24 * 60 * 60;
/// What is younger is never touched: it may be in the middle of being published.
const MIN_AGE: i64 = DAY;
const NONE: u32 = u32::MAX;

/// Where an image stands before what it belongs to was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Own {
    Kept,
    Doomed,
    /// No tag of its own: it does what its index or subject does.
    Follows,
}

#[derive(Debug, Default)]
pub(super) struct Decided {
    pub decisions: Vec<Decision>,
    pub own: Vec<Own>,
    /// (owner, dependent): an index and its child, an image and what refers to it. Within a repository.
    pub edges: Vec<(ImageId, ImageId)>,
    pub tag_changes: Vec<TagChange>,
    /// Of images that are to go: made if something that stays needs them.
    pub tag_changes_if_needed: Vec<TagChange>,
    pub under_policy: usize,
}

pub(super) fn decide(
    snapshot: &Snapshot,
    usage: &Usage,
    policies: &Policies,
    now: DateTime<Utc>,
) -> Decided {
    let mut decided = Decided {
        decisions: Vec::with_capacity(snapshot.len()),
        own: Vec::with_capacity(snapshot.len()),
        ..Decided::default()
    };
    let mut needs = vec![0_u8; snapshot.digest_count()];
    for (digest, need) in &usage.digests {
        if let Some(place) = snapshot.place_of(digest) {
            needs[place.index()] |= need.bit();
        }
    }
    let mut tag_needs: HashMap<&str, Vec<(&str, Need)>> = HashMap::new();
    for (repository, tag, need) in &usage.tags {
        tag_needs.entry(repository).or_default().push((tag, *need));
    }
    let built_on = built_on(snapshot, &needs);
    let now = now.timestamp();
    let mut slots = vec![NONE; snapshot.digest_count()];
    for repository in &snapshot.repositories {
        let Some((_, policy)) = policies.of(&repository.name) else {
            decided.keep_all(repository);
            continue;
        };
        let no_needs = Vec::new();
        let scope = Scope {
            snapshot,
            usage,
            policy,
            function: function_of(&repository.name).and_then(|id| usage.functions.get(&id)),
            needs: &needs,
            tag_needs: tag_needs.get(&*repository.name).unwrap_or(&no_needs),
            built_on: &built_on,
            now,
        };
        scope.decide(repository, &mut slots, &mut decided);
    }
    decided
}

/// Blobs of images that live functions run or builds are making: a base image is known by its top layer among them.
fn built_on(snapshot: &Snapshot, needs: &[u8]) -> Vec<bool> {
    let mut blobs = vec![false; snapshot.digest_count()];
    let live = Need::Current.bit() | Need::Build.bit() | Need::Task.bit();
    for id in snapshot.ids() {
        let image = snapshot.image_at(id);
        if !image.is_index && needs[image.digest.index()] & live != 0 {
            for blob in snapshot.held(id) {
                blobs[blob.index()] = true;
            }
        }
    }
    blobs
}

impl Decided {
    fn keep_all(&mut self, repository: &Repository) {
        for _ in repository.images.clone() {
            self.push(Own::Kept, Rule::NoPolicy, 0);
        }
    }

    fn push(&mut self, own: Own, rule: Rule, detail: u32) {
        self.own.push(own);
        self.decisions.push(Decision { is_deleted: own == Own::Doomed, rule, detail });
    }
}

/// One repository under its policy.
struct Scope<'p> {
    snapshot: &'p Snapshot,
    usage: &'p Usage,
    policy: &'p Policy,
    function: Option<&'p Function>,
    needs: &'p [u8],
    tag_needs: &'p [(&'p str, Need)],
    built_on: &'p [bool],
    now: i64,
}

/// The tags of a repository, read once.
struct Tags {
    first: u32,
    read: Vec<Tag>,
    /// Of all version tags, newest first.
    versions: Vec<u32>,
}

impl Tags {
    fn of(&self, places: Range<u32>) -> impl Iterator<Item = (u32, Tag)> {
        places.filter_map(|place| {
            self.read.get((place - self.first) as usize).map(|tag| (place, *tag))
        })
    }

    /// 1 for the newest version.
    fn rank(&self, version: u32) -> u32 {
        let newer = self.versions.partition_point(|other| *other > version);
        u32::try_from(newer).unwrap_or(u32::MAX).saturating_add(1)
    }
}

impl Scope<'_> {
    fn decide(&self, repository: &Repository, slots: &mut [u32], decided: &mut Decided) {
        let images = || repository.images.clone().map(ImageId);
        decided.under_policy += repository.images.len();
        for id in images() {
            slots[self.snapshot.image_at(id).digest.index()] = id.0;
        }
        let there = |place: DigestId| match slots[place.index()] {
            NONE => None,
            id => Some(ImageId(id)),
        };
        let tags = self.read_tags(repository);
        let first_edge = decided.edges.len();
        self.edges(repository, &tags, there, &mut decided.edges);
        let mut has_owner = vec![false; repository.images.len()];
        for (_, dependent) in &decided.edges[first_edge..] {
            has_owner[(dependent.0 - repository.images.start) as usize] = true;
        }
        let moved = self.latest(repository, &tags, there);
        for (id, has_owner) in images().zip(has_owner) {
            let moved_tag =
                moved.as_ref().filter(|(_, change)| change.image == id).map(|(tag, _)| *tag);
            self.image(id, has_owner, moved_tag, &tags, decided);
        }
        decided.tag_changes.extend(moved.map(|(_, change)| change));
        for id in images() {
            slots[self.snapshot.image_at(id).digest.index()] = NONE;
        }
    }

    fn read_tags(&self, repository: &Repository) -> Tags {
        let mut tags = Tags { first: 0, read: Vec::new(), versions: Vec::new() };
        for id in repository.images.clone().map(ImageId) {
            let places = self.snapshot.tag_places(id);
            if tags.read.is_empty() {
                tags.first = places.start;
            }
            tags.read.extend(places.map(|place| Tag::read(self.snapshot.tag(place))));
        }
        tags.versions.extend(tags.read.iter().filter_map(|tag| match tag {
            Tag::Version(version) => Some(*version),
            _ => None,
        }));
        tags.versions.sort_unstable_by(|one, other| other.cmp(one));
        tags.versions.dedup();
        tags
    }

    fn edges(
        &self,
        repository: &Repository,
        tags: &Tags,
        there: impl Fn(DigestId) -> Option<ImageId>,
        edges: &mut Vec<(ImageId, ImageId)>,
    ) {
        for id in repository.images.clone().map(ImageId) {
            let image = self.snapshot.image_at(id);
            if image.is_index {
                edges.extend(
                    self.snapshot.held(id).iter().filter_map(|child| Some((id, there(*child)?))),
                );
            }
            edges.extend(image.subject.and_then(&there).map(|subject| (subject, id)));
            for (_, tag) in tags.of(self.snapshot.tag_places(id)) {
                if let Tag::Referrer(subject) = tag
                    && let Some(subject) = self.snapshot.place_of(&subject).and_then(&there)
                {
                    edges.push((subject, id));
                }
            }
        }
    }

    /// `latest`, if it has to move: its place, and how.
    fn latest(
        &self,
        repository: &Repository,
        tags: &Tags,
        there: impl Fn(DigestId) -> Option<ImageId>,
    ) -> Option<(u32, TagChange)> {
        let function = self.function.filter(|function| {
            self.policy.stale_latest_days > 0 && function.is_live && !function.is_publishing
        })?;
        let newest = there(self.snapshot.place_of(&function.current?)?)?;
        let (holder, place) = repository.images.clone().map(ImageId).find_map(|id| {
            let mut tags = tags.of(self.snapshot.tag_places(id));
            tags.find(|(_, tag)| *tag == Tag::Latest).map(|(place, _)| (id, place))
        })?;
        // A task that names it by this tag would run something else.
        let is_named = self.tag_needs.iter().any(|(tag, _)| *tag == "latest");
        if holder == newest || is_named || self.is_young(holder) {
            return None;
        }
        let change = TagChange {
            image: holder,
            tag: "latest".to_owned(),
            moved_to: Some(newest),
            rule: Rule::Latest,
            detail: newest.0,
        };
        Some((place, change))
    }

    fn image(
        &self,
        id: ImageId,
        has_owner: bool,
        moved_tag: Option<u32>,
        tags: &Tags,
        decided: &mut Decided,
    ) {
        let own_tags = || {
            tags.of(self.snapshot.tag_places(id)).filter(move |(place, tag)| {
                Some(*place) != moved_tag && !matches!(tag, Tag::Referrer(_))
            })
        };
        let is_tagged = own_tags().next().is_some();
        let mut removed_tags = Vec::new();
        let (own, rule, detail) = if !is_tagged && has_owner {
            (Own::Follows, Rule::Unclear, 0)
        } else if self.policy.deleted_functions
            && self.function.is_some_and(|function| !function.is_live)
        {
            (Own::Doomed, Rule::DeletedFunction, 0)
        } else if is_tagged {
            self.tagged(id, tags, own_tags(), &mut removed_tags)
        } else {
            self.untagged(id)
        };
        let own = match self.protection(id) {
            Some(rule) => {
                decided.push(Own::Kept, rule, 0);
                // A task may name it by any tag, and whoever put it back wants it as it was.
                removed_tags.clear();
                Own::Kept
            }
            None => {
                decided.push(own, rule, detail);
                own
            }
        };
        let changes = if own == Own::Kept {
            &mut decided.tag_changes
        } else {
            &mut decided.tag_changes_if_needed
        };
        changes.extend(removed_tags.into_iter().map(|(place, rank)| TagChange {
            image: id,
            tag: self.snapshot.tag(place).to_owned(),
            moved_to: None,
            rule: Rule::OldVersion,
            detail: rank,
        }));
    }

    fn tagged(
        &self,
        id: ImageId,
        tags: &Tags,
        own: impl Iterator<Item = (u32, Tag)>,
        removed: &mut Vec<(u32, u32)>,
    ) -> (Own, Rule, u32) {
        if self.policy.keep_tagged {
            return (Own::Kept, Rule::Tagged, 0);
        }
        if let Some(days) = self.idle_for(id, self.policy.unused_days) {
            return (Own::Doomed, Rule::Unused, days);
        }
        let mut is_kept = false;
        for (place, tag) in own {
            match tag {
                Tag::Version(version)
                    if self.policy.keep_versions > 0
                        && tags.rank(version) > self.policy.keep_versions =>
                {
                    removed.push((place, tags.rank(version)));
                }
                _ => is_kept = true,
            }
        }
        match (is_kept, removed.is_empty()) {
            (true, true) => (Own::Kept, Rule::WithinPolicy, 0),
            (true, false) => (Own::Kept, Rule::Tagged, 0),
            (false, _) => {
                let newest = removed.iter().map(|(_, rank)| *rank).min().unwrap_or_default();
                removed.retain(|(_, rank)| *rank > newest);
                (Own::Doomed, Rule::OldVersion, newest)
            }
        }
    }

    /// No tag leads to it, and nothing that is there holds it.
    fn untagged(&self, id: ImageId) -> (Own, Rule, u32) {
        let refers = self.snapshot.image_at(id).subject.is_some()
            || self.snapshot.tags(id).any(|tag| matches!(Tag::read(tag), Tag::Referrer(_)));
        // What something refers to may be there although no list shows it.
        if !refers && let Some(days) = self.idle_for(id, self.policy.stale_latest_days) {
            return (Own::Doomed, Rule::StaleLatest, days);
        }
        match self.idle_for(id, self.policy.unused_days) {
            Some(days) => (Own::Doomed, Rule::Unused, days),
            None => (Own::Kept, Rule::WithinPolicy, 0),
        }
    }

    fn protection(&self, id: ImageId) -> Option<Rule> {
        let image = self.snapshot.image_at(id);
        let mut needs = self.needs[image.digest.index()];
        if !self.tag_needs.is_empty() {
            for tag in self.snapshot.tags(id) {
                for (_, need) in self.tag_needs.iter().filter(|(needed, _)| *needed == tag) {
                    needs |= need.bit();
                }
            }
        }
        let is_base = self.policy.are_bases
            && !image.is_index
            && self.snapshot.held(id).last().is_some_and(|top| self.built_on[top.index()]);
        if is_base {
            needs |= Need::Base.bit();
        }
        let is = |need: Need| needs & need.bit() != 0;
        let reasons = [
            (is(Need::Task), Rule::Task),
            (is(Need::Build), Rule::Build),
            (is(Need::PutBack), Rule::PutBack),
            (self.is_young(id), Rule::Young),
            (is(Need::Current), Rule::Current),
            (is(Need::Base), Rule::Base),
        ];
        reasons.into_iter().find(|(holds, _)| *holds).map(|(_, rule)| rule)
    }

    fn is_young(&self, id: ImageId) -> bool {
        self.now.saturating_sub(self.snapshot.image_at(id).since) < MIN_AGE
    }

    /// The days since it was last used, or came, if they are as many as the limit. No record is not no use: then
    /// it counts from the day it was first seen.
    fn idle_for(&self, id: ImageId, limit: u32) -> Option<u32> {
        let image = self.snapshot.image_at(id);
        let used = self.usage.last_used.get(&self.snapshot.digest_at(image.digest));
        let since = match used.map(DateTime::timestamp) {
            Some(used) if image.is_push_known => used.max(image.since),
            Some(used) => used,
            None => image.since,
        };
        let days = u32::try_from(self.now.saturating_sub(since) / DAY).unwrap_or(0);
        (limit > 0 && days >= limit).then_some(days)
    }
}
