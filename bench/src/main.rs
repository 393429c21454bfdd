//! Ours beside its peers, in one run, in turn. Each benchmark starts what it needs, prints a table, and leaves
//! `target/bench/<name>.json`.

mod build_deps;
mod build_many;
mod build_world;
mod bus;
mod cleanup;
mod collector;
mod console;
mod db_open;
mod direct;
mod docker_peer;
mod idle;
mod memory;
mod mirror_again;
mod mirror_first;
mod mirror_world;
mod pipeline;
mod plan_1m;
mod publish;
mod rematch;
mod report;
mod scan_cold;
mod scan_warm;
mod scan_world;
mod task_cancel;
mod task_cold;
mod task_first;
mod task_load;
mod task_peer;
mod task_warm;
mod task_world;
mod telemetry;
mod usage;
mod validate;
mod worker_memory;
mod worker_world;

use std::process::ExitCode;

use clap::{Parser, ValueEnum};

use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures the pipeline beside its peers")]
struct Arguments {
    /// One benchmark; without it, all
    name: Option<Name>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Name {
    /// A code edit with unchanged requirements, build.requested to push.done, beside docker build + push
    Pipeline,
    /// The same to the image in staging
    BuildEdit,
    /// New requirements, build.requested to the image in staging, beside docker build with pip
    BuildDeps,
    /// Fifty functions with five sets of requirements at once, two builders
    BuildMany,
    /// Sources checked: the standard library, and 1 MB
    Validate,
    /// Events per second through handler, inbox and outbox
    Bus,
    /// What traces and metrics cost: events per second with all of them, beside none
    Telemetry,
    /// The console's pages over a hundred thousand functions and a million tasks, and two hundred browsers
    Console,
    /// Resident memory of each service after its work
    Idle,
    /// A hundred function images to an empty fallback, beside skopeo copy and docker pull, tag, push
    MirrorFirst,
    /// The same images when nothing has changed, beside skopeo copy
    MirrorAgain,
    /// An image of 300 MB from registry to registry, beside skopeo copy; and a code layer alone
    Publish,
    /// The most memory of a mirror that copies a blob of 2 GB
    Memory,
    /// Inventory, plan and apply of a registry's cleanup, beside skopeo
    Cleanup,
    /// The cleanup's plan over a million images
    #[value(name = "plan-1m")]
    Plan1m,
    /// The most used images of a week, out of fifty million tasks
    Usage,
    /// A scan of an image of 300 MB of which nothing is known, beside trivy
    ScanCold,
    /// A scan of a new layer of code on known dependencies
    ScanWarm,
    /// Ten thousand live images against a new database of advisories
    Rematch,
    /// The database of advisories: import and open
    DbOpen,
    /// A task of a known function, task.dispatch to task.done, beside docker run
    TaskWarm,
    /// The same for a function that imports numpy and scipy
    TaskNumpy,
    /// The first task of a function whose dependencies are here, beside docker pull + docker run
    TaskFirst,
    /// The same where they are not, and the base is
    TaskCold,
    /// What that costs more when the primary registry refuses, or never answers
    TaskFailover,
    /// Twenty functions by Zipf's law on two busy workers, beside docker run at its best concurrency
    TaskLoad,
    /// A task that runs, task.cancel to task.done
    TaskCancel,
    /// The worker's memory with 200 images and 50 containers that wait
    WorkerMemory,
}

#[tokio::main]
async fn main() -> ExitCode {
    if let Some(code) = telemetry::asked_to_run().await {
        return code;
    }
    let arguments = Arguments::parse();
    let names = arguments.name.map_or_else(|| Name::value_variants().to_vec(), |name| vec![name]);
    for name in names {
        let measured = match name {
            Name::Pipeline => pipeline::measure().await,
            Name::BuildEdit => pipeline::measure_build().await,
            Name::BuildDeps => build_deps::measure().await,
            Name::BuildMany => build_many::measure().await,
            Name::Validate => validate::measure().await,
            Name::Bus => bus::measure().await,
            Name::Telemetry => telemetry::measure().await,
            Name::Console => console::measure().await,
            Name::Idle => idle::measure().await,
            Name::MirrorFirst => mirror_first::measure().await,
            Name::MirrorAgain => mirror_again::measure().await,
            Name::Publish => publish::measure().await,
            Name::Memory => memory::measure().await,
            Name::Cleanup => cleanup::measure().await,
            Name::Plan1m => plan_1m::measure().await,
            Name::Usage => usage::measure().await,
            Name::ScanCold => scan_cold::measure().await,
            Name::ScanWarm => scan_warm::measure().await,
            Name::Rematch => rematch::measure().await,
            Name::DbOpen => db_open::measure().await,
            Name::TaskWarm => task_warm::measure().await,
            Name::TaskNumpy => task_warm::measure_numpy().await,
            Name::TaskFirst => task_first::measure().await,
            Name::TaskCold => task_cold::measure().await,
            Name::TaskFailover => task_cold::measure_failover().await,
            Name::TaskLoad => task_load::measure().await,
            Name::TaskCancel => task_cancel::measure().await,
            Name::WorkerMemory => worker_memory::measure().await,
        };
        if let Err(error) = measured.and_then(|report: Report| report.finish()) {
            eprintln!("{name:?}: {error:#}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
