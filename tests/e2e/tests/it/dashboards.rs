//! Every query of the dashboards and rules, asked of a Prometheus that scrapes the running system.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, UNIX_EPOCH};

use mecapy_e2e::operations::{Definition, Kind, Query, Selector, dashboards, definitions, rules};
use mecapy_e2e::{Prometheus, Scraped, Service, System};
use mecapy_proto::v1::ListFunctionsRequest;
use mecapy_proto::v1::gateway_client::GatewayClient;
use mecapy_testkit::{Infra, RegistryServer, eventually};
use serde_json::{Value, json};
use tonic::Request;
use tonic::transport::Channel;

use crate::{DOUBLE, PATIENCE};

/// Gauges are looked at again within half a minute, and rates want two looks.
const SHOWN_WITHIN: Duration = Duration::from_secs(180);

/// Whether this system has a cause to count it. No call is tried again here, and only root parks containers: the code in
/// them belongs to root.
fn is_caused(metric: &str) -> bool {
    let is_root = || std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    match metric {
        "registry_retries_total" => false,
        "mecapy_park_seconds" | "mecapy_park_seconds_bucket" => is_root(),
        _ => true,
    }
}

/// Where a registry tells its own metrics: a port of its container that is not published.
fn metrics_of(registry: &RegistryServer) -> String {
    let port = registry.host.rsplit_once(':').unwrap().1;
    let find = format!(
        "docker inspect --format '{{{{.NetworkSettings.IPAddress}}}}' $(docker ps --quiet --filter publish={port})"
    );
    let found = std::process::Command::new("sh").args(["-c", &find]).output().unwrap();
    let address = String::from_utf8(found.stdout).unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    format!("{}:5001", address.trim())
}

async fn scraping(system: &System) -> Prometheus {
    let services = Service::ALL.map(|service| Scraped {
        job: "mecapy",
        service: Some(service.name()),
        address: system.admin_address(service),
    });
    let registries = [&system.primary, &system.fallback].map(|registry| Scraped {
        job: "registry",
        service: None,
        address: metrics_of(registry),
    });
    let all = services.len() + registries.len();
    let prometheus = Prometheus::start(&[&services[..], &registries[..]].concat()).await.unwrap();
    eventually("everything was scraped", SHOWN_WITHIN, async || {
        let up = prometheus.query("up == 1").await.ok()?;
        (up.len() == all).then_some(())
    })
    .await;
    prometheus
}

/// Something of all that the system does.
async fn live(system: &System, round: u8) {
    // Its name is reserved for what is not there: a try ends with the look-up.
    let webhook = json!({ "url": "https://receiver.invalid/" });
    let (status, webhook) = system.api.post("/webhooks", &webhook, None).await.unwrap();
    assert_eq!(status.as_u16(), 201, "{webhook}");
    let name = format!("shown-{round}");
    let function = system.api.submit(&name, DOUBLE, &format!("idna==3.{round}\n")).await.unwrap();
    let function = system.api.ended(&function, PATIENCE).await.unwrap();
    assert_eq!(function["status"], "ready", "{function}");
    // The first may have to wait for its image; containers are parked for those that follow.
    let mut was_warm = false;
    for n in 0..20 {
        let task = system.api.run(&function, &json!({ "n": n })).await.unwrap();
        let ended = system.api.task_ended(&task, PATIENCE).await.unwrap();
        assert_eq!(ended["status"], "succeeded", "{ended}");
        was_warm |= ended["cache"] == "HIT";
        if was_warm && n > 2 {
            break;
        }
    }
    assert!(was_warm, "no task found its image at the worker");
    let channel = Channel::from_shared(system.grpc.clone()).unwrap().connect().await.unwrap();
    let mut grpc = GatewayClient::new(channel);
    let mut request = Request::new(ListFunctionsRequest::default());
    let token = format!("Bearer {}", system.api.token).parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    grpc.list_functions(request).await.unwrap();
    system.mecapy(&["mirror", "run", "--json"]).await.unwrap();
    system.mecapy(&["cleanup", "apply", "--json"]).await.unwrap();
}

/// As Grafana puts it, with every service and replica chosen, and longer than this test takes on any machine: what
/// happened at its beginning is still in it at its end.
fn filled_in(query: &str) -> String {
    query
        .replace("$service", ".*")
        .replace("$instance", ".*")
        .replace("$__rate_interval", "2h")
        .replace("$__range", "2h")
}

/// Waits until a query gives something that is a number; says the error of one that Prometheus can't answer.
async fn is_shown(prometheus: &Prometheus, place: &str, query: &str) {
    let query = filled_in(query);
    let mut problem = String::new();
    let shown = tokio::time::timeout(SHOWN_WITHIN, async {
        loop {
            match prometheus.query(&query).await {
                Ok(samples) if samples.iter().any(|(_, value)| !value.is_nan()) => return true,
                Ok(samples) => problem = format!("{} samples, none a number", samples.len()),
                Err(error) => {
                    problem = error.to_string();
                    return false;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    });
    assert!(matches!(shown.await, Ok(true)), "{place}: {query}: {problem}");
}

/// Every series that the services have shown: its name, without what is added for a histogram, and its labels.
async fn series(prometheus: &Prometheus) -> BTreeSet<(String, BTreeSet<String>)> {
    // The others are Prometheus's own.
    let ours = "{job=\"mecapy\", __name__!~\"up|scrape_.*|ALERTS.*\"}";
    let series = prometheus.get("series", &[("match[]", ours)]).await.unwrap();
    let of_scrapes = ["__name__", "job", "instance", "service", "exported_service", "le"];
    let mut found = BTreeSet::new();
    for labels in series.as_array().unwrap() {
        let labels = labels.as_object().unwrap();
        let name = labels["__name__"].as_str().unwrap().to_owned();
        let labels = labels.keys().filter(|label| !of_scrapes.contains(&label.as_str()));
        found.insert((name, labels.cloned().collect()));
    }
    found
}

fn names(definition: &Definition) -> Vec<String> {
    let Definition { name, .. } = definition;
    match definition.kind {
        Kind::Histogram => ["bucket", "sum", "count"].map(|part| format!("{name}_{part}")).into(),
        Kind::Counter | Kind::Gauge => vec![name.clone()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_dashboards_and_rules_gets_an_answer_from_the_running_system() {
    let system = System::start(Infra::shared().await).await.unwrap();
    let prometheus = scraping(&system).await;
    // Where a series begins with its first event, only the next one is a rise.
    live(&system, 9).await;
    eventually("the first round is counted", SHOWN_WITHIN, async || {
        let applied = "registry_cleanup_runs_total{how=\"applied\"} > 0";
        prometheus.query(applied).await.ok().filter(|samples| !samples.is_empty())
    })
    .await;
    let counted_at = UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    eventually("the first round was scraped of every service", SHOWN_WITHIN, async || {
        let scraped = prometheus.query("timestamp(up)").await.ok()?;
        scraped.iter().all(|(_, at)| *at > counted_at).then_some(())
    })
    .await;
    live(&system, 10).await;

    for dashboard in dashboards().unwrap() {
        for (panel, query) in dashboard.queries() {
            let selectors = Query::read(query).selectors;
            // What is tried again has a zero in its panel, by what was not.
            if !selectors.iter().any(|selector| is_caused(&selector.metric)) {
                continue;
            }
            is_shown(&prometheus, &format!("{} / {}", dashboard.title, panel.title), query).await;
        }
        for variable in &dashboard.templating.list {
            let query = &variable.query.query;
            let arguments = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (selector, label) = arguments.rsplit_once(", ").unwrap();
            let path = format!("label/{label}/values");
            let values = prometheus.get(&path, &[("match[]", &filled_in(selector))]).await.unwrap();
            let values = values.as_array().unwrap();
            assert_eq!(values.len(), Service::ALL.len(), "{}: {values:?}", variable.name);
        }
    }

    // An alert that does not fire has no answer, but what it looks at has.
    let rules = rules().unwrap();
    for (rule, query) in rules.queries() {
        prometheus.query(query).await.unwrap_or_else(|error| panic!("{rule}: {error}"));
        for Selector { metric, matchers } in Query::read(query).selectors {
            // A status of 503 is not there in good times.
            let is_usual = |label: &str| metric != "registry_requests_total" || label != "status";
            let matchers = matchers.into_iter().filter(|found| is_usual(&found.label)).collect();
            is_shown(&prometheus, rule, &Selector { metric, matchers }.text()).await;
        }
    }
    let known = prometheus.get("rules", &[]).await.unwrap();
    let known: Vec<&Value> = known["groups"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap())
        .collect();
    assert_eq!(known.len(), rules.queries().count());
    for rule in known {
        assert_eq!(rule["health"], "ok", "{rule}");
    }

    // What the services show is what their crates define, no more and no less.
    let definitions = definitions().unwrap();
    let shown = series(&prometheus).await;
    for (name, labels) in &shown {
        let defined = definitions.iter().find(|definition| names(definition).contains(name));
        assert!(
            defined.is_some_and(|definition| definition.labels == *labels),
            "{name} with {labels:?} is not what metric_definitions.rs says: {defined:?}"
        );
    }
    for definition in &definitions {
        let is_shown = names(definition).iter().all(|name| shown.iter().any(|(of, _)| of == name));
        assert!(is_shown || !is_caused(&definition.name), "{definition:?}");
    }
}
