//! The gateway as its users have it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

/// An HTTP client with an owner's token.
#[derive(Debug, Clone)]
pub struct Api {
    pub url: String,
    pub token: String,
    client: reqwest::Client,
}

impl Api {
    pub fn new(url: String, token: String) -> Result<Self> {
        mecapy_service::install_tls();
        Ok(Self { url, token, client: reqwest::Client::builder().no_proxy().build()? })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        let text = self.get_text(path).await?;
        serde_json::from_str(&text).with_context(|| text.clone())
    }

    pub async fn get_text(&self, path: &str) -> Result<String> {
        let answer = self.request(Method::GET, path).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        if !status.is_success() {
            bail!("GET {path}: {status}: {text}");
        }
        Ok(text)
    }

    /// Whatever it answers.
    pub async fn post(
        &self,
        path: &str,
        body: &Value,
        wait: Option<Duration>,
    ) -> Result<(StatusCode, Value)> {
        let mut request = self.request(Method::POST, path).json(body);
        if let Some(wait) = wait {
            request = request.header("prefer", format!("wait={}", wait.as_secs()));
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).with_context(|| format!("{status}: {text}"))?))
    }

    /// Submits a function and does not wait.
    pub async fn submit(&self, name: &str, code: &str, requirements: &str) -> Result<Value> {
        let body = json!({ "name": name, "code": code, "requirements": requirements });
        let (status, function) = self.post("/functions", &body, None).await?;
        if !status.is_success() {
            bail!("POST /functions: {status}: {function}");
        }
        Ok(function)
    }

    /// The function as its build ended, asked for until it has.
    pub async fn ended(&self, function: &Value, within: Duration) -> Result<Value> {
        let path = format!("/functions/{}", function["function_id"]);
        self.poll(&path, within, &["ready", "failed", "rejected"]).await
    }

    /// Runs a task and does not wait.
    pub async fn run(&self, function: &Value, inputs: &Value) -> Result<Value> {
        let path = format!("/functions/{}/tasks", function["function_id"]);
        let (status, task) = self.post(&path, &json!({ "inputs": inputs }), None).await?;
        if !status.is_success() {
            bail!("POST {path}: {status}: {task}");
        }
        Ok(task)
    }

    /// The task as it ended, asked for until it has.
    pub async fn task_ended(&self, task: &Value, within: Duration) -> Result<Value> {
        let id = task["task_id"].as_str().context("no task_id")?;
        let ends = ["succeeded", "failed", "timed_out", "oom", "cancelled", "lost"];
        self.poll(&format!("/tasks/{id}"), within, &ends).await
    }

    async fn poll(&self, path: &str, within: Duration, ends: &[&str]) -> Result<Value> {
        let deadline = tokio::time::Instant::now() + within;
        let mut last = Value::Null;
        while tokio::time::Instant::now() < deadline {
            // A gateway that is away for a moment is asked again: faults are what these tests are about.
            if let Ok(value) = self.get(path).await {
                if value["status"].as_str().is_some_and(|status| ends.contains(&status)) {
                    return Ok(value);
                }
                last = value;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("GET {path}: not ended within {within:?}: {last}")
    }
}
