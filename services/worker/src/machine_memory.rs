//! How much memory the machine has to spare.

/// Bytes, as the kernel estimates them. None: it does not say.
pub(crate) fn available() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn read(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        let text = "MemTotal:       24664980 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(read(text), Some(20_000_000 << 10));
        assert_eq!(read("MemTotal: 1 kB"), None);
        assert!(available().is_some());
    }
}
