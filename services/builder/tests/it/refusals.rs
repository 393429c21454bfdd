//! Builds that end in an error on which the user can act, each brought about for real.

use axum::Router;
use axum::routing::get;
use mecapy_builder::{Error, Options, Rejection};
use mecapy_proto::ErrorCode;

use crate::fixture::{build, builder, options, request};
use crate::hostile_packages::{File, index, of, serve, wheel};

const HELLO: &str = "print('hello')\n";

async fn refused(options: Options, requirements: &str) -> Rejection {
    let (built, text) = build(&builder(options).await, &request(HELLO, requirements)).await;
    match built {
        Err(Error::Rejected(rejection)) => {
            assert!(text.contains(&format!("failed: {}", rejection.code)), "{text}");
            rejection
        }
        other => panic!("{other:?}\n{text}"),
    }
}

#[tokio::test]
async fn a_slip_in_a_name_is_answered_with_the_name_that_was_meant() {
    let (url, _) = index(Vec::new()).await;
    let rejection = refused(of(url), "nunpy==2.0\n").await;
    assert_eq!(rejection.code, ErrorCode::RequirementNotFound);
    assert!(rejection.message.contains("`nunpy`"), "{}", rejection.message);
    assert!(rejection.message.contains("Did you mean `numpy`?"), "{}", rejection.message);
}

#[tokio::test]
async fn a_package_for_other_pythons_alone_is_told_with_those_that_it_is_for() {
    let old = File::new("oldpkg-1.0-cp36-cp36m-manylinux1_x86_64.whl", wheel("oldpkg", &[]));
    let (url, _) = index(vec![old]).await;
    let rejection = refused(of(url), "oldpkg\n").await;
    assert_eq!(rejection.code, ErrorCode::NoMatchingWheel, "{}", rejection.message);
    assert!(rejection.message.contains("`oldpkg"), "{}", rejection.message);
    assert!(rejection.message.contains("cp36m"), "{}", rejection.message);
}

#[tokio::test]
async fn an_index_that_takes_too_long_ends_in_a_time_out() {
    let never = async || std::future::pending::<&'static str>().await;
    let url = serve(Router::new().route("/simple/{package}/", get(never))).await;
    let short = Options { limit_seconds: 8, ..of(url) };
    let rejection = refused(short, "slowpkg\n").await;
    assert_eq!(rejection.code, ErrorCode::BuildTimeout, "{}", rejection.message);
    assert!(rejection.message.contains("within 8 s"), "{}", rejection.message);
}

#[tokio::test]
async fn more_memory_than_there_is_is_told_as_such() {
    let small = Options { memory_bytes: 8 << 20, ..options() };
    let rejection = refused(small, "numpy==2.2.1\nscipy==1.15.0\nsix==1.16.0\n").await;
    assert_eq!(rejection.code, ErrorCode::BuildOutOfMemory, "{}", rejection.message);
    assert!(rejection.message.contains("more than 8 MiB"), "{}", rejection.message);
}

#[tokio::test]
async fn an_image_above_the_limit_is_told_with_both_sizes_and_is_not_pushed() {
    let small = Options { max_image_bytes: 1 << 20, ..options() };
    let rejection = refused(small, "pluggy==1.5.0\n").await;
    assert_eq!(rejection.code, ErrorCode::ImageTooLarge, "{}", rejection.message);
    assert!(rejection.message.contains("at most 1 MiB"), "{}", rejection.message);
    // Nothing of it is found by another builder: it has to install.
    let (built, text) = build(&builder(options()).await, &request(HELLO, "pluggy==1.5.0\n")).await;
    assert!(built.is_ok() && text.contains("installing"), "{text}");
}
