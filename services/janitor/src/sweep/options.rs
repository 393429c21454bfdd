//! `[janitor.sweep]`.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

/// A message that came twice within this is known by the inbox, so the inbox must know it for longer.
const STREAM_DAYS: u32 = 7;
/// What the mirror and the janitor's policies look back.
const LEAST_USAGE_DAYS: u32 = 90;
/// A message may wait for as long as its stream keeps it, and be replayed from the dead letters after that.
const LEAST_INPUT_DAYS: u32 = 30;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How often stalled builds and tasks are looked for.
    pub every_seconds: u64,
    /// A build or task that has not moved for this long, and whose message no queue holds, is sent again.
    pub stalled_seconds: u64,
    /// Sent again so often without moving on, it is ended.
    pub max_resends: u32,
    /// The workers' `limits.timeout_seconds`: no task runs longer.
    pub task_limit_seconds: u64,
    /// How often rows, staging images and objects that have had their use are looked for.
    pub housekeeping_seconds: u64,
    /// Staging images, and objects, are looked at for so long each time. What is left then, the next time has.
    pub housekeeping_limit_seconds: u64,
    /// Handled messages are remembered for this long. Streams keep messages for 7 days.
    pub inbox_days: u32,
    /// How often each image ran, by day.
    pub usage_days: u32,
    /// What a layer holds, since it was last asked for.
    pub layer_index_days: u32,
    /// Images in staging, since their build ended.
    pub staging_hours: u32,
    /// Dependency images in staging, since a build last stood on them. Those of functions that live stay.
    pub dependency_image_days: u32,
    /// Logs, locks, Dockerfiles, sources and scan reports of builds. Those of what functions run now stay.
    pub build_object_days: u32,
    /// Inputs, results and streams of tasks.
    pub task_object_days: u32,
    /// What producers put under `inputs/`, since it came. What a task that has not ended was given stays. 0: for ever.
    pub producer_input_days: u32,
    /// Reports of mirror runs and cleanups. 0: for ever.
    pub report_days: u32,
    /// Deliveries of webhooks, since they ended. A dead letter can be replayed for as long.
    pub delivery_days: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            every_seconds: 60,
            stalled_seconds: 600,
            max_resends: 3,
            task_limit_seconds: 300,
            housekeeping_seconds: 3600,
            housekeeping_limit_seconds: 600,
            inbox_days: 8,
            usage_days: 400,
            layer_index_days: 30,
            staging_hours: 24,
            dependency_image_days: 30,
            build_object_days: 90,
            task_object_days: 30,
            producer_input_days: 90,
            report_days: 400,
            delivery_days: 30,
        }
    }
}

impl Options {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let key = |name: &str| format!("janitor.sweep.{name}");
        for (name, value) in [
            ("every_seconds", self.every_seconds),
            ("stalled_seconds", self.stalled_seconds),
            ("max_resends", self.max_resends.into()),
            ("task_limit_seconds", self.task_limit_seconds),
            ("housekeeping_seconds", self.housekeeping_seconds),
            ("housekeeping_limit_seconds", self.housekeeping_limit_seconds),
            ("layer_index_days", self.layer_index_days.into()),
            ("staging_hours", self.staging_hours.into()),
            ("dependency_image_days", self.dependency_image_days.into()),
            ("build_object_days", self.build_object_days.into()),
            ("task_object_days", self.task_object_days.into()),
        ] {
            if value == 0 {
                return Err(ConfigError::key(key(name), "must be at least 1"));
            }
        }
        if self.inbox_days <= STREAM_DAYS {
            return Err(ConfigError::key(
                key("inbox_days"),
                "must be more than 7: streams keep messages for 7 days, and one that comes again must be known",
            ));
        }
        if self.delivery_days <= STREAM_DAYS {
            return Err(ConfigError::key(
                key("delivery_days"),
                "must be more than 7: an event that comes again within 7 days must be known",
            ));
        }
        if (1..LEAST_INPUT_DAYS).contains(&self.producer_input_days) {
            return Err(ConfigError::key(
                key("producer_input_days"),
                "must be 0 (for ever) or at least 30: a dead letter that is replayed needs its inputs",
            ));
        }
        if self.usage_days < LEAST_USAGE_DAYS {
            return Err(ConfigError::key(
                key("usage_days"),
                "must be at least 90: by it images count as used",
            ));
        }
        Ok(())
    }

    pub(super) fn every(&self) -> Duration {
        Duration::from_secs(self.every_seconds)
    }

    pub(super) fn housekeeping_every(&self) -> Duration {
        Duration::from_secs(self.housekeeping_seconds)
    }

    /// When a part that begins now ends.
    pub(super) fn housekeeping_end(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.housekeeping_limit_seconds)
    }

    pub(super) fn stalled_after(&self) -> Duration {
        Duration::from_secs(self.stalled_seconds)
    }

    pub(super) fn task_limit(&self) -> Duration {
        Duration::from_secs(self.task_limit_seconds)
    }

    pub(super) fn staging_age(&self) -> TimeDelta {
        TimeDelta::hours(self.staging_hours.into())
    }
}

pub(super) fn days(days: u32) -> TimeDelta {
    TimeDelta::days(days.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inbox_can_not_be_shorter_than_the_streams() {
        assert!(Options::default().validate().is_ok());
        let short = Options { inbox_days: 7, ..Options::default() };
        let error = short.validate().unwrap_err().to_string();
        assert!(error.contains("janitor.sweep.inbox_days"), "{error}");
        assert!(Options { staging_hours: 0, ..Options::default() }.validate().is_err());
        assert!(Options { usage_days: 30, ..Options::default() }.validate().is_err());
        for (days, is_fine) in [(0, true), (7, false), (30, true)] {
            let options = Options { producer_input_days: days, ..Options::default() };
            assert_eq!(options.validate().is_ok(), is_fine, "{days}");
        }
    }
}
