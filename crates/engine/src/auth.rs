//! Registry credentials in the form that the engine really reads.

use bollard::BollardRequest;
use bollard::auth::DockerCredentials;
use http::HeaderValue;
use mecapy_service::Secret;

/// What the engine logs in to a registry with.
#[derive(Debug, Clone)]
pub struct Credentials {
    pub username: String,
    pub password: Secret,
}

impl From<(String, &Secret)> for Credentials {
    fn from((username, password): (String, &Secret)) -> Self {
        Self { username, password: password.clone() }
    }
}

impl Credentials {
    pub(crate) fn for_host(&self, host: &str) -> DockerCredentials {
        DockerCredentials {
            username: Some(self.username.clone()),
            password: Some(self.password.expose().to_owned()),
            serveraddress: Some(host.to_owned()),
            ..DockerCredentials::default()
        }
    }
}

/// The engine decodes these headers with the URL alphabet of base64, the client library encodes them
/// with the standard one. A header with `+` or `/` in it would be dropped without a word, and the
/// call go out anonymously: for one password in a few, and only for that one.
pub(crate) fn with_url_alphabet(mut request: BollardRequest) -> BollardRequest {
    for name in ["x-registry-auth", "x-registry-config"] {
        let Some(value) = request.headers().get(name).and_then(|v| v.to_str().ok()) else {
            continue;
        };
        if let Ok(mut value) = HeaderValue::from_str(&url_alphabet(value)) {
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
    }
    request
}

fn url_alphabet(base64: &str) -> String {
    base64.replace('+', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_headers_use_the_url_alphabet_and_keep_their_padding() {
        let request = http::Request::builder()
            .header("X-Registry-Auth", "ab+/==")
            .header("X-Registry-Config", "+/+/")
            .header("Other", "a+b/c")
            .body(bollard::body_full(bytes::Bytes::new()))
            .unwrap();
        let request = with_url_alphabet(request);
        assert_eq!(request.headers()["x-registry-auth"], "ab-_==");
        assert_eq!(request.headers()["x-registry-config"], "-_-_");
        assert_eq!(request.headers()["other"], "a+b/c");
    }

    #[test]
    fn credentials_never_print_their_password() {
        let credentials = Credentials::from(("user".to_owned(), &Secret::new("hunter2")));
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
