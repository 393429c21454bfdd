//! How much memory the machine has to spare.

use crate::leaving::Leaving;

/// Bytes, as the kernel estimates them. None: it does not say.
pub(crate) fn available() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Bytes that the machine has in all.
pub(crate) fn total() -> Option<u64> {
    read(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemTotal:")
}

/// What may be held where so much is to be left free: less than is held now, where less than that is free, and what is on
/// its way out is not enough.
pub(crate) fn to_hold(available: u64, held: u64, leaving: &Leaving, leave_free: u64) -> u64 {
    available.saturating_add(held).saturating_add(leaving.bytes()).saturating_sub(leave_free)
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
            let to_hold = to_hold(available, held, &Leaving::default(), leave_free);
            assert_eq!(to_hold, expected, "{available} {held}");
        }
    }

    #[test]
    fn one_shortage_is_met_once_however_long_what_goes_takes_to_be_gone() {
        const EACH: u64 = 10;
        // Thirty too few are free.
        let (mut available, leave_free) = (70, 100);
        let (mut waiting, leaving, mut on_their_way) = (10, Leaving::default(), Vec::new());
        for look in 0..30 {
            let wanted = to_hold(available, waiting * EACH, &leaving, leave_free) / EACH;
            while waiting > wanted {
                waiting -= 1;
                on_their_way.push(leaving.begin(EACH));
            }
            assert_eq!(waiting, 7, "look {look}");
            if look % 5 == 4 && on_their_way.pop().is_some() {
                available += EACH;
            }
        }
        assert_eq!((available, leaving.bytes()), (leave_free, 0));
        // The next shortage is another.
        available -= EACH;
        assert_eq!(to_hold(available, waiting * EACH, &leaving, leave_free), 6 * EACH);
    }
}
