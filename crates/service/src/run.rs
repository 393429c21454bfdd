//! The life of a service's process.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin};
use crate::telemetry::{self, Telemetry};
use crate::{Config, Health, TelemetryOptions, metric_definitions};

/// `EX_USAGE` of sysexits: the configuration is wrong, and starting again won't help.
const EXIT_CONFIG: u8 = 64;
/// How long spans may take to leave at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);
/// How long before the end of the grace time work is handed back: enough to say so to NATS and Docker.
const HAND_BACK_BEFORE: Duration = Duration::from_secs(5);

/// The sections that every service has.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Options {
    pub admin: AdminOptions,
    pub telemetry: TelemetryOptions,
    pub shutdown: ShutdownOptions,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminOptions {
    /// For `/livez`, `/readyz` and `/metrics`: not for the world.
    pub listen: SocketAddr,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9100)) }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownOptions {
    /// How long what runs may go on after SIGTERM, before it is handed back.
    pub grace_seconds: u64,
}

impl Default for ShutdownOptions {
    fn default() -> Self {
        Self { grace_seconds: 25 }
    }
}

/// What a running service is given.
#[derive(Debug, Clone)]
pub struct Context {
    pub service: &'static str,
    /// Names this process among the replicas of its service.
    pub replica: String,
    pub health: Health,
    /// Cancelled by the first signal: take no new work, finish what runs, return.
    pub shutdown: CancellationToken,
    /// Cancelled when the grace time is nearly over: what still runs stops, and goes to another replica.
    pub hand_back: CancellationToken,
}

#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The configuration file (TOML); MECAPY_* variables come on top of it
    #[arg(long, env = "MECAPY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective configuration, with secrets hidden, and exit
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the service that runs here whether it is ready: exit 0 or 1
    Health,
}

/// Runs a service until it is told to stop. The exit code is for the process.
pub fn run<C, F, Fut>(service: &'static str, start: F) -> ExitCode
where
    C: Config,
    F: FnOnce(C, Context) -> Fut,
    Fut: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
{
    let arguments = Arguments::parse();
    let config: C = match crate::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(error) => return complain(service, &error, EXIT_CONFIG),
    };
    if arguments.check_config {
        return match toml::to_string(&config) {
            Ok(text) => {
                let _ = std::io::stdout().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => complain(service, &error, EXIT_CONFIG),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(service, &error, 1),
    };
    runtime.block_on(async {
        match arguments.command {
            Some(Command::Health) => match admin::probe(config.service().admin.listen).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(problem) => complain(service, &problem, 1),
            },
            None => serve(service, config, start).await,
        }
    })
}

async fn serve<C, F, Fut>(service: &'static str, config: C, start: F) -> ExitCode
where
    C: Config,
    F: FnOnce(C, Context) -> Fut,
    Fut: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>>,
{
    crate::install_tls();
    let options = config.service().clone();
    let replica = replica();
    let telemetry = match telemetry::init(service, &replica, &options.telemetry) {
        Ok(telemetry) => telemetry,
        Err(error) => return complain(service, &error, EXIT_CONFIG),
    };
    metric_definitions::register();
    let listener = match TcpListener::bind(options.admin.listen).await {
        Ok(listener) => listener,
        Err(error) => {
            return complain(
                service,
                &format!("admin.listen: {}: {error}", options.admin.listen),
                EXIT_CONFIG,
            );
        }
    };
    let context = Context {
        service,
        replica,
        health: Health::default(),
        shutdown: CancellationToken::new(),
        hand_back: CancellationToken::new(),
    };
    let admin = Admin {
        health: context.health.clone(),
        shutdown: context.shutdown.clone(),
        metrics: telemetry.metrics.clone(),
    };
    tokio::spawn(admin::serve(listener, admin));
    tracing::info!(service, replica = context.replica, admin = %options.admin.listen, "{service} starts");

    let (shutdown, hand_back) = (context.shutdown.clone(), context.hand_back.clone());
    let grace = Duration::from_secs(options.shutdown.grace_seconds);
    let outcome = until_stopped(start(config, context), &shutdown, &hand_back, grace).await;
    finish(service, telemetry, outcome).await
}

/// Runs the service; after a signal, for at most the grace time. None: it was cut off.
async fn until_stopped<T>(
    work: impl Future<Output = T>,
    shutdown: &CancellationToken,
    hand_back: &CancellationToken,
    grace: Duration,
) -> Option<T> {
    tokio::pin!(work);
    tokio::select! {
        outcome = &mut work => return Some(outcome),
        () = stop_signal() => {}
    }
    tracing::info!(grace_s = grace.as_secs(), "stopping: no new work is taken");
    shutdown.cancel();
    let last_call = grace.saturating_sub(HAND_BACK_BEFORE);
    tokio::select! {
        outcome = &mut work => return Some(outcome),
        () = tokio::time::sleep(last_call) => {}
        () = stop_signal() => {}
    }
    hand_back.cancel();
    tokio::select! {
        outcome = &mut work => Some(outcome),
        () = tokio::time::sleep(grace.saturating_sub(last_call)) => None,
        () = stop_signal() => None,
    }
}

async fn stop_signal() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn finish(
    service: &'static str,
    telemetry: Telemetry,
    outcome: Option<Result<(), Box<dyn std::error::Error + Send + Sync>>>,
) -> ExitCode {
    let code = match outcome {
        Some(Ok(())) => {
            tracing::info!("{service} has stopped");
            ExitCode::SUCCESS
        }
        None => {
            tracing::warn!(
                "{service} has stopped before its work was done; it comes again elsewhere"
            );
            ExitCode::SUCCESS
        }
        Some(Err(error)) => {
            tracing::error!(error = chain(error.as_ref()), "{service} can't go on");
            ExitCode::FAILURE
        }
    };
    telemetry.flush(FLUSH_LIMIT).await;
    code
}

/// An error with its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The host's name (a container's id, where there is one) and the process id: unique among the replicas.
fn replica() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn complain(service: &str, problem: &dyn std::fmt::Display, code: u8) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "mecapy-{service}: {problem}");
    ExitCode::from(code)
}
