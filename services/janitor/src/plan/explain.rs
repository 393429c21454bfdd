//! A decision's reason, as a sentence. Made when somebody asks: most of a million are never asked for.

use super::{Decision, ImageId, Plan, Policies, Rule, Snapshot, TagChange, function_of};

impl Plan {
    /// Why this becomes of an image.
    pub fn reason(&self, snapshot: &Snapshot, policies: &Policies, image: ImageId) -> String {
        let Decision { rule, detail, .. } = self.decision(image);
        sentence(snapshot, policies, image, rule, detail)
    }

    pub fn reason_of_change(
        &self,
        snapshot: &Snapshot,
        policies: &Policies,
        change: &TagChange,
    ) -> String {
        sentence(snapshot, policies, change.image, change.rule, change.detail)
    }
}

fn sentence(
    snapshot: &Snapshot,
    policies: &Policies,
    image: ImageId,
    rule: Rule,
    detail: u32,
) -> String {
    let repository = snapshot.repository(image);
    let policy = policies.of(repository).map(|(_, policy)| policy);
    let limit = |of: fn(&super::Policy) -> u32| policy.map_or(0, of);
    let other = || {
        let other = ImageId(detail);
        let tag = snapshot.tags(other).next().map(|tag| format!(" ({tag})")).unwrap_or_default();
        format!("{}{tag}", snapshot.digest(other))
    };
    match rule {
        Rule::DeletedFunction => {
            format!("its function {} was deleted", function_of(repository).unwrap_or_default())
        }
        Rule::Unused => format!(
            "no task or build used it for {detail} days; the limit is {}",
            limit(|policy| policy.unused_days)
        ),
        Rule::OldVersion => format!(
            "its version is number {detail} from the newest; {} are kept",
            limit(|policy| policy.keep_versions)
        ),
        Rule::StaleLatest => format!(
            "no tag leads to it, and it has not been used for {detail} days; the limit is {}",
            limit(|policy| policy.stale_latest_days)
        ),
        Rule::GoesAlong => format!("it belongs to {}, which is deleted", other()),
        Rule::Latest => format!("the newest version that is ready is {}", other()),
        Rule::NoPolicy => format!("no policy names {repository}"),
        Rule::Young => "it is younger than 24 hours".to_owned(),
        Rule::Task => "a queued or running task runs it".to_owned(),
        Rule::Build => "a build in flight needs it".to_owned(),
        Rule::Current => "it is what a live function runs".to_owned(),
        Rule::Base => "a live function is built on it".to_owned(),
        Rule::PutBack => "it was put back less than 30 days ago".to_owned(),
        Rule::Tagged => "a tag that is kept leads to it".to_owned(),
        Rule::WithinPolicy => "it is within the limits of its policy".to_owned(),
        Rule::NeededBy => format!("{} needs it, and is kept", other()),
        Rule::Unclear => "what it belongs to is not clear".to_owned(),
    }
}
