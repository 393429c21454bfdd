//! What traces and metrics cost: the benchmark of the bus with all of them, beside the same without any. Both have logs,
//! as every service has.
//!
//! What is installed for that can't be taken back in a process, so each run is a process of its own.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mecapy_bus::Options;
use mecapy_service::{Secret, TelemetryOptions, start_telemetry};
use mecapy_testkit::{Infra, Server};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::bus::{EVENTS, Target, run};
use crate::report::Report;

const RUNS: usize = 5;
/// Ten times as often as Prometheus does.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// Of a run: where traces go, or empty.
const ENDPOINT: &str = "MECAPY_BENCH_OTLP_ENDPOINT";
const NATS: &str = "MECAPY_BENCH_NATS";
const USER: &str = "MECAPY_BENCH_NATS_USER";
const PASSWORD: &str = "MECAPY_BENCH_NATS_PASSWORD";
const POSTGRES: &str = "MECAPY_BENCH_POSTGRES";

/// Takes spans, and forgets them.
#[derive(Debug, Clone, Copy)]
struct Collector;

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        _: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Nats, Server::Postgres]).await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let collector = tonic::transport::Server::builder()
        .add_service(TraceServiceServer::new(Collector))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(collector);

    let mut report = Report::new("telemetry", RUNS);
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        off.push(in_a_process(&infra, "").await?);
        on.push(in_a_process(&infra, &endpoint).await?);
    }
    let (on, off) = (median(&mut on), median(&mut off));
    report.measure("ours_events_per_s", EVENTS as f64 / on);
    report.measure("off_events_per_s", EVENTS as f64 / off);
    report.measure("ratio_off", on / off);
    Ok(report)
}

/// The seconds that it took.
async fn in_a_process(infra: &Infra, endpoint: &str) -> Result<f64> {
    let target = Target::of(infra).await?;
    let password = target.nats.password.as_ref().map(Secret::expose).unwrap_or_default();
    let output = Command::new(std::env::current_exe()?)
        .env(ENDPOINT, endpoint)
        .env(NATS, &target.nats.url)
        .env(USER, target.nats.user.as_deref().unwrap_or_default())
        .env(PASSWORD, password)
        .env(POSTGRES, &target.postgres)
        .stderr(Stdio::inherit())
        .output()
        .await?;
    if !output.status.success() {
        bail!("a run ended with {}", output.status);
    }
    let seconds = String::from_utf8(output.stdout)?;
    seconds.trim().parse().with_context(|| format!("not a time: {seconds:?}"))
}

/// One run, where this process was started for it.
#[expect(clippy::print_stdout, reason = "the time is what a run is for")]
pub async fn asked_to_run() -> Option<ExitCode> {
    let endpoint = std::env::var(ENDPOINT).ok()?;
    Some(match one(endpoint).await {
        Ok(seconds) => {
            println!("{seconds}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

async fn one(endpoint: String) -> Result<f64> {
    mecapy_service::install_tls();
    let variable = |name: &'static str| std::env::var(name).context(name);
    let nats = Options {
        url: variable(NATS)?,
        user: Some(variable(USER)?),
        password: Some(Secret::new(variable(PASSWORD)?)),
    };
    let target = Target { nats, postgres: variable(POSTGRES)? };
    if endpoint.is_empty() {
        logs_alone();
        return Ok(run(&target, 1).await?.as_secs_f64());
    }
    let options = TelemetryOptions { otlp_endpoint: Some(endpoint), ..TelemetryOptions::default() };
    let telemetry = start_telemetry("bench", "bench", &options)?;
    let work = run(&target, 1);
    tokio::pin!(work);
    let took = loop {
        tokio::select! {
            took = &mut work => break took?,
            () = tokio::time::sleep(SCRAPE_EVERY) => {
                telemetry.exposition();
            }
        }
    };
    telemetry.flush(FLUSH_WITHIN).await;
    Ok(took.as_secs_f64())
}

/// As a service writes them.
fn logs_alone() {
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_writer(std::io::stderr)
        .with_env_filter(TelemetryOptions::default().log)
        .init();
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
