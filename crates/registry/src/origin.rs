//! Where a registry is, and which of the URLs it hands out are its own.

use url::Url;

use crate::image_ref::{is_host, is_repository, is_tag};
use crate::{Digest, Error, Options};

/// The name Docker Hub has in references is not where its registry answers.
const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_ENDPOINT: &str = "https://registry-1.docker.io";

#[derive(Clone, Debug)]
pub(crate) struct Origin {
    /// The registry's name in references.
    host: String,
    /// Without a slash at its end.
    base: Url,
}

impl Origin {
    pub(crate) fn new(options: &Options) -> Result<Self, Error> {
        let host = options.host.clone();
        let invalid =
            |reason: &str| Error::Options { host: host.clone(), reason: reason.to_owned() };
        if !is_host(&host) {
            return Err(invalid("`host` must be a host name, with a port or without"));
        }
        let base = match &options.endpoint {
            Some(endpoint) => endpoint.clone(),
            None if host == DOCKER_HUB => {
                Url::parse(DOCKER_HUB_ENDPOINT).map_err(|e| invalid(&e.to_string()))?
            }
            None => {
                let scheme = if options.plain_http { "http" } else { "https" };
                Url::parse(&format!("{scheme}://{host}")).map_err(|e| invalid(&e.to_string()))?
            }
        };
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(invalid("`endpoint` must be an http or https URL"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid("`endpoint` must not hold credentials"));
        }
        Ok(Self { host, base })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn is_plain_http(&self) -> bool {
        self.base.scheme() == "http"
    }

    /// `{base}/v2/{path}`. The path must be made of checked parts.
    pub(crate) fn url(&self, path: &str) -> Result<Url, Error> {
        let base = self.base.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/v2/{path}"))
            .map_err(|e| Error::InvalidReference { value: path.to_owned(), reason: e.to_string() })
    }

    pub(crate) fn manifest_url(&self, repository: &str, reference: &str) -> Result<Url, Error> {
        if !is_tag(reference) && reference.parse::<Digest>().is_err() {
            return Err(Error::InvalidReference {
                value: reference.to_owned(),
                reason: "it must be a tag or a digest".to_owned(),
            });
        }
        self.repository_url(repository, &format!("manifests/{reference}"))
    }

    pub(crate) fn repository_url(&self, repository: &str, path: &str) -> Result<Url, Error> {
        if !is_repository(repository) {
            return Err(Error::InvalidReference {
                value: repository.to_owned(),
                reason: "it is not the name of a repository".to_owned(),
            });
        }
        self.url(&format!("{repository}/{path}"))
    }

    /// Whether credentials may go to `url`: same scheme, host and port as configured.
    pub(crate) fn owns(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// A `Location` or `Link` that was given with the answer from `asked`. One that names the
    /// registry by its name in references is led to the endpoint we reach it by.
    pub(crate) fn follow(&self, asked: &Url, target: &str) -> Result<Url, url::ParseError> {
        let mut url = asked.join(target)?;
        let named = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, _) => return Ok(url),
        };
        // A proxy in front may have ended TLS without telling the registry, which then says http.
        let same_host = url.host_str() == self.base.host_str() && url.port() == self.base.port();
        if named == self.host || same_host {
            // The order matters: the port is dropped if it is the scheme's own.
            let moved = url.set_scheme(self.base.scheme()).is_ok()
                && url.set_host(self.base.host_str()).is_ok()
                && url.set_port(self.base.port()).is_ok();
            if !moved {
                return Err(url::ParseError::InvalidDomainCharacter);
            }
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(host: &str, endpoint: Option<&str>, plain_http: bool) -> Origin {
        let endpoint = endpoint.map(|url| url.parse().unwrap());
        Origin::new(&Options { host: host.into(), endpoint, plain_http, ..Options::default() })
            .unwrap()
    }

    #[test]
    fn the_endpoint_is_https_unless_configured() {
        let url = |origin: Origin| origin.url("").unwrap().to_string();
        assert_eq!(url(origin("ghcr.io", None, false)), "https://ghcr.io/v2/");
        assert_eq!(url(origin("127.0.0.1:5001", None, true)), "http://127.0.0.1:5001/v2/");
        assert_eq!(url(origin("docker.io", None, false)), "https://registry-1.docker.io/v2/");
        let inside = origin("127.0.0.1:5001", Some("http://primary:5000/"), false);
        assert_eq!(url(inside), "http://primary:5000/v2/");
    }

    #[test]
    fn names_cannot_leave_their_place_in_the_url() {
        let origin = origin("ghcr.io", None, false);
        assert!(origin.manifest_url("a/../b", "latest").is_err());
        assert!(origin.manifest_url("a", "../b").is_err());
        assert!(origin.manifest_url("a", "b?c").is_err());
        assert_eq!(
            origin.manifest_url("a/b", "v1").unwrap().as_str(),
            "https://ghcr.io/v2/a/b/manifests/v1"
        );
    }

    #[test]
    fn a_location_with_the_registrys_name_leads_to_its_endpoint() {
        let origin = origin("127.0.0.1:5001", Some("http://primary:5000"), false);
        let asked = origin.url("a/blobs/uploads/").unwrap();
        let follow = |target: &str| origin.follow(&asked, target).unwrap();
        let expected = "http://primary:5000/v2/a/blobs/uploads/1?_state=x";
        assert_eq!(follow("/v2/a/blobs/uploads/1?_state=x").as_str(), expected);
        assert_eq!(
            follow("http://127.0.0.1:5001/v2/a/blobs/uploads/1?_state=x").as_str(),
            expected
        );
        let elsewhere = follow("https://storage.example/x");
        assert_eq!(elsewhere.as_str(), "https://storage.example/x");
        assert!(!origin.owns(&elsewhere));
        assert!(origin.owns(&follow("/v2/")));
    }

    #[test]
    fn a_location_does_not_lose_tls_or_share_credentials_with_another_port() {
        let origin = origin("ghcr.io", None, false);
        let asked = origin.url("a/blobs/uploads/").unwrap();
        let follow = |target: &str| origin.follow(&asked, target).unwrap();
        assert_eq!(follow("http://ghcr.io/v2/x").as_str(), "https://ghcr.io/v2/x");
        assert!(!origin.owns(&follow("https://ghcr.io:8443/v2/x")));
        assert!(!origin.owns(&follow("http://ghcr.io:8080/v2/x")));
    }

    #[test]
    fn a_bad_configuration_says_which_registry() {
        let bad = Options { host: "https://ghcr.io".into(), ..Options::default() };
        assert!(Origin::new(&bad).unwrap_err().to_string().contains("https://ghcr.io"));
        let bad = Options {
            host: "ghcr.io".into(),
            endpoint: Some("https://user:secret@ghcr.io".parse().unwrap()),
            ..Options::default()
        };
        let error = Origin::new(&bad).unwrap_err().to_string();
        assert!(!error.contains("secret"));
    }
}
