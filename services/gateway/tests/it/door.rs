//! A gateway on ports of its own, with an account, a database and a bucket of its own.

use std::sync::{Arc, Once};
use std::time::Duration;

use mecapy_bus::{Bus, Live, Outbox, Results, topology};
use mecapy_gateway::{Api, Deps, Gateway, Options, Tokens};
use mecapy_objects::Objects;
use mecapy_proto::{BuildId, Event, TaskId};
use mecapy_service::Secret;
use mecapy_store::builds::{self, Built};
use mecapy_store::scans::{self, NewScan};
use mecapy_store::tasks::{self, Completion};
use mecapy_store::{PgPool, StoredFailure, TaskState};
use mecapy_testkit::{Infra, eventually};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::layer::SubscriberExt as _;

/// Far more than anything here takes: what passes it hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub const ACME: &str = "token-of-acme";
pub const OTHER: &str = "token-of-other";
pub const OPS: &str = "token-of-ops";
pub const VIEWER: &str = "token-of-a-viewer";

pub const IMAGE: &str = "registry.test/mecapy/functions/user-acme-func-1:v1-01234567@sha256:00";

pub struct Door {
    pub url: String,
    pub grpc: String,
    pub pool: PgPool,
    pub objects: Objects,
    pub results: Results,
    pub bus: Bus,
    pub live: Live,
    pub jetstream: async_nats::jetstream::Context,
    pub http: reqwest::Client,
    pub shutdown: CancellationToken,
    pub serving: JoinHandle<()>,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn text(&self, pointer: &str) -> &str {
        self.body.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// Status, code and field of a problem, which it must be.
    pub fn problem(&self) -> (u16, &str, &str) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.body);
        assert_eq!(self.body["status"], self.status);
        assert!(
            !self.text("/title").is_empty() && !self.text("/detail").is_empty(),
            "{}",
            self.body
        );
        assert_eq!(self.text("/type"), format!("/errors/{}", self.text("/code")));
        (self.status, self.text("/code"), self.text("/field"))
    }

    pub fn build(&self) -> BuildId {
        self.text("/build_id").parse().unwrap()
    }

    pub fn task(&self) -> TaskId {
        self.text("/task_id").parse().unwrap()
    }

    pub fn function(&self) -> i64 {
        self.body["function_id"].as_i64().unwrap()
    }
}

/// Spans with ids, as when traces are sent.
fn record_spans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let spans = tracing_opentelemetry::layer().with_tracer(tracer);
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans));
    });
}

impl Door {
    pub async fn open() -> Self {
        Self::open_with(Options::default()).await
    }

    pub async fn open_with(options: Options) -> Self {
        Self::open_to(options, PATIENCE).await
    }

    /// Who has a task may take so long to say what was written of its log.
    pub async fn with_answers_within(answer_within: Duration) -> Self {
        Self::open_to(Options::default(), answer_within).await
    }

    async fn open_to(options: Options, answer_within: Duration) -> Self {
        record_spans();
        mecapy_service::install_tls();
        let infra = Infra::shared().await;
        let account = infra.nats().await;
        let nats = mecapy_bus::Options {
            url: account.url.clone(),
            user: Some(account.user.clone()),
            password: Some(Secret::new(account.password.clone())),
        };
        let bus = Bus::connect_now("gateway", &nats).await.unwrap();
        // Once more where the server answers late: what is there already stays.
        eventually("NATS is set up", PATIENCE, async || {
            topology::setup(&bus, &topology::Setup::default()).await.ok()
        })
        .await;
        let postgres = mecapy_store::Options { url: infra.postgres().await, ..Default::default() };
        let pool = mecapy_store::connect(&postgres).await.unwrap();
        mecapy_store::migrate(&pool).await.unwrap();
        let s3 = infra.s3().await;
        let objects = Objects::new(&mecapy_objects::Options {
            endpoint: Some(s3.endpoint),
            region: s3.region,
            bucket: s3.bucket,
            access_key: s3.access_key,
            secret_key: Secret::new(s3.secret_key),
        });
        let client =
            async_nats::ConnectOptions::with_user_and_password(account.user, account.password)
                .connect(account.url)
                .await
                .unwrap();

        let shutdown = CancellationToken::new();
        let live = Live::new(bus.clone()).with_answers_within(answer_within);
        let deps = Deps {
            bus: bus.clone(),
            pool: pool.clone(),
            outbox: Outbox::start(bus.clone(), pool.clone(), "gateway", shutdown.clone()),
            live: live.clone(),
            objects: objects.clone(),
            webhooks: mecapy_webhooks::Options::default(),
            storage_limit_bytes: 90_000_000_000,
            shutdown: shutdown.clone(),
        };
        let gateway = Gateway { api: Api::start(deps, &options), tokens: Arc::new(tokens()) };
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (url, grpc_url) =
            (format!("http://{}", http.local_addr().unwrap()), grpc.local_addr().unwrap());
        let until = shutdown.clone();
        let serving = tokio::spawn(async move {
            gateway.serve(http, grpc, until, CancellationToken::new()).await.unwrap();
        });
        Self {
            url,
            grpc: format!("http://{grpc_url}"),
            results: Results::new(bus.clone()),
            bus,
            pool,
            objects,
            live,
            jetstream: async_nats::jetstream::new(client),
            http: reqwest::Client::new(),
            shutdown,
            serving,
        }
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(ACME)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        answer(self.request(Method::POST, path).json(&body)).await
    }

    pub async fn submit(&self, name: &str) -> Answer {
        self.post("/functions", submission(name)).await
    }

    /// A function of acme's that can run.
    pub async fn ready_function(&self, name: &str) -> i64 {
        let submitted = self.submit(name).await;
        self.make_ready(submitted.build()).await;
        submitted.function()
    }

    /// What the builder, the scanner and the publisher do, up to the scan.
    pub async fn scan(&self, id: BuildId, critical: u32) {
        let mut conn = self.pool.acquire().await.unwrap();
        builds::start(&self.pool, id).await.unwrap();
        let digest = format!("sha256:{}", hex::encode(Sha256::digest(id.to_string())));
        let built = Built {
            staging_image: format!("registry.test/mecapy/staging/x@{digest}"),
            digest: digest.clone(),
            tag: "v1-01234567".into(),
            size_bytes: 245_000_000,
            dependency_image: format!("registry.test/mecapy/staging/deps@{digest}"),
            lock_key: None,
            log_key: format!("logs/build-{id}.log"),
            duration_ms: 42_000,
        };
        assert!(builds::built(&mut conn, id, &built).await.unwrap());
        assert!(scans::insert(&mut conn, id, &found(&digest, critical)).await.unwrap());
        assert!(builds::scanned(&mut conn, id, &digest, critical == 0).await.unwrap());
    }

    pub async fn make_ready(&self, id: BuildId) {
        self.scan(id, 0).await;
        let mut conn = self.pool.acquire().await.unwrap();
        assert!(builds::published(&mut conn, id, IMAGE).await.unwrap());
    }

    pub async fn fail(&self, id: BuildId) {
        let failure = StoredFailure {
            code: "requirement-not-found".into(),
            message: "there is no package `nunpy`".into(),
            log: vec!["last line".into()],
        };
        let mut conn = self.pool.acquire().await.unwrap();
        assert!(builds::fail(&mut conn, id, &failure, None).await.unwrap());
    }

    /// What a worker does with a task.
    pub async fn complete(&self, id: TaskId, state: TaskState, result_key: Option<String>) {
        let claimed = tasks::claim(&self.pool, id, "worker").await.unwrap().unwrap();
        let failed = state != TaskState::Succeeded;
        let completion = Completion {
            state,
            digest: None,
            cache: Some("HIT".into()),
            timings: json!({ "queuedMs": "3", "runMs": "7" }),
            result_key,
            exit_code: Some(i32::from(failed)),
            failure: failed.then(|| StoredFailure {
                code: "function-failed".into(),
                message: "the function ended with exit code 1".into(),
                log: Vec::new(),
            }),
        };
        let mut conn = self.pool.acquire().await.unwrap();
        assert!(tasks::complete(&mut conn, id, claimed.attempt, &completion).await.unwrap());
    }

    /// The events of a subject, when there are as many as `count`, with their headers.
    pub async fn published<E: Event>(
        &self,
        stream: &str,
        count: usize,
    ) -> Vec<(E, async_nats::HeaderMap)> {
        eventually(&format!("{count} of {}", E::SUBJECT), PATIENCE, async || {
            let stream = self.jetstream.get_stream(stream).await.unwrap();
            let last = stream.get_info().await.unwrap().state.last_sequence;
            let mut events = Vec::new();
            for sequence in 1..=last {
                let message = stream.get_raw_message(sequence).await.unwrap();
                if message.subject.as_str() == E::SUBJECT {
                    events.push((E::decode(message.payload).unwrap(), message.headers));
                }
            }
            assert!(events.len() <= count, "more than {count} of {}", E::SUBJECT);
            (events.len() == count).then_some(events)
        })
        .await
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

pub fn submission(name: &str) -> Value {
    json!({ "name": name, "code": "print(1)\n", "requirements": "numpy==1.24.0\n" })
}

pub async fn answer(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

fn tokens() -> Tokens {
    let line =
        |owner, role, token| format!("{owner}:{role}:{}\n", hex::encode(Sha256::digest(token)));
    let lines = [
        line("acme", "owner", ACME),
        line("other", "owner", OTHER),
        line("ops", "operator", OPS),
        line("onlooker", "viewer", VIEWER),
    ];
    Tokens::parse(&lines.concat()).unwrap()
}

fn found(digest: &str, critical: u32) -> NewScan {
    let finding = |severity: &str| {
        json!({
            "id": "CVE-2023-1234", "package": "numpy", "installedVersion": "1.24.0", "fixedVersion": "1.26.0",
            "severity": severity, "summary": "",
        })
    };
    let mut findings = vec![finding("HIGH"), finding("LOW")];
    if critical > 0 {
        findings.insert(0, finding("CRITICAL"));
    }
    NewScan {
        digest: digest.to_owned(),
        engine: "osv".into(),
        engine_version: "1".into(),
        database_version: "1".into(),
        database_partial: false,
        passed: critical == 0,
        critical,
        high: 1,
        medium: 0,
        low: 1,
        unknown: 0,
        findings: Value::Array(findings),
        report_key: "r".into(),
        sbom_key: "s".into(),
        duration_ms: 1,
    }
}
