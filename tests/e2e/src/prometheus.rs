//! A Prometheus that scrapes a system of a test.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mecapy_testkit::{Port, eventually, free_port};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::operations::root;

const IMAGE: &str = "mecapy/infra/prometheus";
const READY_WITHIN: Duration = Duration::from_secs(180);
/// It ends with its standard input, and that with this process, however it ends.
const RUN: &str = r#"/usr/bin/prometheus --config.file=/config/prometheus.yml --storage.tsdb.path=/tmp/data \
    --web.listen-address="$0" & read -r _; kill $!; wait"#;

/// What is scraped: `host:port`, as which service, of which job.
#[derive(Debug, Clone)]
pub struct Scraped {
    pub job: &'static str,
    pub service: Option<&'static str>,
    pub address: String,
}

/// In the network of the host, so that it reaches 127.0.0.1. With the rules of Compose.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    client: reqwest::Client,
    _port: Port,
    _config: TempDir,
    _process: Child,
}

impl Prometheus {
    pub async fn start(scraped: &[Scraped]) -> Result<Self> {
        let (port, config) = (free_port(), tempfile::tempdir()?);
        let address = format!("127.0.0.1:{}", port.number);
        std::fs::write(config.path().join("prometheus.yml"), configuration(scraped))?;
        let mount = |from: &Path, to: &str| format!("--volume={}:{to}:ro", from.display());
        let process = Command::new("docker")
            .args(["run", "--rm", "--interactive", "--pull=never", "--network=host", "--user=0:0"])
            .arg(mount(config.path(), "/config"))
            .arg(mount(&root().join("deploy/compose/prometheus/rules"), "/rules"))
            .args(["--entrypoint=sh", IMAGE, "-c", RUN, &address])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("docker run")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        let url = format!("http://{address}");
        eventually("Prometheus is ready", READY_WITHIN, async || {
            let answer = client.get(format!("{url}/-/ready")).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        Ok(Self { url, client, _port: port, _config: config, _process: process })
    }

    /// The `data` of an answer of its API.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value> {
        let request = self.client.get(format!("{}/api/v1/{path}", self.url)).query(parameters);
        let mut answer: Value = request.send().await?.json().await?;
        if answer["status"] != "success" {
            bail!("{parameters:?}: {}", answer["error"]);
        }
        Ok(answer["data"].take())
    }

    /// The newest samples of a query: their labels and values.
    pub async fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let mut data = self.get("query", &[("query", query)]).await?;
        let samples = data["result"].take();
        let samples = samples.as_array().context("a query of one value for each series")?;
        samples
            .iter()
            .map(|sample| {
                let value = sample["value"][1].as_str().context("a value")?;
                Ok((sample["metric"].clone(), value.parse()?))
            })
            .collect()
    }
}

fn configuration(scraped: &[Scraped]) -> String {
    let mut jobs: Vec<&str> = scraped.iter().map(|target| target.job).collect();
    jobs.dedup();
    let mut text = "global: { scrape_interval: 2s, evaluation_interval: 2s }\n\
                    rule_files: [/rules/*.yml]\nscrape_configs:\n"
        .to_owned();
    for job in jobs {
        text.push_str(&format!("  - job_name: {job}\n    static_configs:\n"));
        for Scraped { service, address, .. } in scraped.iter().filter(|target| target.job == job) {
            let labels = match service {
                Some(service) => format!(", labels: {{ service: {service} }}"),
                None => String::new(),
            };
            text.push_str(&format!("      - {{ targets: [{address:?}]{labels} }}\n"));
        }
    }
    text
}
