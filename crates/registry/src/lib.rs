//! A client for OCI registries, and what is built on it: copying images with their digests kept,
//! and putting one layer on top of an image without a Docker daemon.
//!
//! # What always holds
//!
//! 1. A manifest is handled as the bytes the registry sent. It is parsed to be read and never
//!    written again from what was parsed, so its digest stays what it was.
//! 2. What is read is verified: a manifest against the digest it was asked by, a blob against its
//!    descriptor. A blob's last bytes are handed on only after its size and SHA-256 are right.
//! 3. So a wrong blob is never committed: a copy streams a GET into one PUT, and the PUT of a wrong
//!    blob breaks off before its end.
//! 4. A manifest is put after everything it names. A copy moves a tag only after it read the
//!    manifest back from the destination and verified it. What the destination says that it took must be what it got.
//! 5. Credentials go to the registry's own origin and to the token service it names, over HTTPS
//!    unless the registry is configured as plain HTTP. No redirect carries them to another host, and no login that
//!    another host wants is given. Nothing that began in TLS leads out of it.
//! 6. A call that fails for a passing reason (no connection, a cut body, 429, 5xx) is tried again
//!    with a growing, jittered wait, or after the server's `Retry-After`. What still fails says
//!    by [`Error::is_transient`] whether trying later makes sense.
//! 7. Memory does not grow with a blob's size, nor with what a registry goes on sending: answers, lists and images have
//!    bounds.
//! 8. A download that breaks goes on where it stopped, with the hash going on over it. An upload that breaks starts
//!    again: registries differ too much in what they keep of one.
//! 9. All calls to one registry keep one pace: at most ten uploads at once, fewer after a 429 or 503, none while it
//!    asked for patience.
//! 10. A [`Copier`] sends a blob once, however many of its images share it, and mounts it after.
//! 11. Who sends or takes hardly a byte is given up like one that does nothing.
//!
//! # The way of the data
//!
//! ```text
//! Options ─▶ Registry ─ manifests, blobs, uploads, listing ─▶ exchange (auth, retry, metrics) ─▶ HTTP
//!               ▲  ▲
//! Copier ───────┘  └─── append_layer
//! source GET ─▶ BlobStream (size, SHA-256) ─▶ destination PUT
//! ```

mod append;
mod auth;
mod blob_copy;
mod blob_stream;
mod blobs;
mod challenge;
mod config_patch;
mod copier;
mod copy;
mod copy_plan;
mod copy_referrers;
mod digest;
mod error;
mod exchange;
mod folder_layer;
mod holders;
mod image_ref;
mod inventory;
mod layer;
mod listing;
mod manifest;
mod manifests;
mod metric_definitions;
mod options;
mod origin;
mod pace;
mod patience;
mod progress;
mod referrers;
mod refusal;
mod registries;
mod registry;
mod retry;
mod upload_watch;
mod uploads;
mod verify;

pub use append::{Appended, Appender, Base, append_layer};
pub use blob_stream::BlobStream;
pub use config_patch::ConfigPatch;
pub use copier::{Brought, Copier, Foreseen, Look, Target};
pub use copy::{CopyReport, Destination, Source, copy_image};
pub use copy_referrers::MissingReferrers;
pub use digest::{Digest, Hasher};
pub use error::Error;
pub use folder_layer::FolderLayer;
pub use image_ref::ImageRef;
pub use inventory::{
    Deleted, Deletion, DistributionInventory, Elsewhere, GhcrInventory, Holds, Inventory, Known,
    ScalewayInventory, StoredManifest,
};
pub use layer::{LayerFile, TarLayer};
pub use manifest::{Content, Descriptor, Manifest, Platform, media_types};
pub use options::{GhcrOptions, InventoryOptions, Options, ScalewayOptions};
pub use progress::{Progress, ProgressSink};
pub use referrers::{Artifact, Referrer, referrers_tag};
pub use registries::Registries;
pub use registry::Registry;
pub use verify::{Verified, Verifier};
