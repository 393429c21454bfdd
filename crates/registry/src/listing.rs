//! Lists that come in pages: tags and repositories.

use std::collections::HashSet;

use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;
use url::Url;

use crate::challenge::Scope;
use crate::exchange::Call;
use crate::registry::Registry;
use crate::{Error, retry};

/// The most that Distribution's catalog gives at once; it answers 400 to more.
const PAGE: &str = "1000";
const MAX_PAGE_BYTES: u64 = 16 * 1024 * 1024;
/// A registry whose pages never end must neither keep us for ever nor fill our memory: ten million names, if they are
/// short.
const MAX_PAGES: usize = 10_000;
const MAX_BYTES: usize = 128 * 1024 * 1024;
/// Pages in a row without a name.
const MAX_EMPTY: u32 = 100;

/// Both kinds of page. Distribution answers `null` for a repository whose tags are all gone.
#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
    repositories: Option<Vec<String>>,
}

impl Registry {
    /// All tags of a repository, in the registry's order. An unknown repository is an error,
    /// one without tags is empty.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, Error> {
        let url = self.origin().repository_url(repository, "tags/list")?;
        let subject = format!("list of tags of {repository}");
        let call = Call::new("tags", subject, Method::GET, url, Scope::pull(repository));
        self.pages(call, |page| page.tags).await
    }

    /// All repositories. Those whose images are all deleted stay in it.
    pub async fn catalog(&self) -> Result<Vec<String>, Error> {
        let url = self.origin().url("_catalog")?;
        let subject = "catalog".to_owned();
        let call = Call::new("catalog", subject, Method::GET, url, Scope::catalog());
        self.pages(call, |page| page.repositories).await
    }

    async fn pages(
        &self,
        mut call: Call,
        names: impl Fn(Page) -> Option<Vec<String>>,
    ) -> Result<Vec<String>, Error> {
        call.url.query_pairs_mut().append_pair("n", PAGE);
        let (mut all, mut bytes, mut empty) = (Vec::new(), 0, 0);
        let mut seen = HashSet::new();
        for _ in 0..MAX_PAGES {
            let (page, next) = retry::transient(self.host(), call.operation, || async {
                let response = self.call_once(&call).await?;
                let next = next_page(response.headers());
                Ok((self.body(&call.subject, response, MAX_PAGE_BYTES).await?, next))
            })
            .await?;
            bytes += page.len() + next.as_ref().map_or(0, String::len);
            let page = serde_json::from_slice(&page)
                .map_err(|e| self.nonsense(&call.subject, e.to_string()))?;
            let names = names(page).unwrap_or_default();
            empty = if names.is_empty() { empty + 1 } else { 0 };
            all.extend(names);
            match next {
                None => return Ok(all),
                Some(_) if bytes > MAX_BYTES || empty > MAX_EMPTY => break,
                Some(next) => self.turn_page(&mut call, &next, &mut seen)?,
            }
        }
        Err(self.nonsense(&call.subject, "its pages do not end"))
    }

    /// Leads the call to the next page: one of this registry, and none that was had.
    pub(crate) fn turn_page(
        &self,
        call: &mut Call,
        next: &str,
        seen: &mut HashSet<Url>,
    ) -> Result<(), Error> {
        let nonsense = |reason| self.nonsense(&call.subject, reason);
        let next = self
            .origin()
            .follow(&call.url, next)
            .map_err(|_| nonsense("the link to its next page is not a URL"))?;
        if !self.origin().owns(&next) {
            return Err(nonsense("the link to its next page leads to another host"));
        }
        seen.insert(call.url.clone());
        if seen.contains(&next) {
            return Err(nonsense("its pages lead in a circle"));
        }
        call.url = next;
        Ok(())
    }
}

/// The target of `Link: <target>; rel="next"`.
pub(crate) fn next_page(headers: &HeaderMap) -> Option<String> {
    headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let (target, parameters) = value.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim();
            parameter.eq_ignore_ascii_case("rel=\"next\"")
                || parameter.eq_ignore_ascii_case("rel=next")
        });
        is_next.then(|| target.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    #[test]
    fn only_a_next_link_leads_on() {
        let next = |value: &'static str| {
            next_page(&HeaderMap::from_iter([(LINK, HeaderValue::from_static(value))]))
        };
        assert_eq!(
            next(r#"</v2/_catalog?last=b&n=2>; rel="next""#).as_deref(),
            Some("/v2/_catalog?last=b&n=2")
        );
        assert_eq!(next(r#"</v2/_catalog>; rel="prev""#), None);
        assert_eq!(next("nonsense"), None);
        assert_eq!(next_page(&HeaderMap::new()), None);
    }
}
