//! Log-ins to the console: an API token for a cookie.
//!
//! A session is a row, so that every replica knows it. It is worth what its token is worth at this moment: when the
//! token is taken away, so is the session, and its role is the token's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use mecapy_store::sessions;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Api, note};
use crate::auth::hash;
use crate::{Caller, Error, Options, Tokens, metric_definitions as metrics};

/// Wrong tokens from one address within [`WINDOW`]; then it is told to wait.
const MAX_WRONG: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered at once; while they are as many, a wrong token from a new one is one too many.
const MAX_ADDRESSES: usize = 10_000;

/// Who is logged in.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pub caller: Caller,
    pub expires_at: DateTime<Utc>,
    secret: Secret,
}

/// What the browser holds.
#[derive(Clone, Copy)]
struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Secret {
    fn parse(cookie: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(cookie, &mut bytes).ok().map(|()| Self(bytes))
    }

    /// For one use each: what one is known by tells nothing of another.
    fn derive(self, purpose: &str) -> [u8; 32] {
        Sha256::new().chain_update(purpose).chain_update(self.0).finalize().into()
    }
}

impl Session {
    /// What each form of this session carries, and no other site can know.
    pub(crate) fn csrf(&self) -> String {
        hex::encode(self.secret.derive("csrf"))
    }

    pub(crate) fn is_its_csrf(&self, given: &str) -> bool {
        self.csrf().as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// What came of a log-in.
#[derive(Debug)]
pub(crate) enum LogIn {
    /// The cookie's value.
    Done {
        cookie: String,
        caller: Caller,
    },
    WrongToken,
    /// Too many wrong tokens came from there.
    TooMany,
}

#[derive(Debug)]
pub(super) struct Sessions {
    lasts: Duration,
    has_secure_cookie: bool,
    attempts: Mutex<Attempts>,
}

impl Sessions {
    pub(super) fn new(options: &Options) -> Self {
        let lasts = Duration::from_secs(options.console_session_hours * 60 * 60);
        let has_secure_cookie = options.console_secure_cookie;
        Self { lasts, has_secure_cookie, attempts: Mutex::default() }
    }

    /// Whoever guesses is slowed, and nobody else who has the same address: a right token is never asked to wait.
    fn wrong(&self, from: IpAddr) -> LogIn {
        let now = Instant::now();
        let mut attempts = self.attempts();
        if !attempts.may_try(from, now) {
            metrics::console_log_in("too_many");
            return LogIn::TooMany;
        }
        attempts.wrong(from, now);
        drop(attempts);
        metrics::console_log_in("wrong_token");
        tracing::warn!(client.address = %from, "a log-in to the console with a wrong token");
        LogIn::WrongToken
    }

    fn attempts(&self) -> std::sync::MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// The cookie goes over TLS alone.
    pub(crate) fn has_secure_cookie(&self) -> bool {
        self.0.sessions.has_secure_cookie
    }

    pub(crate) fn session_lasts(&self) -> Duration {
        self.0.sessions.lasts
    }

    pub(crate) async fn log_in(
        &self,
        tokens: &Tokens,
        token: &str,
        from: IpAddr,
    ) -> Result<LogIn, Error> {
        let sessions = &self.0.sessions;
        let token_hash = hash(token);
        let Some(caller) = tokens.of_hash(&token_hash) else { return Ok(sessions.wrong(from)) };
        let mut secret = Secret([0; 32]);
        getrandom::fill(&mut secret.0)
            .map_err(|error| Error::Internal(error.to_string().into()))?;
        let mut transaction = self.begin().await?;
        let id = secret.derive("id");
        let owner = caller.owner.as_str();
        sessions::open(&mut transaction, &id, &token_hash, owner, sessions.lasts).await?;
        let detail = json!({ "from": from.to_string() });
        note(&mut transaction, &caller, "log-in", "console", detail).await?;
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        metrics::console_log_in("done");
        Ok(LogIn::Done { cookie: hex::encode(secret.0), caller })
    }

    /// Who this cookie stands for. None: nobody, any more.
    pub(crate) async fn session(
        &self,
        tokens: &Tokens,
        cookie: &str,
    ) -> Result<Option<Session>, Error> {
        let Some(secret) = Secret::parse(cookie) else { return Ok(None) };
        let Some(stored) = sessions::get(&self.0.pool, &secret.derive("id")).await? else {
            return Ok(None);
        };
        let caller = tokens.of_hash(&stored.token_hash);
        Ok(caller.map(|caller| Session { caller, expires_at: stored.expires_at, secret }))
    }

    pub(crate) async fn log_out(&self, session: &Session) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        if sessions::close(&mut transaction, &session.secret.derive("id")).await? {
            note(&mut transaction, &session.caller, "log-out", "console", json!({})).await?;
        }
        transaction.commit().await.map_err(mecapy_store::Error::from)?;
        Ok(())
    }
}

/// Wrong tokens, by where they came from.
#[derive(Debug, Default)]
struct Attempts(HashMap<IpAddr, (u32, Instant)>);

impl Attempts {
    fn may_try(&mut self, from: IpAddr, now: Instant) -> bool {
        if let Some((wrong, since)) = self.0.get(&from) {
            return *wrong < MAX_WRONG || now.duration_since(*since) >= WINDOW;
        }
        if self.0.len() >= MAX_ADDRESSES {
            self.0.retain(|_, (_, since)| now.duration_since(*since) < WINDOW);
        }
        self.0.len() < MAX_ADDRESSES
    }

    fn wrong(&mut self, from: IpAddr, now: Instant) {
        let (wrong, since) = self.0.entry(from).or_insert((0, now));
        if now.duration_since(*since) >= WINDOW {
            (*wrong, *since) = (0, now);
        }
        *wrong += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(last).into()
    }

    #[test]
    fn whoever_is_wrong_too_often_waits_and_others_do_not() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for _ in 0..MAX_WRONG {
            assert!(attempts.may_try(address(1), now));
            attempts.wrong(address(1), now);
        }
        assert!(!attempts.may_try(address(1), now));
        assert!(attempts.may_try(address(2), now));
        assert!(attempts.may_try(address(1), now + WINDOW));
        attempts.wrong(address(1), now + WINDOW);
        assert!(attempts.may_try(address(1), now + WINDOW));
    }

    #[test]
    fn addresses_without_end_take_no_memory_without_end() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        for number in 0..MAX_ADDRESSES as u32 {
            attempts.wrong(address(number), now);
        }
        assert!(!attempts.may_try(address(u32::MAX), now));
        assert!(attempts.may_try(address(u32::MAX), now + WINDOW));
        assert!(attempts.0.is_empty());
    }

    #[test]
    fn what_a_form_carries_tells_nothing_of_the_cookie() {
        let secret = Secret([7; 32]);
        assert_ne!(secret.derive("csrf"), secret.derive("id"));
        let caller = Caller { owner: "acme".parse().unwrap(), role: crate::Role::Owner };
        let session = Session { caller, expires_at: Utc::now(), secret };
        assert!(session.is_its_csrf(&session.csrf()));
        for wrong in ["", "00", &hex::encode([7; 32])] {
            assert!(!session.is_its_csrf(wrong));
        }
        assert!(!format!("{session:?}").contains("7, 7"));
    }

    #[test]
    fn a_cookie_is_64_hexadecimal_digits() {
        assert!(Secret::parse(&"0a".repeat(32)).is_some());
        for wrong in ["", "0a", &"zz".repeat(32), &"0a".repeat(33)] {
            assert!(Secret::parse(wrong).is_none(), "{wrong}");
        }
    }
}
