//! Workers over the gateway's API.

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Answer, Client, Error};

#[derive(Debug, Clone, Deserialize)]
pub struct Worker {
    pub name: String,
    pub state: String,
    pub running: u64,
    pub slots: u64,
    pub drain: Option<Drain>,
}

/// An operator's order that it takes no tasks.
#[derive(Debug, Clone, Deserialize)]
pub struct Drain {
    pub by: String,
    pub at: String,
}

#[derive(Debug, Deserialize)]
struct Workers {
    workers: Vec<Box<RawValue>>,
}

impl Client {
    /// None: nobody of this name lives, and nothing is ordered of it.
    pub async fn worker(&self, name: &str) -> Result<Option<Answer<Worker>>, Error> {
        let listed: Answer<Workers> = self.json(self.request(Method::GET, &["workers"])).await?;
        let read = |raw: &RawValue| {
            let value: Worker = serde_json::from_str(raw.get()).ok()?;
            (value.name == name).then(|| Answer { value, raw: raw.get().to_owned() })
        };
        Ok(listed.value.workers.iter().find_map(|raw| read(raw)))
    }

    /// Orders something of a worker: `drain`, `resume`.
    pub async fn order_worker(&self, name: &str, order: &str) -> Result<Answer<Worker>, Error> {
        self.json(self.request(Method::POST, &["workers", name, order])).await
    }
}
