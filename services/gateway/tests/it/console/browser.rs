//! A browser without JavaScript: it has a cookie, and reads forms.

use mecapy_testkit::eventually;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;

use crate::door::{Door, PATIENCE};

pub struct Browser {
    pub url: String,
    http: reqwest::Client,
    /// `name=value`; none: it is not logged in.
    pub cookie: Option<String>,
}

pub struct Page {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Page {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub fn has(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// The value of a form's hidden field.
    pub fn field(&self, name: &str) -> String {
        let start = format!("name=\"{name}\" value=\"");
        let (_, rest) =
            self.text.split_once(&start).unwrap_or_else(|| panic!("no {name}: {}", self.text));
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// The addresses of links that begin with `start`.
    pub fn links(&self, start: &str) -> Vec<String> {
        let of = |rest: &str| rest.split_once('"').unwrap().0.replace("&amp;", "&");
        let all = self.text.split("href=\"").skip(1).map(of);
        all.filter(|link| link.starts_with(start)).collect()
    }
}

impl Browser {
    pub fn new(door: &Door) -> Self {
        let http = reqwest::Client::builder().redirect(Policy::none()).build().unwrap();
        Self { url: door.url.clone(), http, cookie: None }
    }

    pub async fn logged_in(door: &Door, token: &str) -> Self {
        let mut browser = Self::new(door);
        let page = browser.log_in(token).await;
        assert_eq!(page.status, 303, "{}", page.text);
        browser
    }

    /// Takes the cookie, if it is given one.
    pub async fn log_in(&mut self, token: &str) -> Page {
        let page = self.send("/console/login", &[("token", token)], &[]).await;
        if let Some(set) = page.headers.get("set-cookie") {
            let pair = set.to_str().unwrap().split(';').next().unwrap();
            self.cookie = Some(pair.to_owned());
        }
        page
    }

    pub async fn get(&self, path: &str) -> Page {
        self.page(self.http.get(format!("{}{path}", self.url))).await
    }

    /// A page that is there.
    pub async fn see(&self, path: &str) -> Page {
        let page = self.get(path).await;
        assert_eq!(page.status, 200, "{path}: {}", page.text);
        page
    }

    /// A page, once all of this is on it: what S3 or NATS does not bring within two seconds is left out.
    pub async fn see_all(&self, path: &str, texts: &[&str]) -> Page {
        eventually(&format!("{path} shows all of {texts:?}"), PATIENCE, async || {
            let page = self.see(path).await;
            texts.iter().all(|text| page.has(text)).then_some(page)
        })
        .await
    }

    /// What this session's forms carry.
    pub async fn csrf(&self) -> String {
        self.see("/console/functions").await.field("csrf")
    }

    /// A form as one of the session's pages has it.
    pub async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Page {
        let csrf = self.csrf().await;
        let mut all = vec![("csrf", csrf.as_str())];
        all.extend(fields);
        self.send(path, &all, &[]).await
    }

    /// A form with just these fields and headers.
    pub async fn send(
        &self,
        path: &str,
        fields: &[(&str, &str)],
        headers: &[(&str, &str)],
    ) -> Page {
        let mut body = url::form_urlencoded::Serializer::new(String::new());
        body.extend_pairs(fields);
        let mut request = self
            .http
            .post(format!("{}{path}", self.url))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.finish());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.page(request).await
    }

    /// The answer, before its body has come.
    pub async fn open(&self, path: &str) -> reqwest::Response {
        self.with_cookie(self.http.get(format!("{}{path}", self.url))).send().await.unwrap()
    }

    fn with_cookie(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.cookie {
            Some(cookie) => request.header("cookie", format!("other=1; {cookie}")),
            None => request,
        }
    }

    async fn page(&self, request: reqwest::RequestBuilder) -> Page {
        let response = self.with_cookie(request).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Page { status, headers, text: response.text().await.unwrap() }
    }
}
