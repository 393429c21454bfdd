//! Resident memory of each service, after a function was built, scanned, published and run.

use std::time::Duration;

use anyhow::{Result, ensure};
use mecapy_e2e::{Service, System};
use mecapy_testkit::Infra;
use serde_json::json;

use crate::report::Report;

const PATIENCE: Duration = Duration::from_secs(300);

const CODE: &str = r#"
import json, numpy
with open("/output.json", "w") as file:
    json.dump(float(numpy.arange(10).mean()), file)
"#;

pub async fn measure() -> Result<Report> {
    let system = System::start(Infra::shared().await).await?;
    let function = system.api.submit("idle", CODE, "numpy\n").await?;
    let ready = system.api.ended(&function, PATIENCE).await?;
    ensure!(ready["status"] == "ready", "{ready}");
    let task = system.api.run(&ready, &json!({})).await?;
    let ended = system.api.task_ended(&task, PATIENCE).await?;
    ensure!(ended["status"] == "succeeded", "{ended}");

    let mut report = Report::new("idle", 1);
    let mut largest = 0.0_f64;
    for service in Service::ALL {
        let mib = system.resident_kib(service)? as f64 / 1024.0;
        report.measure(&format!("ours_{}_rss_mib", service.name()), mib);
        largest = largest.max(mib);
    }
    report.measure("ours_max_rss_mib", largest);
    Ok(report)
}
