//! Several builders that use the same database and registry.

use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use mecapy_testkit::{Infra, eventually};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::fixture::{LONG, build, database, database_at, digest, log, options, replica, request};
use crate::hostile_packages::{File, of, routes, serve, wheel};

#[tokio::test]
async fn replicas_that_need_the_same_packages_at_once_install_them_once() {
    let pool = database().await;
    let builders = [replica(options(), &pool).await, replica(options(), &pool).await];
    let builds = (0..6).map(|i| {
        let builder = builders[i % 2].clone();
        async move {
            let request = request(&format!("print({i})\n"), "zipp==3.21.0");
            let (log, _) = log();
            let built = builder.build(&request, &log, &CancellationToken::new()).await;
            (built, log.text())
        }
    });
    let built = futures::future::join_all(builds).await;
    for builder in &builders {
        builder.finish().await;
    }
    let logs: String = built.iter().map(|(_, text)| text.as_str()).collect();
    let images: Vec<_> =
        built.into_iter().map(|(built, _)| digest(&built.unwrap().dependency_image)).collect();
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "{images:?}");
    assert_eq!(logs.matches("resolving").count(), 1, "{logs}");
    assert!(logs.matches("installing").count() <= 1, "{logs}");

    // A replica that comes later knows what the others have resolved.
    let later = replica(options(), &pool).await;
    let (built, text) = build(&later, &request("print('later')\n", "zipp == 3.21.0")).await;
    assert_eq!(digest(&built.unwrap().dependency_image), images[0]);
    assert!(!text.contains("resolving") && !text.contains("installing"), "{text}");
}

#[tokio::test]
async fn when_a_replica_dies_another_makes_what_it_was_making() {
    let url = Infra::shared().await.postgres().await;
    let pool = database_at(url.clone()).await;
    // The index answers once the first is dead: until then, that one can't come to the end of what it makes.
    let (open, opened) = watch::channel(false);
    let wheel = File::new("gated-1.0-py3-none-any.whl", wheel("gated", &[("gated.py", "")]));
    let (routes, _) = routes(vec![wheel]);
    let gate = from_fn(move |request: Request, next: Next| {
        let mut opened = opened.clone();
        async move {
            let _ = opened.wait_for(|is_open| *is_open).await;
            next.run(request).await
        }
    });
    let index = serve(routes.layer(gate)).await;
    let options = move || of(index.clone());
    let of_the_first = options();
    let (log_of_the_first, lines) = log();
    // A process of its own, as far as anyone can see: when it ends, nothing of it is tidied up.
    let first = tokio::runtime::Runtime::new().unwrap();
    first.spawn(async move {
        let builder = replica(of_the_first, &database_at(url).await).await;
        let request = request("print()\n", "gated==1.0\n");
        let _ = builder.build(&request, &log_of_the_first, &CancellationToken::new()).await;
    });
    eventually("the first resolves", LONG, async || {
        lines.lock().unwrap().iter().any(|line| line.contains("resolving")).then_some(())
    })
    .await;
    first.shutdown_background();
    open.send_replace(true);

    let began = Instant::now();
    let second = replica(options(), &pool).await;
    let request = request("print()\n", "gated==1.0\n");
    let (built, text) = build(&second, &request).await;
    built.unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    assert!(text.contains("resolving"), "{text}");
    assert!(began.elapsed() > Duration::from_secs(5), "the first was not given the time to live");
}
