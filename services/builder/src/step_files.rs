//! What the scripts of a step read of the configuration. Files, so that credentials are in no argument and no log.

use mecapy_engine::ContextFile;
use mecapy_service::Secret;
use url::Url;

use crate::options::Options;

/// The same for every step.
pub fn of(options: &Options) -> Vec<ContextFile> {
    let index = options.index_url.as_ref();
    vec![ContextFile::new("uv.toml", uv_toml(index)), ContextFile::new("pip.conf", pip_conf(index))]
}

/// The packages that this step may build, a line each.
pub fn source_packages(packages: &[String]) -> ContextFile {
    let lines: String = packages.iter().map(|package| format!("{package}\n")).collect();
    ContextFile::new("source-packages", lines)
}

fn uv_toml(index: Option<&Secret>) -> String {
    match index {
        // A JSON string is a TOML string.
        Some(url) => {
            format!("[[index]]\nurl = {}\ndefault = true\n", serde_json::json!(url.expose()))
        }
        None => String::new(),
    }
}

fn pip_conf(index: Option<&Secret>) -> String {
    // As it is written anew it has no line ends and no blanks. One that can't be read is refused before.
    let Some(url) = index.and_then(|url| Url::parse(url.expose()).ok()) else {
        return String::new();
    };
    let trusted = match (url.scheme(), url.host_str(), url.port()) {
        ("http", Some(host), Some(port)) => format!("trusted-host = {host}:{port}\n"),
        ("http", Some(host), None) => format!("trusted-host = {host}\n"),
        _ => String::new(),
    };
    format!("[global]\nindex-url = {url}\n{trusted}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_with_a_quote_or_a_line_end_in_its_url_stays_one_value() {
        let url = Secret::new("https://u:\"\n[x]@i/simple");
        let toml = uv_toml(Some(&url));
        assert_eq!(toml.lines().count(), 3, "{toml}");
        let conf = pip_conf(Some(&url));
        assert_eq!(conf.lines().count(), 2, "{conf}");
    }

    #[test]
    fn pip_trusts_an_index_without_tls_as_uv_does() {
        let conf = |url: &str| pip_conf(Some(&Secret::new(url)));
        assert_eq!(
            conf("http://10.0.0.5:3141/simple"),
            "[global]\nindex-url = http://10.0.0.5:3141/simple\ntrusted-host = 10.0.0.5:3141\n"
        );
        assert!(!conf("https://u:p@index.example/simple").contains("trusted"));
        assert_eq!(pip_conf(None), "");
    }
}
