//! The same request twice is one piece of work.

use mecapy_proto::{BuildId, Owner, TaskId};
use uuid::Uuid;

use crate::{Error, validate};

/// Of our ids only: any fixed UUID would do.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d65_6361_7079_5000_8000_6761_7465_7761);

/// A key that the caller chose (`Idempotency-Key`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

impl IdempotencyKey {
    pub(crate) fn parse(key: &str) -> Result<Self, Error> {
        validate::check_idempotency_key(key)?;
        Ok(Self(key.to_owned()))
    }

    /// The id that a build of this key has.
    pub(crate) fn build(&self, owner: &Owner) -> BuildId {
        BuildId::from_uuid(self.id("build", owner))
    }

    pub(crate) fn task(&self, owner: &Owner) -> TaskId {
        TaskId::from_uuid(self.id("task", owner))
    }

    /// Neither kind nor owner holds a slash, so no two keys read the same.
    fn id(&self, kind: &str, owner: &Owner) -> Uuid {
        Uuid::new_v5(&NAMESPACE, format!("{kind}/{owner}/{}", self.0).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_one_id_an_owner_and_kind() {
        let key = IdempotencyKey::parse("k-1").unwrap();
        let (acme, other): (Owner, Owner) = ("acme".parse().unwrap(), "other".parse().unwrap());
        assert_eq!(key.build(&acme), key.build(&acme));
        assert_ne!(key.build(&acme), key.build(&other));
        assert_ne!(key.build(&acme).uuid(), key.task(&acme).uuid());
        assert_ne!(key.build(&acme), IdempotencyKey::parse("k-2").unwrap().build(&acme));
    }
}
