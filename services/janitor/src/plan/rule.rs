//! The rules by name, as they are in reports, metrics and rows.

/// Why an image or a tag stays, goes or moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Rule {
    // It goes.
    DeletedFunction,
    Unused,
    OldVersion,
    StaleLatest,
    /// What it belongs to goes.
    GoesAlong,
    // A tag moves.
    Latest,
    // It stays.
    NoPolicy,
    Young,
    Task,
    Build,
    Current,
    Base,
    PutBack,
    Tagged,
    WithinPolicy,
    /// Something kept holds it, or it refers to something kept.
    NeededBy,
    /// What it belongs to is not clear.
    Unclear,
}

impl Rule {
    /// Those by which an image goes.
    pub const DELETING: [Self; 5] =
        [Self::DeletedFunction, Self::Unused, Self::OldVersion, Self::StaleLatest, Self::GoesAlong];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeletedFunction => "deleted-function",
            Self::Unused => "unused",
            Self::OldVersion => "old-version",
            Self::StaleLatest => "stale-latest",
            Self::GoesAlong => "goes-along",
            Self::Latest => "latest",
            Self::NoPolicy => "no-policy",
            Self::Young => "young",
            Self::Task => "task",
            Self::Build => "build",
            Self::Current => "current",
            Self::Base => "base",
            Self::PutBack => "put-back",
            Self::Tagged => "tagged",
            Self::WithinPolicy => "within-policy",
            Self::NeededBy => "needed-by",
            Self::Unclear => "unclear",
        }
    }
}
