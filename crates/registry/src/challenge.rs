//! What a registry asks for in `WWW-Authenticate`, and the scopes that are asked for in turn.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use url::Url;

/// How a registry wants to be spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// It asked for nothing.
    Open,
    Basic,
    Bearer {
        realm: Url,
        service: Option<String>,
    },
}

impl Challenge {
    /// The strongest challenge we can answer: Bearer before Basic.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut basic = None;
        for value in headers.get_all(WWW_AUTHENTICATE) {
            let Ok(text) = value.to_str() else { continue };
            for (scheme, parameters) in challenges(text) {
                let parameter = |name: &str| {
                    let found = parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.clone())
                };
                if scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if scheme.eq_ignore_ascii_case("bearer")
                    && let Some(realm) = parameter("realm").and_then(|realm| realm.parse().ok())
                {
                    return Some(Self::Bearer { realm, service: parameter("service") });
                }
            }
        }
        basic
    }
}

type Parameters = Vec<(String, String)>;

/// Splits `Scheme k=v, k="v", Scheme2 …`. Commas inside quotes belong to the value, as in
/// `scope="repository:a:pull,push"`.
fn challenges(text: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    for item in split_outside_quotes(text) {
        let item = item.trim();
        let (first, rest) = item.split_once(' ').unwrap_or((item, ""));
        let parameter = if first.contains('=') {
            item
        } else {
            if !first.is_empty() {
                found.push((first.to_owned(), Vec::new()));
            }
            rest.trim()
        };
        if let (Some((name, value)), Some((_, parameters))) =
            (parameter.split_once('='), found.last_mut())
        {
            parameters.push((name.trim().to_owned(), unquote(value.trim())));
        }
    }
    found
}

fn split_outside_quotes(text: &str) -> Vec<&str> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unquote(value: &str) -> String {
    match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => value.to_owned(),
    }
}

/// The rights a call needs, as a token service names them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    /// To be somebody known, and nothing else.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    /// A mount reads the repository it mounts from.
    pub(crate) fn mount(repository: &str, from: &str) -> Self {
        let mut scope = Self::push(repository);
        scope.0.extend(Self::pull(from).0);
        scope
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push,delete")])
    }

    pub(crate) fn catalog() -> Self {
        Self(vec!["registry:catalog:*".to_owned()])
    }

    pub(crate) fn parts(&self) -> &[String] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn read(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::read(&headers)
    }

    #[test]
    fn bearer_is_read_with_commas_inside_quotes() {
        let challenge = read(&[
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a:pull,push""#,
        ]);
        assert_eq!(
            challenge,
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".parse().unwrap(),
                service: Some("registry.example".into()),
            })
        );
    }

    #[test]
    fn bearer_wins_over_basic_wherever_it_stands() {
        let bearer = |challenge| matches!(challenge, Some(Challenge::Bearer { .. }));
        assert!(bearer(read(&["Basic realm=\"x\"", "bearer realm=https://a.example/t"])));
        assert!(bearer(read(&[r#"Basic realm="x, y", Bearer realm="https://a.example/t""#])));
        assert_eq!(read(&[r#"Basic realm="Registry \"Realm\"""#]), Some(Challenge::Basic));
        assert_eq!(read(&["Negotiate"]), None);
        assert_eq!(read(&["Bearer realm=\"not a url\""]), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_mount_asks_to_read_its_source_too() {
        assert_eq!(Scope::mount("a", "b").parts(), ["repository:a:pull,push", "repository:b:pull"]);
    }
}
