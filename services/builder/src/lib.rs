//! The builder: turns the code and requirements of a function into an image in the staging registry.
//!
//! # What always holds
//!
//! 1. No code of a user or of a package runs while an image is built: code is only parsed; packages are
//!    wheels, by their hashes. Operators may except packages by name (`builder.source_packages`): those are built from
//!    their sources, by a user without rights whose processes are counted.
//! 2. What goes to an interpreter of ours (the resolver, a Dockerfile) is written anew from its parsed form.
//! 3. The same request ends in the same image: on any builder, however often it is delivered.
//! 4. A source can't end the process, whatever is in it.
//! 5. Credentials, certificates and addresses that builds need are in no image and in no log.
//! 6. From inside a build the package index can be reached and nothing else.
//! 7. An error is either transient, or carries a code and a message with which the user can do something.
//! 8. When a build ends, in whatever way, its containers are gone and its log is kept; also when the builder is killed, but
//!    for the last seconds of it.
//!
//! # The way of the data
//!
//! ```text
//! Request ─ validation (source), requirements ─▶ bases ─▶ dependencies ─▶ append_layer ─▶ Built
//!              │ Rejection                                  │  ▲
//!              ▼                                            ▼  │ lock
//!          build.failed                       engine_step: uv in a step of the Docker engine
//! ```
//!
//! [`Builder`] is the core and knows no events; [`Handler`] is the shell around it. Base images are made beside that,
//! from the files of operators: [`BaseMatrix`] (`base.requested`) → [`BaseHandler`] (`base.build`) → [`BaseBuilder`].

mod base_builder;
mod base_failure;
mod base_files;
mod base_handler;
mod base_matrix;
mod base_options;
mod bases;
mod broom;
mod build_log;
mod builder;
mod config;
mod dependencies;
mod dockerfile;
mod egress;
mod engine_step;
mod error;
mod function_image;
mod handler;
mod kept_log;
mod live_lines;
mod lock;
mod metric_definitions;
mod near_names;
mod once;
mod options;
mod pip;
mod rejection;
mod replicas;
pub mod requirements;
mod resolutions;
mod resolver;
mod service;
mod single_flight;
mod step_files;
mod steps;
mod uv;
pub mod validation;
mod work;

pub use base_builder::{BaseBuilder, BuiltBase};
pub use base_handler::BaseHandler;
pub use base_matrix::{BaseMatrix, Cell};
pub use base_options::BaseOptions;
pub use build_log::{BuildLog, Live};
pub use builder::{Builder, Built, Request};
pub use config::Config;
pub use error::Error;
pub use handler::Handler;
pub use options::Options;
pub use rejection::Rejection;
pub use replicas::Replicas;
pub use service::run;
