//! Ends that an operator has to know of.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use mecapy_bus::{Delivery, Handler as _, Outcome};
use mecapy_mirror::Plan;
use mecapy_proto::v1::MirrorRequested;
use mecapy_registry::{Content, Copier, Registry};
use mecapy_service::Secret;
use mecapy_store::mirror_runs;
use mecapy_testkit::unique;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::world::{World, layer};

fn plan(world: &World, primary: Registry) -> Plan {
    Plan {
        pool: world.pool.clone(),
        primary,
        copier: Copier::new(world.fallback.clone()),
        window_days: 7,
        limit: 100,
        max_deliveries: 2,
    }
}

async fn commit(world: &World, outcome: Outcome) {
    let mut transaction = world.pool.begin().await.unwrap();
    outcome.apply(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn a_digest_that_can_not_be_looked_for_fails_and_whoever_asked_is_told() {
    let world = World::new().await;
    let mut options = world.config.registries.primary.clone();
    options.password = Some(Secret::new("wrong"));
    let digest = mecapy_registry::Digest::of(layer(10).as_ref()).to_string();
    let request = |run_id: &str| MirrorRequested {
        run_id: run_id.to_owned(),
        digests: vec![digest.clone()],
        ..MirrorRequested::default()
    };
    let delivery = |count| Delivery::new("m", count, Default::default());
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let told = recorder.handle();
    let _ear = metrics::set_default_local_recorder(&recorder);

    let refused = plan(&world, Registry::new(&options).unwrap());
    let outcome = refused.handle(request("refused"), &delivery(1)).await.unwrap();
    commit(&world, outcome).await;
    // One that is away is waited for, and not for ever.
    options.host = "127.0.0.1:9".to_owned();
    let away = plan(&world, Registry::new(&options).unwrap());
    assert!(away.handle(request("away"), &delivery(1)).await.is_err());
    let outcome = away.handle(request("away"), &delivery(2)).await.unwrap();
    commit(&world, outcome).await;

    for (run, why) in [("refused", "refuses access"), ("away", "can't be reached")] {
        let (ended, totals) = world.ended(run).await;
        assert_eq!((ended.state.as_str(), totals.failed, totals.open), ("done", 1, 0), "{run}");
        let image = &mirror_runs::images(&world.pool, run).await.unwrap()[0];
        assert_eq!(image.digest, digest);
        let reason = image.error_message.as_deref().unwrap();
        assert!(reason.contains("can't be looked for") && reason.contains(why), "{reason}");
    }
    let told = told.render();
    assert!(told.contains("registry_mirror_images_total{status=\"failed\"} 2\n"), "{told}");
    assert!(told.contains("registry_mirror_runs_total{status=\"incomplete\"} 2\n"), "{told}");
}

/// A registry that has gone from behind its proxy, and the manifests that it was asked for.
async fn gone() -> (String, Arc<Mutex<BTreeSet<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let remember = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let remember = Arc::clone(&remember);
            tokio::spawn(async move {
                let mut client = BufReader::new(client);
                let (mut request, mut line) = (String::new(), String::new());
                while let Ok(3..) = client.read_line(&mut line).await {
                    request.push_str(&line);
                    line.clear();
                }
                let path = request.split(' ').nth(1).unwrap_or_default();
                let status = if path == "/v2/" { "200 OK" } else { "502 Bad Gateway" };
                if path.contains("/manifests/") {
                    remember.lock().unwrap().insert(path.to_owned());
                }
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = client.write_all(answer.as_bytes()).await;
                let _ = client.shutdown().await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn of_many_digests_not_each_waits_for_a_registry_that_is_away() {
    const DIGESTS: usize = 20;
    let world = World::new().await;
    let (address, asked) = gone().await;
    let mut options = world.config.registries.primary.clone();
    options.endpoint = Some(format!("http://{address}").parse().unwrap());
    let digests: Vec<String> = (0..DIGESTS)
        .map(|_| mecapy_registry::Digest::of(unique("digest").as_bytes()).to_string())
        .collect();
    let request = MirrorRequested {
        run_id: "many".to_owned(),
        digests: digests.clone(),
        ..MirrorRequested::default()
    };
    let plan = plan(&world, Registry::new(&options).unwrap());
    let last = Delivery::new("m", plan.max_deliveries, Default::default());
    let outcome = plan.handle(request, &last).await.unwrap();
    commit(&world, outcome).await;

    let (ended, totals) = world.ended("many").await;
    assert_eq!((ended.state.as_str(), totals.open), ("done", 0));
    let images = mirror_runs::images(&world.pool, "many").await.unwrap();
    let named: BTreeSet<_> = images.iter().map(|image| image.digest.clone()).collect();
    assert_eq!((images.len(), named), (DIGESTS, digests.into_iter().collect()));
    for image in images {
        let reason = image.error_message.unwrap();
        assert!(reason.contains("can't be looked for") && reason.contains("502"), "{reason}");
    }
    let asked = asked.lock().unwrap().len();
    assert!((1..DIGESTS).contains(&asked), "{asked} were looked for");
}

#[tokio::test]
async fn a_copy_that_lost_a_blob_is_found_when_it_is_verified_and_mended_by_the_book() {
    let world = World::new().await;
    let image = world.publish(world.function().await, &[layer(50_000)]).await;
    let _mirror = world.start();
    let request = |verify_percent| MirrorRequested {
        digests: vec![image.digest.to_string()],
        verify_percent,
        ..MirrorRequested::default()
    };
    let (_, totals) = world.run(request(100)).await;
    assert_eq!((totals.mirrored, totals.verified), (1, 1), "{totals:?}");

    let manifest = world.fallback.manifest(&image.repository, &image.tag).await.unwrap();
    let Content::Image { layers, .. } = manifest.parse().unwrap() else { panic!("no image") };
    let server = world.config.registries.fallback.as_ref().unwrap();
    let url = format!("http://{}/v2/{}/blobs/{}", server.host, image.repository, layers[0].digest);
    let password = server.password.as_ref().map(Secret::expose);
    let login = server.username.as_deref().unwrap();
    let deleted =
        reqwest::Client::new().delete(url).basic_auth(login, password).send().await.unwrap();
    assert!(deleted.status().is_success(), "{deleted:?}");

    let (run, totals) = world.run(request(100)).await;
    assert_eq!((totals.failed, totals.verified), (1, 0), "{totals:?}");
    let row = world.image(&run, &image).await.unwrap();
    assert_eq!(row.error_code.as_deref(), Some("digest-mismatch"));
    let text = world.report(&run, "report.txt").await;
    assert!(text.contains("the copy on the fallback is broken"), "{text}");

    // As the log says.
    world.fallback.delete_manifest(&image.repository, &image.digest).await.unwrap();
    let (_, totals) = world.run(request(100)).await;
    assert_eq!((totals.mirrored, totals.verified), (1, 1), "{totals:?}");
}
