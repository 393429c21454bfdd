//! A real registry behind a token service whose tokens end early.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode, header};
use axum::response::Response;
use mecapy_registry::{Copier, Options, ProgressSink, Registry, Source, Target};
use mecapy_testkit::{RegistryServer, unique};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::faults::{assert_whole, copy, image};
use crate::images::{Family, noise, push};
use crate::proxy::{Fate, Passing, Step, forward};
use crate::servers::{fallback, fallback_server, options, primary, primary_server};

/// The token service and the registry, at one address.
struct Gate {
    server: RegistryServer,
    address: String,
    given: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    task: AbortHandle,
}

/// What the gate knows.
#[derive(Default)]
struct Tokens {
    /// The scopes of each token that is good.
    good: Mutex<HashMap<String, Vec<String>>>,
    have_ended: AtomicBool,
}

impl Tokens {
    /// Whether the token of a request lets it through.
    fn let_through(&self, passing: &Passing, token: Option<&str>, ends_at: Step) -> bool {
        if passing.step() == ends_at && !self.have_ended.swap(true, Ordering::SeqCst) {
            self.good.lock().unwrap().clear();
        }
        let good = self.good.lock().unwrap();
        let Some(scopes) = token.and_then(|token| good.get(token)) else { return false };
        needed(passing).iter().all(|(repository, action)| {
            scopes.iter().any(|scope| {
                let actions = scope.strip_prefix(&format!("repository:{repository}:"));
                actions.is_some_and(|actions| actions.split(',').any(|has| has == *action))
            })
        })
    }
}

/// The repositories that a request is about, and what it does to them.
fn needed(passing: &Passing) -> Vec<(String, &'static str)> {
    let (path, query) = passing.path.split_once('?').unwrap_or((&passing.path, ""));
    let Some(rest) = path.strip_prefix("/v2/").filter(|rest| !rest.is_empty()) else {
        return Vec::new();
    };
    let end = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .iter()
        .find_map(|part| rest.find(part))
        .unwrap();
    let reads = matches!(passing.method, Method::GET | Method::HEAD);
    let mut needed = vec![(rest[..end].to_owned(), if reads { "pull" } else { "push" })];
    let from = query.split('&').find_map(|pair| pair.strip_prefix("from="));
    needed.extend(from.map(|from| (from.replace("%2F", "/"), "pull")));
    needed
}

impl Gate {
    /// All tokens that were given end when the first request of the step comes, long before they said that they would.
    async fn start(server: RegistryServer, ends_at: Step) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (given, refused) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tokens = Arc::new(Tokens::default());
        let client =
            reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        let basic = reqwest::Client::new()
            .get("http://none")
            .basic_auth(&server.username, Some(&server.password))
            .build()
            .unwrap();
        let basic = basic.headers()[header::AUTHORIZATION].clone();
        let (host, realm) = (server.host.clone(), format!("http://{address}/token"));
        let (gives, refuses) = (given.clone(), refused.clone());
        let router = Router::new().fallback(move |mut request: Request| {
            let (tokens, client, host) = (tokens.clone(), client.clone(), host.clone());
            let (gives, refuses) = (gives.clone(), refuses.clone());
            let (basic, realm) = (basic.clone(), realm.clone());
            async move {
                let authorization = request.headers().get(header::AUTHORIZATION).cloned();
                if request.uri().path() == "/token" {
                    assert_eq!(authorization.as_ref(), Some(&basic));
                    let asked = reqwest::Url::parse(&format!("http://x{}", request.uri())).unwrap();
                    let scopes = asked.query_pairs().filter(|(name, _)| name == "scope");
                    let token = unique("token");
                    let scopes = scopes.map(|(_, scope)| scope.into_owned()).collect();
                    tokens.good.lock().unwrap().insert(token.clone(), scopes);
                    gives.fetch_add(1, Ordering::SeqCst);
                    let body = format!(r#"{{"token":"{token}","expires_in":3600}}"#);
                    return Response::new(Body::from(body));
                }
                let passing = Passing {
                    method: request.method().clone(),
                    path: request.uri().path_and_query().unwrap().to_string(),
                    range: None,
                    before: 0,
                };
                let token = authorization.as_ref().map(|value| value.to_str().unwrap());
                let token = token.and_then(|value| value.strip_prefix("Bearer "));
                if !tokens.let_through(&passing, token, ends_at) {
                    refuses.fetch_add(1, Ordering::SeqCst);
                    return Response::builder()
                        .status(StatusCode::UNAUTHORIZED)
                        .header(
                            "www-authenticate",
                            format!(r#"Bearer realm="{realm}",service="gate""#),
                        )
                        .body(Body::empty())
                        .unwrap();
                }
                request.headers_mut().insert(header::AUTHORIZATION, basic);
                forward(&client, &host, request, &Fate::Pass).await
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { server, address, given, refused, task: task.abort_handle() }
    }

    fn registry(&self) -> Registry {
        let endpoint = Some(format!("http://{}", self.address).parse().unwrap());
        Registry::new(&Options { endpoint, ..options(self.server.clone()) }).unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn tokens_that_end_in_the_middle_of_a_copy_are_replaced_whatever_it_is_doing() {
    let at_the_source = [Step::ReadManifest, Step::ReadBlob];
    let at_the_destination = [
        Step::LookForManifest,
        Step::LookForBlob,
        Step::StartUpload,
        Step::PutBlob,
        Step::PutManifest,
        Step::ReadManifest,
    ];
    for step in at_the_source {
        let repository = unique("tokens");
        let image = image(&repository).await;
        let gate = Gate::start(primary_server().await, step).await;
        let copied = copy(&gate.registry(), &fallback().await, &repository, &image).await;
        copied.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert_whole(&repository, &image).await;
        assert!(gate.given.load(Ordering::SeqCst) >= 2, "{step:?}");
    }
    for step in at_the_destination {
        let repository = unique("tokens");
        let image = image(&repository).await;
        let gate = Gate::start(fallback_server().await, step).await;
        let copied = copy(&primary().await, &gate.registry(), &repository, &image).await;
        copied.unwrap_or_else(|error| panic!("{step:?}: {error}"));
        assert_whole(&repository, &image).await;
        // Not counting the first question, that has none.
        assert!(gate.refused.load(Ordering::SeqCst) >= 2, "{step:?}");
    }
}

#[tokio::test]
async fn a_mount_comes_with_the_right_to_read_where_it_mounts_from() {
    let (from, base, repository) = (primary().await, unique("base"), unique("tokens"));
    let layer = ("base", noise(&base, 50_000));
    let below = push(&from, &base, Family::Oci, std::slice::from_ref(&layer)).await;
    let above = push(&from, &repository, Family::Oci, &[layer, ("own", "own".into())]).await;
    // No token ends.
    let gate = Gate::start(fallback_server().await, Step::Other).await;
    copy(&from, &gate.registry(), &base, &below).await.unwrap();
    let source = Source { registry: from, repository: repository.clone(), digest: above.digest };
    let tags = vec!["v1".into(), "latest".into()];
    let target = Target { repository: repository.clone(), tags, mount_from: vec![base] };
    let copier = Copier::new(gate.registry());
    let report = copier.copy(&source, &target, &ProgressSink::none()).await.unwrap();
    assert!(report.bytes_mounted > 20_000, "{report:?}");
    assert_whole(&repository, &above).await;
}
