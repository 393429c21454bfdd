//! How much memory the machine has to spare.

/// Bytes, as the kernel estimates them. None: it does not say.
pub(crate) fn available() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Bytes that the machine has in all.
pub(crate) fn total() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// What may be held where so much is to be left free: less than is held now, where less than that is free.
pub(crate) fn to_hold(available: u64, held: u64, leave_free: u64) -> u64 {
    available.saturating_add(held).saturating_sub(leave_free)
}

fn read(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_estimate_is_read() {
        let text = "MemTotal:       24664980 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(read(text, "MemAvailable:"), Some(20_000_000 << 10));
        assert_eq!(read("MemTotal: 1 kB", "MemAvailable:"), None);
        assert!(available().is_some() && available() <= total());
    }

    #[test]
    fn what_is_held_is_given_back_where_too_little_is_free() {
        for (available, held, leave_free, expected) in [
            (1000, 0, 500, 500),
            (700, 200, 500, 400),
            (500, 200, 500, 200),
            (400, 200, 500, 100),
            (200, 200, 500, 0),
            (u64::MAX, 200, 500, u64::MAX - 500),
        ] {
            assert_eq!(to_hold(available, held, leave_free), expected, "{available} {held}");
        }
    }
}
