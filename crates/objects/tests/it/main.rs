//! Objects on a real S3 server.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use bytes::Bytes;
use mecapy_objects::{Error, Key, Objects, Options};
use mecapy_proto::{BuildId, TaskId};
use mecapy_service::Secret;
use mecapy_testkit::{Infra, unique};

async fn options() -> Options {
    mecapy_service::install_tls();
    let s3 = Infra::shared().await.s3().await;
    Options {
        endpoint: Some(s3.endpoint),
        region: s3.region,
        bucket: s3.bucket,
        access_key: s3.access_key,
        secret_key: Secret::new(s3.secret_key),
    }
}

#[tokio::test]
async fn what_is_put_is_got_and_what_is_not_there_is_none() {
    let objects = Objects::new(&options().await);
    let key = Key::build_log(BuildId::new());
    assert_eq!(objects.get(&key, 10).await.unwrap(), None);
    objects.put(&key, Bytes::from_static(b"one")).await.unwrap();
    objects.put(&key, Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(objects.get(&key, 3).await.unwrap(), Some(Bytes::from_static(b"two")));
}

#[tokio::test]
async fn an_object_over_the_limit_is_an_error() {
    let objects = Objects::new(&options().await);
    let key = Key::source(BuildId::new());
    objects.put(&key, Bytes::from(vec![b'x'; 1001])).await.unwrap();
    assert!(matches!(objects.get(&key, 1000).await, Err(Error::TooLarge { limit: 1000, .. })));
}

#[tokio::test]
async fn a_bucket_that_is_missing_says_what_to_do_and_setup_can_run_again() {
    let options = Options { bucket: unique("bucket"), ..options().await };
    let objects = Objects::new(&options);
    let problem = objects.ping().await.unwrap_err().to_string();
    assert!(problem.contains("mecapy setup"), "{problem}");
    objects.ensure_bucket().await.unwrap();
    objects.ensure_bucket().await.unwrap();
    objects.ping().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_away_is_a_request_error() {
    let options = Options { endpoint: Some("http://127.0.0.1:9".into()), ..options().await };
    let got = Objects::new(&options).get(&Key::source(BuildId::new()), 1).await;
    assert!(matches!(got, Err(Error::Request { .. })), "{got:?}");
}

#[tokio::test]
async fn objects_are_listed_in_pages_by_their_keys_and_deleted_once_and_again() {
    let objects = Objects::new(&options().await);
    let task = TaskId::new();
    let keys: Vec<Key> = (1..4).map(|attempt| Key::task_result(task, attempt)).collect();
    for key in &keys {
        objects.put(key, Bytes::from_static(b"{}")).await.unwrap();
    }
    objects.put(&Key::build_log(BuildId::new()), Bytes::from_static(b"log")).await.unwrap();
    let listed = objects.list("tasks/", None).await.unwrap();
    assert_eq!(listed.iter().map(|object| object.key.clone()).collect::<Vec<_>>(), keys);
    assert_eq!(listed[0].size, 2);
    let age = chrono::Utc::now() - listed[0].modified_at;
    assert!(age.num_minutes().abs() < 5, "{age}");
    let rest = objects.list("tasks/", Some(&keys[1])).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].key, keys[2]);
    for _ in 0..2 {
        objects.delete(&keys[0]).await.unwrap();
    }
    assert_eq!(objects.list("tasks/", None).await.unwrap().len(), 2);
}
