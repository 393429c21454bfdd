//! What is worth seeing while it happens, and nothing after: lines of a log, and that events passed by.
//! Not stored: who is late reads the database and S3.

use futures::{Stream, StreamExt as _};
use mecapy_proto::{BuildId, TaskId};

use crate::Bus;

/// Tells onlookers. Never waits, never fails the work that it tells of.
#[derive(Debug, Clone)]
pub struct Live {
    bus: Bus,
}

/// The live lines of one build or task.
#[derive(Debug, Clone)]
pub struct LiveLines {
    bus: Bus,
    subject: String,
}

impl Live {
    pub fn new(bus: Bus) -> Self {
        Self { bus }
    }

    pub fn build_log(&self, id: BuildId) -> LiveLines {
        LiveLines { bus: self.bus.clone(), subject: format!("log.build.{id}") }
    }

    pub fn task_log(&self, id: TaskId) -> LiveLines {
        LiveLines { bus: self.bus.clone(), subject: format!("log.task.{id}") }
    }

    /// The subjects of events as they pass by, with the id of what they are about. Some may be missed:
    /// a hint to look, not the truth.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = (String, String)> + Send + use<>, crate::Error> {
        let subscribe = |subject: &'static str| {
            let client = self.bus.client.clone();
            async move {
                client
                    .subscribe(subject)
                    .await
                    .map_err(|error| crate::Error::jetstream(subject, error))
            }
        };
        let (builds, scans, pushes, tasks) = (
            subscribe("build.*").await?,
            subscribe("scan.*").await?,
            subscribe("push.*").await?,
            subscribe("task.*").await?,
        );
        let all = futures::stream::select(
            futures::stream::select(builds, scans),
            futures::stream::select(pushes, tasks),
        );
        Ok(all.map(|message| {
            let entity =
                crate::envelope::get(message.headers.as_ref(), "ce-subject").unwrap_or_default();
            // task.done has the attempt after the task's id.
            let entity = entity.split('/').next().unwrap_or_default().to_owned();
            (message.subject.to_string(), entity)
        }))
    }

    /// Images as they are published: a hint to fetch them early.
    pub async fn published_images(
        &self,
    ) -> Result<impl Stream<Item = mecapy_proto::v1::PushDone> + Send + use<>, crate::Error> {
        let subscriber = self
            .bus
            .client
            .subscribe("push.done")
            .await
            .map_err(|error| crate::Error::jetstream("push.done", error))?;
        Ok(subscriber.filter_map(|message| async move {
            crate::envelope::read(message.headers.as_ref(), &message.payload, chrono::Utc::now())
                .ok()
        }))
    }

    /// Ids of tasks that are to be cancelled, as they come.
    pub async fn cancelled_tasks(
        &self,
    ) -> Result<impl Stream<Item = TaskId> + Send + use<>, crate::Error> {
        let subscriber = self
            .bus
            .client
            .subscribe("task.cancel")
            .await
            .map_err(|error| crate::Error::jetstream("task.cancel", error))?;
        Ok(subscriber.filter_map(|message| async move {
            crate::envelope::read::<mecapy_proto::v1::TaskCancel>(
                message.headers.as_ref(),
                &message.payload,
                chrono::Utc::now(),
            )
            .ok()
            .and_then(|event| event.task_id.parse().ok())
        }))
    }
}

impl LiveLines {
    /// Sends some text: one line or more.
    pub async fn send(&self, text: String) {
        let _ = self.bus.client.publish(self.subject.clone(), text.into()).await;
    }

    /// The text as it comes.
    pub async fn subscribe(
        &self,
    ) -> Result<impl Stream<Item = String> + Send + use<>, crate::Error> {
        let subscriber = self
            .bus
            .client
            .subscribe(self.subject.clone())
            .await
            .map_err(|error| crate::Error::jetstream(self.subject.clone(), error))?;
        Ok(subscriber.map(|message| String::from_utf8_lossy(&message.payload).into_owned()))
    }
}
