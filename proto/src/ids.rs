//! Ids as types of their own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// An id that isn't one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("{what} must be a UUID, not {value:?}")]
    NotUuid { what: &'static str, value: String },
    #[error("a function id must be a positive whole number, not {0:?}")]
    NotPositive(String),
    #[error("an owner is 1 to 39 of a-z, 0-9 and single '-' inside, not {0:?}")]
    NotOwner(String),
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id; ids made later sort later.
            #[expect(clippy::new_without_default, reason = "a new id each time is no default")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }

            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(value: &str) -> Result<Self, IdError> {
                Uuid::try_parse(value)
                    .map(Self)
                    .map_err(|_| IdError::NotUuid { what: $what, value: value.to_owned() })
            }
        }
    };
}

uuid_id!(
    /// One build of one version of a function.
    BuildId,
    "build_id"
);
uuid_id!(
    /// One run of a function, over all its attempts.
    TaskId,
    "task_id"
);

/// A function, over all its versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionId(i64);

impl FunctionId {
    pub fn new(id: i64) -> Result<Self, IdError> {
        if id > 0 { Ok(Self(id)) } else { Err(IdError::NotPositive(id.to_string())) }
    }

    pub const fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FunctionId {
    type Err = IdError;

    fn from_str(value: &str) -> Result<Self, IdError> {
        value.parse().map_err(|_| IdError::NotPositive(value.to_owned())).and_then(Self::new)
    }
}

/// Who owns a function. Part of the image's name, so its alphabet is a registry's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

impl Owner {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Owner {
    type Err = IdError;

    fn from_str(value: &str) -> Result<Self, IdError> {
        let fine = (1..=39).contains(&value.len())
            && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !value.starts_with('-')
            && !value.ends_with('-')
            && !value.contains("--");
        if fine { Ok(Self(value.to_owned())) } else { Err(IdError::NotOwner(value.to_owned())) }
    }
}

impl TryFrom<String> for Owner {
    type Error = IdError;

    fn try_from(value: String) -> Result<Self, IdError> {
        value.parse()
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_fits_into_an_image_name() {
        for good in ["a", "acme", "acme-2", "0x0"] {
            assert!(good.parse::<Owner>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a--b", "a/b", "ä", &"a".repeat(40)] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_function_id_is_positive() {
        assert!("0".parse::<FunctionId>().is_err());
        assert!("-1".parse::<FunctionId>().is_err());
        assert_eq!("7".parse::<FunctionId>().map(FunctionId::get), Ok(7));
    }
}
