//! `/etc/os-release`. <https://www.freedesktop.org/software/systemd/man/os-release.html>

use crate::package::OsRelease;

pub fn parse(contents: &[u8]) -> OsRelease {
    let text = String::from_utf8_lossy(contents);
    let value = |key: &str| {
        let assigned =
            text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        assigned.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
    };
    OsRelease {
        id: value("ID").unwrap_or_else(|| "linux".to_owned()),
        version_id: value("VERSION_ID").unwrap_or_default(),
        pretty_name: value("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_taken_off_and_the_last_assignment_counts() {
        let os = parse(b"# a comment\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\nID=x\nVERSION_ID='13'\nID=debian\n");
        assert_eq!(os.id, "debian");
        assert_eq!(os.version_id, "13");
        assert_eq!(os.pretty_name, "Debian GNU/Linux 13 (trixie)");
    }

    #[test]
    fn what_is_missing_has_the_defaults_of_the_specification() {
        assert_eq!(parse(b"VERSION_IDX=1\n").id, "linux");
    }
}
