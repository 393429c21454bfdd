//! What lies in the bucket, page by page, and deleting it.

use chrono::{DateTime, Utc};

use crate::{Error, Key, Objects, request};

/// Objects in a page at most: what every S3 server gives.
pub const PAGE: usize = 1000;

/// An object that was listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: Key,
    pub size: u64,
    pub modified_at: DateTime<Utc>,
}

impl Objects {
    /// The objects whose keys begin with `prefix`, in the order of their keys, after the key `after`: at most
    /// [`PAGE`]. Fewer: these were the last.
    pub async fn list(&self, prefix: &str, after: Option<&Key>) -> Result<Vec<Listed>, Error> {
        let page = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after(after.map(|key| key.as_str().to_owned()))
            .max_keys(PAGE as i32)
            .send()
            .await
            .map_err(|error| request("listing", prefix, &error))?;
        let objects = page.contents.unwrap_or_default();
        Ok(objects
            .into_iter()
            .filter_map(|object| {
                let modified_at = object.last_modified?;
                Some(Listed {
                    key: Key::given(object.key?),
                    size: object.size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    modified_at: DateTime::from_timestamp(
                        modified_at.secs(),
                        modified_at.subsec_nanos(),
                    )?,
                })
            })
            .collect())
    }

    /// Deletes an object. One that is not there is deleted.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        let deleted =
            self.client.delete_object().bucket(&self.bucket).key(key.as_str()).send().await;
        match deleted {
            Ok(_) => Ok(()),
            Err(error) if crate::is_absent(&error) => Ok(()),
            Err(error) => Err(request("deleting", key.as_str(), &error)),
        }
    }
}
