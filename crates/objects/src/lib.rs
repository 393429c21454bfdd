//! S3: logs, inputs, results, reports. One bucket; the keys are named here and nowhere else.
//!
//! Invariants:
//! 1. A key is derived from the id of what it belongs to, so that doing the work twice writes the same object.
//! 2. Reading has a limit: an object larger than expected is an error, never memory without end.

mod keys;
mod listing;

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata as _, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use bytes::{Bytes, BytesMut};
use mecapy_service::Secret;
use serde::{Deserialize, Serialize};

pub use keys::Key;
pub use listing::{Listed, PAGE};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service is away, slow, or refuses: another try may do better.
    #[error("S3: {action} {key}: {cause}")]
    Request { action: &'static str, key: String, cause: String },
    #[error("S3: {key} has more than {limit} bytes")]
    TooLarge { key: String, limit: u64 },
    #[error("S3: bucket {0} is not there: run `mecapy setup`")]
    NoBucket(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// None: AWS itself.
    pub endpoint: Option<String>,
    pub region: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: Secret,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: "mecapy".to_owned(),
            access_key: String::new(),
            secret_key: Secret::default(),
        }
    }
}

/// The pipeline's bucket. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Objects {
    client: Client,
    bucket: String,
}

impl Objects {
    /// Connects when it is first used.
    pub fn new(options: &Options) -> Self {
        let http = aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring))
            .build_https();
        let credentials = Credentials::new(
            &options.access_key,
            options.secret_key.expose(),
            None,
            None,
            "mecapy",
        );
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .region(Region::new(options.region.clone()))
            .credentials_provider(credentials)
            // Buckets as paths: every S3 server has that.
            .force_path_style(options.endpoint.is_some())
            // Not every S3 server knows the newer checksums.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::standard().with_max_attempts(3))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(3))
                    .operation_timeout(Duration::from_secs(60))
                    .build(),
            );
        if let Some(endpoint) = &options.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Self { client: Client::from_conf(config.build()), bucket: options.bucket.clone() }
    }

    /// Makes the bucket if it is not there. For `mecapy setup`.
    pub async fn ensure_bucket(&self) -> Result<(), Error> {
        match self.client.create_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if matches!(
                    error.code(),
                    Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(request("creating bucket", &self.bucket, &error)),
        }
    }

    /// Whether the bucket can be reached.
    pub async fn ping(&self) -> Result<(), Error> {
        match self.client.head_bucket().bucket(&self.bucket).send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error.raw_response().is_some_and(|answer| answer.status().as_u16() == 404) =>
            {
                Err(Error::NoBucket(self.bucket.clone()))
            }
            Err(error) => Err(request("reaching bucket", &self.bucket, &error)),
        }
    }

    pub async fn put(&self, key: &Key, body: Bytes) -> Result<(), Error> {
        self.client
            .put_object()
            .bucket(&self.bucket)
            .key(key.as_str())
            .content_type(key.content_type())
            .body(ByteStream::from(body))
            .send()
            .await
            .map_err(|error| request("writing", key.as_str(), &error))?;
        Ok(())
    }

    /// The object, if it is there and has at most `limit` bytes.
    pub async fn get(&self, key: &Key, limit: u64) -> Result<Option<Bytes>, Error> {
        let object =
            match self.client.get_object().bucket(&self.bucket).key(key.as_str()).send().await {
                Ok(object) => object,
                Err(error) if error.code() == Some("NoSuchKey") => return Ok(None),
                Err(error) => return Err(request("reading", key.as_str(), &error)),
            };
        let too_large = || Error::TooLarge { key: key.to_string(), limit };
        if object
            .content_length()
            .and_then(|length| u64::try_from(length).ok())
            .is_some_and(|length| length > limit)
        {
            return Err(too_large());
        }
        let mut body = object.body;
        let mut bytes = BytesMut::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| Error::Request {
                action: "reading",
                key: key.to_string(),
                cause: error.to_string(),
            })?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > limit {
                return Err(too_large());
            }
        }
        Ok(Some(bytes.freeze()))
    }
}

fn request<E>(action: &'static str, key: &str, error: &SdkError<E>) -> Error
where
    E: std::error::Error + 'static,
{
    Error::Request { action, key: key.to_owned(), cause: DisplayErrorContext(error).to_string() }
}

/// Some servers say so where S3 itself would say that it was deleted.
fn is_absent<E>(error: &SdkError<E>) -> bool
where
    SdkError<E>: aws_sdk_s3::error::ProvideErrorMetadata,
{
    error.code() == Some("NoSuchKey")
}
