//! Lists, which the gateway gives page by page.

use reqwest::Method;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Client, Error};

/// A page of a list: each row as it came.
#[derive(Debug, Deserialize)]
pub struct Page {
    #[serde(alias = "functions", alias = "webhooks", alias = "deliveries")]
    pub rows: Vec<Box<RawValue>>,
    #[serde(default)]
    pub next_page_token: Option<String>,
}

impl Client {
    /// One page; `filter` are further parts of the query.
    pub async fn page(
        &self,
        path: &[&str],
        filter: &[(&str, String)],
        page_size: usize,
        token: &str,
    ) -> Result<Page, Error> {
        let mut request =
            self.request(Method::GET, path).query(&[("page_size", page_size)]).query(filter);
        if !token.is_empty() {
            request = request.query(&[("page_token", token)]);
        }
        Ok(self.json(request).await?.value)
    }
}
