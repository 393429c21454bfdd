//! What the gateway, which makes webhooks, and the notifier, which calls them, must see alike. Pure.
//!
//! Invariants:
//! 1. Only an address that every host of the Internet reaches is called ([`address`]): what is not known to be one is
//!    refused. Settings can let through private networks, and nothing can let through link-local addresses, which is
//!    where clouds keep their metadata.
//! 2. A URL is one that can be called by these rules, or it is refused with the reason ([`target`]).
//! 3. A message is signed as Standard Webhooks has it: its id, the time of the try, the body as it is sent
//!    ([`signature`]).
//! 4. A body is JSON of CloudEvents 1.0 in structured mode, of at most [`cloud_event::MAX_BYTES`].

pub mod address;
pub mod cloud_event;
pub mod signature;
pub mod target;

use serde::{Deserialize, Serialize};

/// `[webhooks]`: what both services go by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// For development: receivers without TLS.
    pub allow_http: bool,
    /// For development, and for receivers of one's own in a network that is trusted: loopback and private addresses.
    /// Whoever may make a webhook can then have any port there called by the notifier.
    pub allow_private: bool,
}
