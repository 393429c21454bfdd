//! Builds: one of them, and its log.

use std::time::Duration;

use bytes::Bytes;
use mecapy_objects::Key;
use mecapy_proto::{BuildId, FunctionId};
use mecapy_store::functions::{self, Overview};

use super::Api;
use crate::{Caller, Error, view};

/// Far above what a build of 300 s writes.
const MAX_LOG_BYTES: u64 = 32 * 1024 * 1024;

impl Api {
    /// A function as this build left it; with `function`, only if the build is of it.
    pub(crate) async fn build(
        &self,
        caller: &Caller,
        id: BuildId,
        function: Option<FunctionId>,
        wait: Duration,
    ) -> Result<view::Function, Error> {
        let mut overview = self.visible_build(caller, id).await?;
        if function.is_some_and(|function| function.get() != overview.function.id) {
            return Err(not_found(id));
        }
        if !wait.is_zero() {
            self.wait_for_build(id, wait).await?;
            overview = self.visible_build(caller, id).await?;
        }
        Ok(view::Function::of(overview))
    }

    /// The log of a build, as far as it is stored.
    pub(crate) async fn build_log(&self, caller: &Caller, id: BuildId) -> Result<Bytes, Error> {
        let overview = self.visible_build(caller, id).await?;
        let key = match overview.build.and_then(|build| build.log_key) {
            Some(key) => Key::given(key),
            None => Key::build_log(id),
        };
        let log = self.0.objects.get(&key, MAX_LOG_BYTES).await?;
        log.ok_or_else(|| {
            Error::NotFound(format!("log of build {id} yet: follow it at /builds/{id}/events"))
        })
    }

    pub(super) async fn visible_build(
        &self,
        caller: &Caller,
        id: BuildId,
    ) -> Result<Overview, Error> {
        let overview = functions::overview_of_build(&self.0.pool, id).await?;
        overview
            .filter(|overview| caller.may_see(&overview.function.owner))
            .ok_or_else(|| not_found(id))
    }
}

fn not_found(id: BuildId) -> Error {
    Error::NotFound(format!("build {id}"))
}
