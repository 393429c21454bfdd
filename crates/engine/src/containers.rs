//! Containers by label: what is there, and the removal of what was left.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bollard::models::ContainerSummaryStateEnum;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};

use crate::{Engine, Error, metric_definitions as metrics};

/// A container as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    pub running: bool,
    /// Unix seconds, by the engine's clock.
    pub created_at: i64,
}

/// How often a removal is tried: the engine answers 409 or 500 while the container's last process or
/// mount is still going away.
const REMOVAL_TRIES: u32 = 6;

impl Engine {
    /// All containers, running or not, that carry every one of `labels` (`key` or `key=value`).
    pub async fn containers(&self, labels: &[&str]) -> Result<Vec<Container>, Error> {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.call("list containers", self.docker.list_containers(Some(options))).await?;
        Ok(list
            .into_iter()
            .map(|container| Container {
                id: container.id.unwrap_or_default(),
                name: container
                    .names
                    .and_then(|names| names.into_iter().next())
                    .map(|name| name.trim_start_matches('/').to_owned())
                    .unwrap_or_default(),
                image: container.image.unwrap_or_default(),
                labels: container.labels.unwrap_or_default().into_iter().collect(),
                running: container.state == Some(ContainerSummaryStateEnum::RUNNING),
                created_at: container.created.unwrap_or_default(),
            })
            .collect())
    }

    /// Ends and removes every container that carries all of `labels`, and returns them. At least one
    /// label must be given.
    pub async fn remove_containers(&self, labels: &[&str]) -> Result<Vec<Container>, Error> {
        if labels.is_empty() {
            return Ok(Vec::new());
        }
        let found = self.containers(labels).await?;
        for container in &found {
            self.remove_container(&container.id).await?;
        }
        Ok(found)
    }

    /// Ends and removes one container, by id or name. Returns when it is gone; `false` when it was
    /// gone before.
    pub async fn remove_container(&self, container: &str) -> Result<bool, Error> {
        let mut pause = Duration::from_millis(50);
        for attempt in 1.. {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let removal = self.docker.remove_container(container, Some(options));
            match self.call("remove a container", removal).await {
                Ok(()) => return Ok(true),
                Err(Error::Refused { status: 404, .. }) => return Ok(attempt > 1),
                Err(error) if attempt < REMOVAL_TRIES && error.is_worth_another_removal() => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Removal at the end of a run, whose outcome must not be lost to it.
    pub(crate) async fn remove_or_leave(&self, container: &str) {
        if let Err(error) = self.remove_container(container).await {
            metrics::container_left();
            tracing::error!(
                container,
                error = &error as &dyn std::error::Error,
                "a container could not be removed; the next sweep by label will try again"
            );
        }
    }
}

impl Error {
    fn is_worth_another_removal(&self) -> bool {
        matches!(self, Self::Refused { status: 409 | 500.., .. }) || self.is_transient()
    }
}
