//! The containers of a build's steps: known by a mark, limited as they are made, and ended with the build.
//!
//! To know them among all others without changing what the layer cache goes by, each build has a mark of its own in the
//! hosts table of its containers.
//!
//! The call that asks for a build knows limits on memory and CPU and none on processes. So each container gets that one
//! as the engine tells that it was made: before its first process runs, or a moment after. Where it can't be set, or is not
//! there afterwards (an engine whose control groups don't know it says so in a warning alone), the build ends.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use bollard::models::ContainerUpdateBody;
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures::StreamExt;
use tracing::Instrument;

use crate::{Engine, Error};

/// How long the engine has to end a build by itself, before its containers are ended one by one; and
/// how long all of it may take before it is given up and told.
const OWN_END: Duration = Duration::from_secs(3);
const GIVE_UP: Duration = Duration::from_secs(60);
/// How long after that the engine may notice the closed connection, and make a step's container meanwhile.
const LATE_STEP: Duration = Duration::from_secs(60);
/// How often a limit is tried to be set on a container that is there: one that ends refuses it. And the pause between.
const LIMIT_TRIES: u32 = 100;
const LIMIT_AGAIN: Duration = Duration::from_millis(50);
const LIMIT: &str = "limit the processes of a build";
/// Containers of the engine's, ours and others', that are looked at at once.
const AT_ONCE: usize = 32;

impl Engine {
    /// Limits the processes of each container of the build from its making on. Ends only with why one could not be
    /// limited.
    pub(crate) async fn limit_processes_of(&self, mark: &Mark, limit: u32) -> Error {
        // At once: to look at one takes as long as the engine starts it, whosever it is.
        let mut limited = std::pin::pin!(
            self.container_events_from_now("create")
                .map(async |container| self.limit_processes(&container, mark, limit).await)
                .buffer_unordered(AT_ONCE)
        );
        while let Some(limited) = limited.next().await {
            if let Err(error) = limited {
                return error;
            }
        }
        Error::Incomplete { call: "follow the containers of a build", what: "end of the build" }
    }

    async fn limit_processes(&self, container: &str, mark: &Mark, limit: u32) -> Result<(), Error> {
        for attempt in 1.. {
            // A step may be over before we look.
            if !self.carries(container, mark).await? {
                return Ok(());
            }
            let body =
                ContainerUpdateBody { pids_limit: Some(i64::from(limit)), ..Default::default() };
            let update = self.docker.update_container(container, body);
            match self.call(LIMIT, update).await {
                Ok(()) => return self.has_limit(container, limit).await,
                Err(Error::Refused { .. }) if attempt < LIMIT_TRIES => {
                    tokio::time::sleep(LIMIT_AGAIN).await;
                }
                Err(Error::Refused { message, .. }) => {
                    tracing::warn!(message, "the engine refused to {LIMIT}");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::NoProcessLimit)
    }

    async fn has_limit(&self, container: &str, limit: u32) -> Result<(), Error> {
        let inspect = self.docker.inspect_container(container, None);
        let host = match self.call("inspect a container", inspect).await {
            // It is over.
            Err(Error::Refused { status: 404, .. }) => return Ok(()),
            found => found?.host_config,
        };
        match host.and_then(|host| host.pids_limit) {
            Some(found) if found == i64::from(limit) => Ok(()),
            _ => Err(Error::NoProcessLimit),
        }
    }

    /// Waits until no container of the build is there, and ends them when the engine doesn't. One that is made
    /// afterwards is ended as it is made, beside what the caller does next.
    pub(crate) async fn end_containers_of(&self, mark: &Mark) {
        let (engine, late) = (self.clone(), mark.clone());
        tokio::spawn(async move { engine.end_late_containers_of(&late).await }.in_current_span());
        let closed = tokio::time::Instant::now();
        // Seen twice: between two steps there is none, and the engine may not have noticed yet.
        let mut absent = 0;
        while absent < 2 {
            if closed.elapsed() > GIVE_UP {
                tracing::error!(mark = mark.0, "containers of an ended build could not be ended");
                return;
            }
            match self.containers_of(mark).await {
                Ok(found) if found.is_empty() => absent += 1,
                Ok(found) => {
                    absent = 0;
                    if closed.elapsed() > OWN_END {
                        for container in found {
                            self.remove_or_leave(&container).await;
                        }
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "looking for containers of an ended build failed");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn end_late_containers_of(&self, mark: &Mark) {
        let mut made = std::pin::pin!(self.container_events_from_now("create"));
        let watch = async {
            while let Some(container) = made.next().await {
                match self.carries(&container, mark).await {
                    Ok(true) => self.remove_or_leave(&container).await,
                    Ok(false) => {}
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(container, error, "is it one of an ended build?");
                    }
                }
            }
        };
        let _ = tokio::time::timeout(LATE_STEP, watch).await;
    }

    async fn containers_of(&self, mark: &Mark) -> Result<Vec<String>, Error> {
        let options = ListContainersOptionsBuilder::default().all(true).build();
        let list = self.call("list containers", self.docker.list_containers(Some(options))).await?;
        let mut found = Vec::new();
        for id in list.into_iter().filter_map(|container| container.id) {
            if self.carries(&id, mark).await? {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Is this container, if it is there, one of the build?
    async fn carries(&self, container: &str, mark: &Mark) -> Result<bool, Error> {
        let inspect = self.docker.inspect_container(container, None);
        let container = match self.call("inspect a container", inspect).await {
            Err(Error::Refused { status: 404, .. }) => return Ok(false),
            other => other?,
        };
        let hosts = container.host_config.and_then(|host| host.extra_hosts);
        Ok(hosts.unwrap_or_default().contains(&mark.0))
    }
}

/// A line for the hosts table of a build's containers. It is no part of what the layer cache compares.
#[derive(Clone)]
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        // Keyed by the operating system's randomness.
        let random = || RandomState::new().hash_one(0u8);
        Self(format!("build-{:016x}{:016x}.mecapy.invalid:127.0.0.1", random(), random()))
    }

    /// As a line for the hosts table.
    pub(crate) fn host(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container as the engine makes it for a build.
    fn start(mark: &Mark) -> String {
        let image = "mecapy/base/python:3.11-slim";
        let arguments = ["run", "--detach", "--add-host", &mark.0, image, "sleep", "600"];
        let output = std::process::Command::new("docker").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What is done where closing the connection does not end a build: here nobody else would.
    #[tokio::test]
    async fn containers_that_carry_the_mark_are_ended_and_no_others() {
        let (mark, other) = (Mark::new(), Mark::new());
        let (ours, theirs) = (start(&mark), start(&other));
        let engine = Engine::connect(&crate::Options::default()).await.unwrap();

        assert_eq!(engine.containers_of(&mark).await.unwrap(), [ours]);
        engine.end_containers_of(&mark).await;
        assert_eq!(engine.containers_of(&mark).await.unwrap(), Vec::<String>::new());
        assert_eq!(engine.containers_of(&other).await.unwrap(), [theirs.as_str()]);
        assert!(engine.remove_container(&theirs).await.unwrap());
    }

    #[tokio::test]
    async fn a_container_that_is_made_after_its_build_was_ended_is_ended_too() {
        let (mark, other) = (Mark::new(), Mark::new());
        let engine = Engine::connect(&crate::Options::default()).await.unwrap();
        engine.end_containers_of(&mark).await;
        let (_, theirs) = (start(&mark), start(&other));
        mecapy_testkit::eventually("it is ended", LATE_STEP, async || {
            engine.containers_of(&mark).await.unwrap().is_empty().then_some(())
        })
        .await;
        assert_eq!(engine.containers_of(&other).await.unwrap(), [theirs.as_str()]);
        assert!(engine.remove_container(&theirs).await.unwrap());
    }
}
