//! Basic and Bearer authentication of one registry, with tokens kept until shortly before their end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mecapy_service::Secret;
use reqwest::header::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex as AsyncMutex;
use url::Url;

use crate::Error;
use crate::challenge::{Challenge, Scope};
use crate::registry::Registry;

/// What a token is worth when its service does not say (the token specification's default).
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);
/// A token is renewed this long before its end, or at four fifths of a shorter life.
const RENEW_BEFORE: Duration = Duration::from_secs(30);
/// However long its service says that it is good.
const LONGEST_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// Above this many scopes, ended tokens are thrown out: every function is a repository.
const MAX_KEPT_TOKENS: usize = 512;

#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) username: String,
    pub(crate) password: Secret,
}

impl Credentials {
    /// The header, marked so that it is never printed.
    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        let pair = format!("{}:{}", self.username, self.password.expose());
        secret_header(format!("Basic {}", STANDARD.encode(pair)))
    }
}

pub(crate) struct Auth {
    credentials: Option<Credentials>,
    /// What the registry asked for last; `None` until it was asked.
    challenge: AsyncMutex<Option<Challenge>>,
    /// One lock a scope, so that ten streams of a copy fetch one token.
    tokens: Mutex<HashMap<Scope, Arc<AsyncMutex<Option<Token>>>>>,
}

struct Token {
    header: HeaderValue,
    renew_at: Instant,
}

/// A question to the token service.
pub(crate) struct TokenRequest {
    pub(crate) url: Url,
    pub(crate) authorization: Option<HeaderValue>,
}

#[derive(Deserialize)]
pub(crate) struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Auth {
    pub(crate) fn new(credentials: Option<Credentials>) -> Self {
        Self { credentials, challenge: AsyncMutex::new(None), tokens: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// The `Authorization` for a call that needs `scope`.
    pub(crate) async fn header(
        &self,
        registry: &Registry,
        scope: &Scope,
    ) -> Result<Option<HeaderValue>, Error> {
        match self.challenge(registry).await? {
            Challenge::Open => Ok(None),
            Challenge::Basic => Ok(self.credentials.as_ref().and_then(Credentials::basic)),
            Challenge::Bearer { realm, service } => {
                self.bearer(registry, &realm, service.as_deref(), scope).await.map(Some)
            }
        }
    }

    /// Takes note of a 401. True when another try has a chance: the registry asks for something
    /// new, or the token it refused may have ended early.
    pub(crate) async fn learn(
        &self,
        headers: &HeaderMap,
        scope: &Scope,
        used: Option<&HeaderValue>,
    ) -> bool {
        let asked = Challenge::read(headers);
        let mut known = self.challenge.lock().await;
        let is_new = asked.is_some() && asked != *known;
        if is_new {
            known.clone_from(&asked);
        }
        drop(known);
        let is_bearer = matches!(asked, Some(Challenge::Bearer { .. }));
        if is_bearer && let Some(used) = used {
            self.forget(scope, used).await;
        }
        is_new || (is_bearer && used.is_some())
    }

    async fn challenge(&self, registry: &Registry) -> Result<Challenge, Error> {
        let mut known = self.challenge.lock().await;
        if let Some(challenge) = &*known {
            return Ok(challenge.clone());
        }
        let challenge = registry.fetch_challenge().await?;
        *known = Some(challenge.clone());
        Ok(challenge)
    }

    async fn bearer(
        &self,
        registry: &Registry,
        realm: &Url,
        service: Option<&str>,
        scope: &Scope,
    ) -> Result<HeaderValue, Error> {
        let slot = self.slot(scope);
        let mut slot = slot.lock().await;
        if let Some(token) = &*slot
            && Instant::now() < token.renew_at
        {
            return Ok(token.header.clone());
        }
        let authorization = self.credentials.as_ref().and_then(Credentials::basic);
        // The realm comes from the registry: it must not talk us into sending a password in clear.
        if authorization.is_some()
            && realm.scheme() != "https"
            && !registry.origin().is_plain_http()
        {
            return Err(registry.no_token("its token service is not HTTPS"));
        }
        let mut url = realm.clone();
        if service.is_some() || !scope.parts().is_empty() {
            let mut query = url.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for part in scope.parts() {
                query.append_pair("scope", part);
            }
        }
        let asked_at = Instant::now();
        let response = registry.fetch_token(TokenRequest { url, authorization }).await?;
        let lifetime = response.expires_in.map_or(DEFAULT_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.min(LONGEST_LIFETIME);
        let token = response
            .token
            .or(response.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| registry.no_token("its token service sent no token"))?;
        let header = secret_header(format!("Bearer {token}"))
            .ok_or_else(|| registry.no_token("its token can't be sent"))?;
        let usable = lifetime.saturating_sub(RENEW_BEFORE.min(lifetime / 5));
        *slot = Some(Token { header: header.clone(), renew_at: asked_at + usable });
        Ok(header)
    }

    async fn forget(&self, scope: &Scope, used: &HeaderValue) {
        let slot = self.slot(scope);
        let mut slot = slot.lock().await;
        // Another call may have renewed it meanwhile.
        if slot.as_ref().is_some_and(|token| token.header == *used) {
            *slot = None;
        }
    }

    fn slot(&self, scope: &Scope) -> Arc<AsyncMutex<Option<Token>>> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() > MAX_KEPT_TOKENS {
            let now = Instant::now();
            tokens.retain(|_, slot| match slot.try_lock() {
                Ok(token) => token.as_ref().is_some_and(|token| now < token.renew_at),
                Err(_) => true,
            });
        }
        tokens.entry(scope.clone()).or_default().clone()
    }
}

fn secret_header(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}
