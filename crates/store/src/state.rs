//! The two state machines. Pure: the `UPDATE`s of the entities are built on them.

use std::fmt;

use crate::Error;

macro_rules! states {
    ($(#[$doc:meta])* $name:ident, $column:literal, { $($state:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($state,)* }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$state,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$state => $text,)* }
            }

            /// The states from which this one may be entered, as the database has them.
            pub(crate) fn predecessors(self) -> Vec<&'static str> {
                Self::ALL.iter().filter(|from| from.may_become(self)).map(|from| from.as_str()).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(value: String) -> Result<Self, Error> {
                match value.as_str() {
                    $($text => Ok(Self::$state),)*
                    _ => Err(Error::Unknown { column: $column, value }),
                }
            }
        }
    };
}

states!(
    /// Where a build is.
    BuildState, "builds.state", {
    Queued => "queued",
    Building => "building",
    Scanning => "scanning",
    Publishing => "publishing",
    Ready => "ready",
    Failed => "failed",
    Rejected => "rejected",
});

impl BuildState {
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Ready | Self::Failed | Self::Rejected)
    }

    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Queued => false,
            Self::Building => self == Self::Queued,
            Self::Scanning => self == Self::Building,
            Self::Publishing | Self::Rejected => self == Self::Scanning,
            Self::Ready => self == Self::Publishing,
            Self::Failed => !self.is_final(),
        }
    }
}

states!(
    /// Where a task is.
    TaskState, "tasks.state", {
    Queued => "queued",
    Running => "running",
    Succeeded => "succeeded",
    Failed => "failed",
    TimedOut => "timed_out",
    Oom => "oom",
    Cancelled => "cancelled",
    Lost => "lost",
});

impl TaskState {
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    pub fn may_become(self, next: Self) -> bool {
        match next {
            Self::Queued => false,
            // Running again is another attempt.
            Self::Running => !self.is_final(),
            // Refused before it ran: the image is gone, the deadline has passed, it was cancelled.
            Self::Failed | Self::Cancelled | Self::TimedOut | Self::Lost => !self.is_final(),
            Self::Succeeded | Self::Oom => self == Self::Running,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn build_state() -> impl Strategy<Value = BuildState> {
        proptest::sample::select(BuildState::ALL)
    }

    proptest! {
        #[test]
        fn a_build_never_goes_back(walk in proptest::collection::vec(build_state(), 0..40)) {
            let rank = |state: BuildState| match state {
                BuildState::Queued => 0,
                BuildState::Building => 1,
                BuildState::Scanning => 2,
                BuildState::Publishing => 3,
                BuildState::Ready | BuildState::Failed | BuildState::Rejected => 4,
            };
            let mut at = BuildState::Queued;
            for next in walk {
                if at.may_become(next) {
                    prop_assert!(rank(next) > rank(at));
                    at = next;
                }
            }
        }
    }

    #[test]
    fn nothing_follows_an_end() {
        for end in BuildState::ALL.iter().filter(|state| state.is_final()) {
            assert!(BuildState::ALL.iter().all(|next| !end.may_become(*next)));
        }
        for end in TaskState::ALL.iter().filter(|state| state.is_final()) {
            assert!(TaskState::ALL.iter().all(|next| !end.may_become(*next)));
        }
    }
}
