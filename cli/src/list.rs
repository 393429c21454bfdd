//! Shows a list of the gateway's, from its pages.

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::exit::Exit;
use crate::gateway::{Client, Error};
use crate::session::Session;

const PAGE_SIZE: usize = 100;

/// What is listed: where, and which of it.
#[derive(Debug)]
pub struct List<'a> {
    pub path: &'a [&'a str],
    /// Further parts of the query.
    pub filter: &'a [(&'a str, String)],
    /// None: all.
    pub limit: Option<usize>,
}

impl List<'_> {
    /// For a person as `overview` has it.
    pub async fn show<T: DeserializeOwned>(
        &self,
        client: &Client,
        session: &Session,
        overview: fn(&[T]) -> String,
    ) -> anyhow::Result<Exit> {
        let rows = self.rows(client).await?;
        let raw: Vec<&str> = rows.iter().map(|row| row.get()).collect();
        let values: Vec<T> = raw
            .iter()
            .map(|raw| serde_json::from_str(raw))
            .collect::<Result<_, _>>()
            .context("reading the list")?;
        session.output.show(&format!("[{}]", raw.join(",")), || overview(&values));
        Ok(Exit::Done)
    }

    async fn rows(&self, client: &Client) -> Result<Vec<Box<RawValue>>, Error> {
        let limit = self.limit.unwrap_or(usize::MAX);
        let mut rows = Vec::new();
        let mut token = String::new();
        while rows.len() < limit {
            let size = PAGE_SIZE.min(limit - rows.len());
            let page = client.page(self.path, self.filter, size, &token).await?;
            rows.extend(page.rows);
            match page.next_page_token {
                Some(next) if !next.is_empty() && next != token => token = next,
                _ => break,
            }
        }
        rows.truncate(limit);
        Ok(rows)
    }
}
