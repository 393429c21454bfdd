//! A key-value bucket, opened when it is first needed: bodies as they are, or values as JSON.

use async_nats::jetstream::kv;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use crate::{Bus, Error};

#[derive(Debug)]
pub(crate) struct Bucket {
    bus: Bus,
    name: &'static str,
    store: OnceCell<kv::Store>,
}

/// What a key holds now.
#[derive(Debug)]
pub(crate) struct Change {
    pub key: String,
    /// None: it was taken out.
    pub body: Option<Bytes>,
}

impl Bucket {
    pub(crate) fn new(bus: Bus, name: &'static str) -> Self {
        Self { bus, name, store: OnceCell::new() }
    }

    async fn store(&self) -> Result<&kv::Store, Error> {
        self.store
            .get_or_try_init(|| async {
                self.bus
                    .jetstream
                    .get_key_value(self.name)
                    .await
                    .map_err(|_| Error::NotSetUp(format!("bucket {}", self.name)))
            })
            .await
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::jetstream(self.name, error)
    }

    pub(crate) async fn put(&self, key: String, body: Bytes) -> Result<(), Error> {
        let put = self.store().await?.put(key, body).await;
        put.map(drop).map_err(|error| self.failed(error))
    }

    pub(crate) async fn get(&self, key: String) -> Result<Option<Bytes>, Error> {
        self.store().await?.get(key).await.map_err(|error| self.failed(error))
    }

    /// What was there goes, with what was there before it.
    pub(crate) async fn take_out(&self, key: String) -> Result<(), Error> {
        self.store().await?.purge(key).await.map_err(|error| self.failed(error))
    }

    pub(crate) async fn put_value<T: Serialize>(
        &self,
        key: String,
        value: &T,
    ) -> Result<(), Error> {
        let body = serde_json::to_vec(value).map_err(|error| self.failed(error))?;
        self.put(key, body.into()).await
    }

    /// All that is there. What is gone since it was named, or can't be read, is left out: another version says it in
    /// another way.
    pub(crate) async fn values<T: DeserializeOwned>(&self) -> Result<Vec<T>, Error> {
        let store = self.store().await?;
        let keys = store.keys().await.map_err(|error| self.failed(error))?;
        let keys: Vec<String> = keys.try_collect().await.map_err(|error| self.failed(error))?;
        let mut values = Vec::with_capacity(keys.len());
        for key in keys {
            let body = store.get(key).await.map_err(|error| self.failed(error))?;
            values.extend(body.and_then(|body| serde_json::from_slice(&body).ok()));
        }
        Ok(values)
    }

    /// What these keys hold (`>`: all), and what becomes of it. Ends when it can't go on.
    pub(crate) async fn watch(
        &self,
        keys: &str,
    ) -> Result<impl Stream<Item = Change> + Send + use<>, Error> {
        let watch = self.store().await?.watch_with_history(keys).await;
        let watch = watch.map_err(|error| self.failed(error))?;
        let going = watch.take_while(|entry| std::future::ready(entry.is_ok()));
        let changes = going.filter_map(|entry| async move {
            let entry = entry.ok()?;
            let is_there = entry.operation == kv::Operation::Put;
            Some(Change { key: entry.key, body: is_there.then_some(entry.value) })
        });
        Ok(changes.boxed())
    }
}

/// A name as a key can have it: what no key may have in it stands as its number.
pub(crate) fn key(name: &str) -> String {
    let mut key = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => key.push(char::from(byte)),
            other => key.push_str(&format!("={other:02x}")),
        }
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_key_of_its_own() {
        assert_eq!(key("host-1:9100"), "host-1=3a9100");
        assert_ne!(key("a.b"), key("a=2eb"));
    }
}
