//! One try: signed, sent, and as much of the answer read as matters.

use std::error::Error as StdError;
use std::time::Duration;

use chrono::Utc;
use mecapy_store::deliveries::Claimed;
use mecapy_webhooks::target::{Refused, Target};
use mecapy_webhooks::{cloud_event, signature};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};

use crate::Options;
use crate::resolver::Checked;
use crate::schedule::{self, Answer};

/// Read of an answer, at most.
const MAX_ANSWER_BYTES: usize = 4 * 1024;
/// Shown of one that was not a success.
const MAX_SHOWN_CHARS: usize = 200;
/// What the body has after the status, which is the answer already.
const BODY_LIMIT: Duration = Duration::from_secs(1);
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// A receiver that is told of many tasks keeps its connection; one that is not, does not.
const IDLE_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("notifier.ca_bundle: {0}")]
    CaBundle(String),
    #[error("no HTTP client can be made: are there any CA certificates (package ca-certificates)?")]
    Client(#[source] reqwest::Error),
}

/// Why there was no answer, in the words of the webhook's owner.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the secret can't be used: give the webhook a new one")]
    Secret(#[from] signature::Error),
    #[error("no answer: {0}")]
    Http(String),
    #[error("no answer within {0} s")]
    TimedOut(u64),
}

/// How a try ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub answer: Answer,
    /// None: it was a success.
    pub error: Option<String>,
}

/// Calls receivers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    http: Client,
    rules: mecapy_webhooks::Options,
    limit: Duration,
}

impl Caller {
    pub(crate) fn new(options: &Options, rules: mecapy_webhooks::Options) -> Result<Self, Error> {
        let unusable = |error: &dyn StdError| Error::CaBundle(mecapy_service::chain(error));
        let roots = match &options.ca_bundle {
            None => Vec::new(),
            Some(path) => {
                let pem = std::fs::read(path).map_err(|error| unusable(&error))?;
                Certificate::from_pem_bundle(&pem).map_err(|error| unusable(&error))?
            }
        };
        let http = Client::builder()
            .user_agent(concat!("mecapy-notifier/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Checked(rules))
            .redirect(Policy::none())
            // A proxy would resolve names by itself.
            .no_proxy()
            .http1_only()
            .connect_timeout(CONNECT_LIMIT)
            .pool_idle_timeout(IDLE_LIMIT)
            .pool_max_idle_per_host(1)
            .tls_certs_merge(roots)
            .build()
            .map_err(Error::Client)?;
        Ok(Self { http, rules, limit: options.timeout() })
    }

    /// Bounded in time, whatever the receiver does.
    pub(crate) async fn call(&self, claimed: &Claimed) -> Outcome {
        let answered = match tokio::time::timeout(self.limit, self.send(claimed)).await {
            Ok(answered) => answered,
            Err(_) => Err(NoAnswer::TimedOut(self.limit.as_secs())),
        };
        match answered {
            Ok(response) => read(response).await,
            Err(error) => Outcome { answer: Answer::default(), error: Some(error.to_string()) },
        }
    }

    /// Until the head of the answer is there.
    async fn send(&self, claimed: &Claimed) -> Result<Response, NoAnswer> {
        // Again: the rules may be stricter than when it was made. This is where addresses in the URL are checked; those
        // of names are checked by the resolver.
        let target = Target::parse(&claimed.url, self.rules)?;
        let id = format!("msg_{}", claimed.id.simple());
        let timestamp = Utc::now().timestamp();
        let signature = signature::sign(&claimed.secrets, &id, timestamp, claimed.body.as_bytes())?;
        let request = self
            .http
            .post(target.url().clone())
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature)
            .header(CONTENT_TYPE, cloud_event::MEDIA_TYPE)
            .body(claimed.body.clone());
        request.send().await.map_err(|error| NoAnswer::Http(innermost(&error)))
    }
}

/// The status decides, and it came in time; the rest is read for whoever looks for the reason, and may be missing.
async fn read(mut response: Response) -> Outcome {
    let status = response.status();
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| schedule::retry_after(value, Utc::now()));
    let mut body = Vec::new();
    let reading = async {
        while body.len() < MAX_ANSWER_BYTES
            && let Ok(Some(chunk)) = response.chunk().await
        {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER_BYTES - body.len())]);
        }
    };
    // Cut off, what came so far is shown.
    let _ = tokio::time::timeout(BODY_LIMIT, reading).await;
    let error = match status.as_u16() {
        200..=299 => None,
        300..=399 => Some(format!("the receiver answered {status}; redirects are not followed")),
        _ => Some(format!("the receiver answered {status}{}", shown(&body))),
    };
    Outcome { answer: Answer { status: Some(status.as_u16()), retry_after }, error }
}

/// Text of a stranger: one line of it, without what a terminal or a page would act on.
fn shown(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body)
        .chars()
        .map(|c| if c.is_control() || is_format(c) { ' ' } else { c })
        .take(MAX_SHOWN_CHARS)
        .collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Characters that turn the direction of text, or are not seen.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// What went wrong, without the layers that it went through, nor the URL.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use mecapy_service::Secret;
    use tokio::net::TcpListener;
    use uuid::Uuid;

    use super::*;

    fn claimed(url: String) -> Claimed {
        Claimed {
            id: Uuid::now_v7(),
            webhook_id: Uuid::now_v7(),
            url,
            body: "{}".to_owned(),
            event_type: "push.done".to_owned(),
            secrets: vec![signature::new_secret().unwrap()],
            attempt: 1,
            round_attempt: 1,
            give_up_at: Utc::now(),
        }
    }

    async fn nobody_is_connected_to(url: impl Fn(u16) -> String, rules: mecapy_webhooks::Options) {
        mecapy_service::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = url(listener.local_addr().unwrap().port());
        let caller = Caller::new(&Options::default(), rules).unwrap();
        let outcome = caller.call(&claimed(url.clone())).await;
        let error = outcome.error.unwrap();
        assert!(error.contains("which is not called"), "{url}: {error}");
        assert_eq!(outcome.answer, Answer::default());
        let connected =
            std::future::poll_fn(|cx| std::task::Poll::Ready(listener.poll_accept(cx).is_ready()));
        assert!(!connected.await, "{url}");
    }

    /// Beyond the rule for URLs: the client itself connects to no such address by a name, since its resolver refuses.
    #[tokio::test]
    async fn a_name_that_leads_to_loopback_is_not_connected_to() {
        mecapy_service::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let caller = Caller::new(&Options::default(), mecapy_webhooks::Options::default()).unwrap();
        let request = caller.http.post(format!("http://localhost:{port}/"));
        let error = request.timeout(Duration::from_secs(10)).send().await.unwrap_err();
        assert!(innermost(&error).contains("a loopback address"), "{error:?}");
        let connected =
            std::future::poll_fn(|cx| std::task::Poll::Ready(listener.poll_accept(cx).is_ready()));
        assert!(!connected.await);
    }

    #[tokio::test]
    async fn by_default_nothing_on_this_machine_is_connected_to() {
        let strict = mecapy_webhooks::Options { allow_http: true, allow_private: false };
        nobody_is_connected_to(|port| format!("http://127.0.0.1:{port}/"), strict).await;
        nobody_is_connected_to(|port| format!("http://localhost:{port}/"), strict).await;
        nobody_is_connected_to(|port| format!("http://0x7f000001:{port}/"), strict).await;
        nobody_is_connected_to(|port| format!("http://[::ffff:127.0.0.1]:{port}/"), strict).await;
        let lenient = mecapy_webhooks::Options { allow_http: true, allow_private: true };
        nobody_is_connected_to(|port| format!("http://0.0.0.0:{port}/"), lenient).await;
    }

    #[test]
    fn what_a_receiver_answers_is_one_harmless_line() {
        assert_eq!(shown(b""), "");
        assert_eq!(shown(b" \n\t "), "");
        let hostile = "\u{1b}[31mred\r\nSet-Cookie: x\u{202e}\u{0} <script>ok";
        assert_eq!(shown(hostile.as_bytes()), ": [31mred Set-Cookie: x <script>ok");
        assert!(shown(&[0xff; 4_096]).chars().count() <= MAX_SHOWN_CHARS + 2);
    }

    #[test]
    fn a_secret_is_not_shown_with_its_delivery() {
        let claimed = Claimed {
            secrets: vec![Secret::new("whsec_c2VjcmV0")],
            ..claimed("https://hooks.example.com/".to_owned())
        };
        assert!(!format!("{claimed:?}").contains("c2VjcmV0"));
    }
}
