//! `[worker]`, and the sections that it shares.

use std::path::PathBuf;
use std::time::Duration;

use mecapy_engine::Limits;
use mecapy_registry::Registries;
use mecapy_service::ConfigError;
use serde::{Deserialize, Serialize};

use crate::machine_memory;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    #[serde(flatten)]
    pub service: mecapy_service::Options,
    pub nats: mecapy_bus::Options,
    pub postgres: mecapy_store::Options,
    pub s3: mecapy_objects::Options,
    pub registries: Registries,
    pub docker: mecapy_engine::Options,
    pub worker: Options,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Names this worker in rows, events and on its containers. The same after a restart, and no other worker's:
    /// at start, containers that carry it are removed. None: the host's name and the admin port.
    pub name: Option<String>,
    /// Tasks that run at once. None: one a core, where the machine's memory has room for what each may take.
    pub slots: Option<usize>,
    /// Attempts of a task, before it counts as lost.
    pub max_attempts: u32,
    /// Whether a task whose image is not here goes to the worker that is its function's home, when that has a free slot.
    pub affinity: bool,
    /// The OCI runtime, as the engine knows it. None: the engine's default.
    pub runtime: Option<String>,
    pub limits: LimitOptions,
    pub cache: CacheOptions,
    pub pool: PoolOptions,
    pub warm_up: WarmUpOptions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            name: None,
            slots: None,
            max_attempts: 3,
            affinity: true,
            runtime: None,
            limits: LimitOptions::default(),
            cache: CacheOptions::default(),
            pool: PoolOptions::default(),
            warm_up: WarmUpOptions::default(),
        }
    }
}

/// What is fetched before a task needs it: images as they are published, and base images at start.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUpOptions {
    pub enabled: bool,
    /// Images that wait to be fetched; more are left for their first task.
    pub max_waiting: usize,
}

impl Default for WarmUpOptions {
    fn default() -> Self {
        Self { enabled: true, max_waiting: 32 }
    }
}

/// Containers that are started ahead.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PoolOptions {
    pub enabled: bool,
    /// Where a function's code is laid for its container. The engine must see the same folder under the same path,
    /// and the worker must be root in it. Where that is not so, the log says so, and nothing is started ahead.
    pub directory: PathBuf,
    pub max_containers: usize,
    /// For one set of dependencies.
    pub max_per_dependencies: usize,
    /// What they may use of memory together, as measured.
    pub memory_mib: u64,
    /// What they leave free of the machine's memory.
    pub leave_free_mib: u64,
    /// After so long without a task, a set of dependencies has none any more.
    pub idle_seconds: u64,
    /// Whether the modules are imported ahead that the functions of a set of dependencies begin with.
    pub imports: bool,
    /// How many tasks one container may run, one after another, where their function asks for that. With 1, each has its own.
    pub max_uses: u32,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            directory: PathBuf::from("/run/mecapy-pool"),
            max_containers: 16,
            max_per_dependencies: 4,
            memory_mib: 1024,
            leave_free_mib: 512,
            idle_seconds: 600,
            imports: true,
            max_uses: 100,
        }
    }
}

/// What one task may use.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitOptions {
    pub memory_mib: u64,
    pub cpus: f64,
    pub pids: u32,
    /// The size of `/tmp`, which counts as memory too.
    pub tmp_mib: u64,
    /// A task may ask for less, never for more.
    pub timeout_seconds: u64,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self { memory_mib: 2048, cpus: 2.0, pids: 256, tmp_mib: 512, timeout_seconds: 300 }
    }
}

/// The images that are kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CacheOptions {
    pub max_images: usize,
    /// Unpacked; a layer that several images share is counted once.
    pub max_gib: u64,
    /// For one pull from one registry.
    pub pull_timeout_seconds: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { max_images: 200, max_gib: 50, pull_timeout_seconds: 30 }
    }
}

impl Config {
    /// The worker's name where none is given: two workers of one host can't have one admin port.
    pub(crate) fn name(&self) -> String {
        self.worker.name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            format!("{}:{}", host.trim(), self.service.admin.listen.port())
        })
    }
}

impl Options {
    pub(crate) fn slots(&self) -> usize {
        self.slots.unwrap_or_else(|| {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            slots_of(cores, machine_memory::total(), self.limits.memory_mib << 20)
        })
    }

    /// The limits of a task that asks for `timeout_ms` (0: for nothing).
    pub(crate) fn limits(&self, timeout_ms: u64) -> Limits {
        let own = Duration::from_secs(self.limits.timeout_seconds);
        let asked = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        Limits {
            memory_bytes: self.limits.memory_mib << 20,
            cpus: self.limits.cpus,
            pids: self.limits.pids,
            tmpfs_bytes: self.limits.tmp_mib << 20,
            timeout: asked.map_or(own, |asked| asked.min(own)),
            ..Limits::default()
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let at_least_one = |key: &str, value: u64| match value {
            0 => Err(ConfigError::key(format!("worker.{key}"), "must be at least 1")),
            _ => Ok(()),
        };
        if self.name.as_deref().is_some_and(|name| name.is_empty() || name.contains(['=', ','])) {
            return Err(ConfigError::key(
                "worker.name",
                "must not be empty, nor have `=` or `,` in it",
            ));
        }
        at_least_one("slots", self.slots.map_or(1, |slots| slots as u64))?;
        at_least_one("max_attempts", self.max_attempts.into())?;
        at_least_one("limits.tmp_mib", self.limits.tmp_mib)?;
        at_least_one("limits.timeout_seconds", self.limits.timeout_seconds)?;
        at_least_one("cache.max_images", self.cache.max_images as u64)?;
        at_least_one("cache.max_gib", self.cache.max_gib)?;
        at_least_one("cache.pull_timeout_seconds", self.cache.pull_timeout_seconds)?;
        at_least_one("pool.max_containers", self.pool.max_containers as u64)?;
        at_least_one("pool.max_per_dependencies", self.pool.max_per_dependencies as u64)?;
        at_least_one("pool.memory_mib", self.pool.memory_mib)?;
        at_least_one("pool.idle_seconds", self.pool.idle_seconds)?;
        at_least_one("pool.max_uses", self.pool.max_uses.into())?;
        at_least_one("warm_up.max_waiting", self.warm_up.max_waiting as u64)?;
        if !self.pool.directory.is_absolute() {
            return Err(ConfigError::key("worker.pool.directory", "must be an absolute path"));
        }
        if self.limits.memory_mib < 32 {
            return Err(ConfigError::key(
                "worker.limits.memory_mib",
                "must be at least 32: Python does not start with less",
            ));
        }
        if self.limits.pids < 16 {
            return Err(ConfigError::key(
                "worker.limits.pids",
                "must be at least 16: init, runner and function need some",
            ));
        }
        if !(self.limits.cpus.is_finite() && self.limits.cpus >= 0.01) {
            return Err(ConfigError::key("worker.limits.cpus", "must be at least 0.01"));
        }
        Ok(())
    }
}

/// For tasks that may take so many bytes each.
fn slots_of(cores: usize, memory: Option<u64>, each: u64) -> usize {
    let fit = memory.and_then(|memory| memory.checked_div(each));
    let fit = fit.and_then(|fit| usize::try_from(fit).ok()).unwrap_or(cores);
    cores.min(fit).max(1)
}

impl mecapy_service::Config for Config {
    fn service(&self) -> &mecapy_service::Options {
        &self.service
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.registries.validate()?;
        self.worker.validate()
    }
}

#[cfg(test)]
mod tests {
    use mecapy_service::Config as _;

    use super::*;

    fn config() -> Config {
        let mut config = Config::default();
        config.registries.primary.host = "registry.example".to_owned();
        config
    }

    #[test]
    fn the_defaults_with_a_registry_are_fine() {
        assert_eq!(config().validate(), Ok(()));
        assert!(config().name().ends_with(":9100"));
        assert!(config().worker.slots() >= 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let problem = |change: fn(&mut Config)| {
            let mut config = config();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(
            problem(|c| c.registries.primary.host.clear()).starts_with("registries.primary.host: ")
        );
        assert!(
            problem(|c| c.registries.fallback = Some(Default::default()))
                .starts_with("registries.fallback.host: ")
        );
        assert!(problem(|c| c.worker.slots = Some(0)).starts_with("worker.slots: "));
        assert!(problem(|c| c.worker.name = Some(String::new())).starts_with("worker.name: "));
        assert!(
            problem(|c| c.worker.limits.memory_mib = 1).starts_with("worker.limits.memory_mib: ")
        );
        assert!(
            problem(|c| c.worker.pool.directory = "pool".into())
                .starts_with("worker.pool.directory: ")
        );
        assert!(problem(|c| c.worker.limits.cpus = f64::NAN).starts_with("worker.limits.cpus: "));
        assert!(
            problem(|c| c.worker.cache.max_images = 0).starts_with("worker.cache.max_images: ")
        );
    }

    #[test]
    fn slots_are_as_many_as_cores_and_memory_allow() {
        let gib = |count: u64| Some(count << 30);
        for (cores, memory, expected) in
            [(2, gib(24), 2), (8, gib(7), 3), (8, gib(16), 8), (1, gib(1), 1), (4, None, 4)]
        {
            assert_eq!(slots_of(cores, memory, 2 << 30), expected, "{cores} {memory:?}");
        }
        assert_eq!(Options { slots: Some(9), ..Options::default() }.slots(), 9);
    }

    #[test]
    fn a_task_may_ask_for_less_time_and_not_for_more() {
        let options = Options::default();
        assert_eq!(options.limits(0).timeout, Duration::from_secs(300));
        assert_eq!(options.limits(1_500).timeout, Duration::from_millis(1_500));
        assert_eq!(options.limits(u64::MAX).timeout, Duration::from_secs(300));
    }
}
