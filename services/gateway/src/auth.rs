//! Who calls. Tokens are kept as hashes; a token itself is nowhere but with its owner.

use std::collections::HashSet;

use mecapy_proto::Owner;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sees everybody's functions, builds and tasks, and how the system is; changes nothing.
    Viewer,
    /// Sees own functions, builds and tasks.
    Owner,
    /// Sees all of them, and what keeps the system going.
    Operator,
}

impl Role {
    pub const ALL: &[Self] = &[Self::Viewer, Self::Owner, Self::Operator];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Owner => "owner",
            Self::Operator => "operator",
        }
    }
}

/// Who a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub owner: Owner,
    pub role: Role,
}

impl Caller {
    pub fn may_see(&self, owner: &str) -> bool {
        self.scope().is_none_or(|own| own.as_str() == owner)
    }

    /// Whose rows it sees. None: everybody's.
    pub(crate) fn scope(&self) -> Option<&Owner> {
        (self.role == Role::Owner).then_some(&self.owner)
    }

    /// Refuses whoever only looks.
    pub(crate) fn must_act(&self) -> Result<(), Error> {
        match self.role {
            Role::Viewer => Err(Error::Forbidden("this token may look, and change nothing")),
            Role::Owner | Role::Operator => Ok(()),
        }
    }

    /// Refuses whoever sees only what is their own.
    pub(crate) fn must_see_all(&self) -> Result<(), Error> {
        match self.role {
            Role::Owner => Err(Error::Forbidden("this is for operators and viewers")),
            Role::Viewer | Role::Operator => Ok(()),
        }
    }

    /// Refuses whoever does not run the system.
    pub(crate) fn must_operate(&self) -> Result<(), Error> {
        match self.role {
            Role::Operator => Ok(()),
            Role::Viewer | Role::Owner => Err(Error::Forbidden("this is for operators")),
        }
    }
}

/// The tokens that are accepted.
#[derive(Clone)]
pub struct Tokens(Vec<([u8; 32], Caller)>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Lines `owner:role:sha256`, `#` for comments; the error says which line is wrong and how.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut hashes = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (hash, caller) =
                parse_line(line).map_err(|problem| format!("line {}: {problem}", index + 1))?;
            if !hashes.insert(hash) {
                return Err(format!("line {}: this token is there twice", index + 1));
            }
            tokens.push((hash, caller));
        }
        if tokens.is_empty() {
            return Err(
                "there is none, so nobody could call: give lines owner:role:sha256 (tokens_file)"
                    .to_owned(),
            );
        }
        Ok(Self(tokens))
    }

    /// The caller of an `Authorization: Bearer …`. All hashes are compared, each in constant time.
    pub fn caller(&self, authorization: Option<&str>) -> Result<Caller, Error> {
        let (scheme, token) =
            authorization.and_then(|value| value.split_once(' ')).ok_or(Error::Unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Error::Unauthorized);
        }
        self.of_hash(&hash(token)).ok_or(Error::Unauthorized)
    }

    /// Whose token has this hash.
    pub(crate) fn of_hash(&self, given: &[u8]) -> Option<Caller> {
        let mut found = None;
        for (hash, caller) in &self.0 {
            if bool::from(hash.as_slice().ct_eq(given)) {
                found = Some(caller);
            }
        }
        found.cloned()
    }
}

/// Of a token, as it is kept.
pub(crate) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.trim().as_bytes()).into()
}

fn parse_line(line: &str) -> Result<([u8; 32], Caller), String> {
    // Never the line itself in an error: someone may have written the token in it.
    let mut parts = line.split(':').map(str::trim);
    let (Some(owner), Some(role), Some(hash), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("must be owner:role:sha256".to_owned());
    };
    let owner: Owner = owner.parse().map_err(|error| format!("{error}"))?;
    let role = Role::ALL
        .iter()
        .find(|known| known.as_str() == role)
        .copied()
        .ok_or("the role is viewer, owner or operator")?;
    let mut bytes = [0; 32];
    hex::decode_to_slice(hash, &mut bytes)
        .map_err(|_| "the third part is the token's SHA-256: 64 hexadecimal digits".to_owned())?;
    Ok((bytes, Caller { owner, role }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(token: &str) -> String {
        hex::encode(Sha256::digest(token.as_bytes()))
    }

    #[test]
    fn a_token_names_its_owner_and_role() {
        let text =
            format!("# ours\n\nacme:owner:{}\r\n ops : operator : {} \n", hash("one"), hash("two"));
        let tokens = Tokens::parse(&text).unwrap();
        let acme = tokens.caller(Some("Bearer one")).unwrap();
        assert_eq!((acme.owner.as_str(), acme.role), ("acme", Role::Owner));
        assert!(acme.may_see("acme") && !acme.may_see("other"));
        let ops = tokens.caller(Some("bearer two")).unwrap();
        assert!(ops.role == Role::Operator && ops.may_see("acme"));
    }

    #[test]
    fn each_role_sees_and_does_what_it_is_for() {
        let of = |role| Caller { owner: "acme".parse().unwrap(), role };
        let may = |caller: &Caller| {
            [
                caller.may_see("other"),
                caller.must_act().is_ok(),
                caller.must_see_all().is_ok(),
                caller.must_operate().is_ok(),
            ]
        };
        assert_eq!(may(&of(Role::Viewer)), [true, false, true, false]);
        assert_eq!(may(&of(Role::Owner)), [false, true, false, false]);
        assert_eq!(may(&of(Role::Operator)), [true, true, true, true]);
    }

    #[test]
    fn anything_else_is_nobody() {
        let tokens = Tokens::parse(&format!("acme:owner:{}", hash("one"))).unwrap();
        for bad in [
            None,
            Some(""),
            Some("Bearer"),
            Some("Bearer "),
            Some("Bearer two"),
            Some("Basic one"),
            Some("one"),
        ] {
            assert!(matches!(tokens.caller(bad), Err(Error::Unauthorized)), "{bad:?}");
        }
    }

    #[test]
    fn a_wrong_line_is_named_and_never_shown() {
        for (text, problem) in [
            ("", "there is none"),
            ("acme:owner", "line 1: must be owner:role:sha256"),
            ("\nAcme:owner:00", "line 2: an owner is"),
            ("acme:root:00", "line 1: the role is"),
            ("acme:owner:s3cret", "line 1: the third part"),
        ] {
            let error = Tokens::parse(text).unwrap_err();
            assert!(error.starts_with(problem), "{error}");
            assert!(!error.contains("s3cret"));
        }
        let twice = format!("a:owner:{0}\nb:owner:{0}", hash("one"));
        assert_eq!(Tokens::parse(&twice).unwrap_err(), "line 2: this token is there twice");
    }
}
