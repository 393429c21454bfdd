//! Base images: the same chain makes them, and functions are built on the newest.

use std::path::Path;

use mecapy_e2e::System;
use mecapy_testkit::{Infra, RegistryServer, Server};
use reqwest::header::ACCEPT;
use serde_json::{Value, json};

use crate::{DOUBLE, PATIENCE};

const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

const MEAN: &str = r#"
import json, numpy
with open("/output.json", "w") as file:
    json.dump(float(numpy.arange(10).mean()), file)
"#;

/// The digest that a tag of the base images leads to.
async fn digest(registry: &RegistryServer, tag: &str) -> String {
    let answer = reqwest::Client::builder()
        .no_proxy()
        .build()
        .unwrap()
        .head(format!("http://{}/v2/mecapy/base/python/manifests/{tag}", registry.host))
        .basic_auth(&registry.username, Some(&registry.password))
        .header(ACCEPT, MANIFESTS)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{tag} on {}: {}", registry.host, answer.status());
    answer.headers()["docker-content-digest"].to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_image_goes_through_the_chain_to_both_registries_and_functions_follow() {
    // Its tags move: not on registries that others build on.
    let infra = Infra::start(&Server::ALL).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/base");
    let base = format!(
        "[builder.base]\nfolder = {:?}\npython_image = \"mecapy/python:{{python}}-slim\"\npull = false\n",
        folder.canonicalize().unwrap()
    );
    let system = System::start_with(&infra, &base).await.unwrap();
    let before = digest(&system.primary, "3.11-slim").await;
    let old = system.api.submit("old", DOUBLE, "").await.unwrap();
    assert_eq!(system.api.ended(&old, PATIENCE).await.unwrap()["status"], "ready");

    let build =
        ["base", "build", "--python", "3.11", "--variant", "slim", "--variant", "numpy", "--json"];
    let run: Value = serde_json::from_str(&system.mecapy(&build).await.unwrap()).unwrap();
    let now = digest(&system.primary, "3.11-slim").await;
    assert_eq!(now, digest(&system.fallback, "3.11-slim").await, "{run}");
    assert_ne!(now, before, "{run}");

    // What stands on the older one is known, and is built again on request.
    let stale = system.mecapy(&["base", "stale", "--json"]).await.unwrap();
    assert!(stale.contains("\"old\""), "{stale}");
    let rebuilt = system.mecapy(&["base", "rebuild-stale", "--json"]).await.unwrap();
    let stale = system.mecapy(&["base", "stale", "--json"]).await.unwrap();
    assert!(!stale.contains("\"old\""), "{rebuilt}\n{stale}");
    let function = system.api.get(&format!("/functions/{}", old["function_id"])).await.unwrap();
    assert_eq!(function["status"], "ready", "{function}");

    // A variant brings its packages with it.
    let body = json!({ "name": "mean", "code": MEAN, "base_variant": "numpy" });
    let (_, mean) = system.api.post("/functions", &body, None).await.unwrap();
    let mean = system.api.ended(&mean, PATIENCE).await.unwrap();
    assert_eq!(mean["status"], "ready", "{mean}");
    let task = system.api.run(&mean, &json!(null)).await.unwrap();
    let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
    assert_eq!(ended["result"], 4.5, "{ended}");
}
