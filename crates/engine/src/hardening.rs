//! The container that a function runs in. Every flag here is always on: there is no way to ask for a
//! container without one.

use std::collections::HashMap;
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountType,
};

use crate::{ReadOnlyFile, RunRequest};

/// The user of the base image, by number: an image can't rename itself to root.
const USER: &str = "1000:1000";

/// What one run may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub memory_bytes: u64,
    pub cpus: f64,
    pub pids: u32,
    /// Size of `/tmp`. Its pages count as the container's memory.
    pub tmpfs_bytes: u64,
    /// From the start of the container's process.
    pub timeout: Duration,
    /// How much of each stream is kept; the rest is read and counted.
    pub stdout_bytes: usize,
    pub stderr_bytes: usize,
    /// A larger result is a failure, not a cut.
    pub output_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 2 << 30,
            cpus: 2.0,
            pids: 256,
            tmpfs_bytes: 512 << 20,
            timeout: Duration::from_secs(300),
            stdout_bytes: 1 << 20,
            stderr_bytes: 1 << 20,
            output_bytes: 10 << 20,
        }
    }
}

/// The request as the engine's API wants it.
pub(crate) fn container(request: &RunRequest) -> ContainerCreateBody {
    let limits = &request.limits;
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    ContainerCreateBody {
        image: Some(request.image.clone()),
        cmd: Some(request.command()),
        env: Some(request.env.clone()),
        labels: Some(request.labels.clone().into_iter().collect()),
        user: Some(USER.to_owned()),
        // stdin is closed for the container when we close our half of the connection.
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        open_stdin: Some(true),
        stdin_once: Some(true),
        tty: Some(false),
        network_disabled: Some(request.names.is_some()),
        // An image's health check would run beside the function, again and again.
        healthcheck: Some(HealthConfig {
            test: Some(vec!["NONE".to_owned()]),
            ..HealthConfig::default()
        }),
        host_config: Some(HostConfig {
            network_mode: Some("none".to_owned()),
            readonly_rootfs: Some(true),
            tmpfs: Some(HashMap::from([(
                "/tmp".to_owned(),
                format!("size={},mode=1777", limits.tmpfs_bytes),
            )])),
            memory: Some(memory),
            // Equal to the memory: no swap.
            memory_swap: Some(memory),
            // Billionths of a core.
            nano_cpus: Some((limits.cpus * 1e9) as i64),
            pids_limit: Some(i64::from(limits.pids)),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            // Reaps what the function leaves and passes signals on.
            init: Some(true),
            // The streams are read from the connection; the engine writes none of them to disk.
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            runtime: request.runtime.clone(),
            mounts: Some(request.files().into_iter().map(mount).collect()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

fn mount(file: ReadOnlyFile) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(file.host.to_string_lossy().into_owned()),
        target: Some(file.container),
        read_only: Some(true),
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NameFiles;

    #[test]
    fn every_flag_of_the_hardening_is_set_whatever_is_asked_for() {
        let request = RunRequest {
            limits: Limits { memory_bytes: 1 << 20, cpus: 0.5, ..Limits::default() },
            runtime: Some("runsc".to_owned()),
            ..RunRequest::default()
        };
        let body = container(&request);
        assert_eq!(body.user.as_deref(), Some("1000:1000"));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.readonly_rootfs, Some(true));
        assert_eq!(host.tmpfs.unwrap()["/tmp"], "size=536870912,mode=1777");
        assert_eq!(host.memory, Some(1 << 20));
        assert_eq!(host.memory_swap, host.memory);
        assert_eq!(host.nano_cpus, Some(500_000_000));
        assert_eq!(host.pids_limit, Some(256));
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges:true"]);
        assert_eq!(host.init, Some(true));
        assert_eq!(host.log_config.unwrap().typ.as_deref(), Some("none"));
        assert_eq!(host.runtime.as_deref(), Some("runsc"));
        assert_eq!((host.privileged, host.binds, host.cap_add), (None, None, None));
        assert_eq!(host.mounts, Some(Vec::new()));
    }

    #[test]
    fn a_file_of_the_host_is_never_writable() {
        let file = ReadOnlyFile { host: "/pool/1".into(), container: "/app/x.py".to_owned() };
        let body = container(&RunRequest { file: Some(file), ..RunRequest::default() });
        let mounts = body.host_config.unwrap().mounts.unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].read_only, Some(true));
        assert_eq!(mounts[0].source.as_deref(), Some("/pool/1"));
    }

    #[test]
    fn without_the_engines_network_there_is_none_either() {
        let names =
            NameFiles { hosts: "/pool/hosts".into(), resolv_conf: "/pool/resolv.conf".into() };
        let body = container(&RunRequest { names: Some(names), ..RunRequest::default() });
        assert_eq!(body.network_disabled, Some(true));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        let mounts = host.mounts.unwrap();
        let seen: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.target.as_deref().unwrap(), mount.read_only))
            .collect();
        assert_eq!(seen, [("/etc/hosts", Some(true)), ("/etc/resolv.conf", Some(true))]);
    }
}
