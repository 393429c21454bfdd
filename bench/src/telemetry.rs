//! What traces and metrics cost: the benchmark of the bus with them as they are by default, with every trace sent, and
//! without any. All have logs, as every service has.
//!
//! What is installed for that can't be taken back in a process, so each run is a process of its own. Beside the time it says
//! the processor's time of that process, on which others at work on the machine have little influence.

use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mecapy_bus::Options;
use mecapy_service::{Secret, TelemetryOptions, start_telemetry};
use mecapy_testkit::{Infra, Server};
use tokio::process::Command;

use crate::bus::{EVENTS, Target, run};
use crate::collector::Collector;
use crate::report::Report;

const RUNS: usize = 5;
/// Ten times as often as Prometheus does.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// Of a run: where traces go, or empty; and how many may begin in a second.
const ENDPOINT: &str = "MECAPY_BENCH_OTLP_ENDPOINT";
const MAX_TRACES: &str = "MECAPY_BENCH_MAX_TRACES_PER_SECOND";
const NATS: &str = "MECAPY_BENCH_NATS";
const USER: &str = "MECAPY_BENCH_NATS_USER";
const PASSWORD: &str = "MECAPY_BENCH_NATS_PASSWORD";
const POSTGRES: &str = "MECAPY_BENCH_POSTGRES";

/// What of its traces a run sends.
#[derive(Debug, Clone, Copy)]
enum Sends<'a> {
    /// Nothing: it has neither traces nor metrics.
    Off,
    /// So many a second, to this endpoint.
    UpTo(u32, &'a str),
}

/// Runs that send alike.
#[derive(Debug, Default)]
struct Series {
    runs: Vec<Took>,
    traces: usize,
}

/// In seconds.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: f64,
    /// Of the processor, over all threads.
    cpu: f64,
}

impl Series {
    fn events_per_s(&self) -> f64 {
        EVENTS as f64 / self.median(|took| took.time)
    }

    fn cpu_us_per_event(&self) -> f64 {
        1e6 * self.median(|took| took.cpu) / EVENTS as f64
    }

    fn median(&self, of: impl Fn(&Took) -> f64) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    }

    /// Each event begins a trace.
    fn sent_percent(&self) -> f64 {
        100.0 * self.traces as f64 / (EVENTS * self.runs.len()) as f64
    }
}

pub async fn measure() -> Result<Report> {
    mecapy_service::install_tls();
    let infra = Infra::start(&[Server::Nats, Server::Postgres]).await;
    let (collector, endpoint) = Collector::start().await?;
    let by_default = TelemetryOptions::default().max_traces_per_second;
    let kinds = [Sends::Off, Sends::UpTo(by_default, &endpoint), Sends::UpTo(u32::MAX, &endpoint)];
    let mut series: [Series; 3] = Default::default();
    for _ in 0..RUNS {
        for (series, sends) in series.iter_mut().zip(kinds) {
            series.runs.push(in_a_process(&infra, sends).await?);
            series.traces += collector.traces()?;
        }
    }
    let [off, on, all] = series;
    let mut report = Report::new("telemetry", RUNS);
    for (who, series) in [("off", &off), ("ours", &on), ("ours_all_sent", &all)] {
        report.measure(&format!("{who}_events_per_s"), series.events_per_s());
        report.measure(&format!("{who}_cpu_us_per_event"), series.cpu_us_per_event());
        report.measure(&format!("{who}_traces_sent_percent"), series.sent_percent());
    }
    report.measure("ratio_off", off.events_per_s() / on.events_per_s());
    report.measure("ratio_off_all_sent", off.events_per_s() / all.events_per_s());
    Ok(report)
}

async fn in_a_process(infra: &Infra, sends: Sends<'_>) -> Result<Took> {
    let target = Target::of(infra).await?;
    let password = target.nats.password.as_ref().map(Secret::expose).unwrap_or_default();
    let (max_traces, endpoint) = match sends {
        Sends::Off => (0, ""),
        Sends::UpTo(max_traces, endpoint) => (max_traces, endpoint),
    };
    let output = Command::new(std::env::current_exe()?)
        .env(ENDPOINT, endpoint)
        .env(MAX_TRACES, max_traces.to_string())
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
    let text = String::from_utf8(output.stdout)?;
    let took = text
        .trim()
        .split_once(' ')
        .and_then(|(time, cpu)| Some(Took { time: time.parse().ok()?, cpu: cpu.parse().ok()? }));
    took.with_context(|| format!("not two times: {text:?}"))
}

/// One run, where this process was started for it.
#[expect(clippy::print_stdout, reason = "the times are what a run is for")]
pub async fn asked_to_run() -> Option<ExitCode> {
    let endpoint = std::env::var(ENDPOINT).ok()?;
    Some(match one(endpoint).await {
        Ok(Took { time, cpu }) => {
            println!("{time} {cpu}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

async fn one(endpoint: String) -> Result<Took> {
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
        let time = run(&target, 1).await?.as_secs_f64();
        return Ok(Took { time, cpu: cpu_seconds()? });
    }
    let options = TelemetryOptions {
        otlp_endpoint: Some(endpoint),
        max_traces_per_second: variable(MAX_TRACES)?.parse()?,
        ..TelemetryOptions::default()
    };
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
    Ok(Took { time: took.as_secs_f64(), cpu: cpu_seconds()? })
}

/// What this process has had of the processor so far.
fn cpu_seconds() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The name of the program may have spaces in it. In hundredths of a second, as Linux tells everybody.
    let (_, rest) = stat.rsplit_once(')').context("no name in /proc/self/stat")?;
    let ticks: Vec<u64> =
        rest.split_whitespace().skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / 100.0)
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
