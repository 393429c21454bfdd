//! Log-in, log-out, and who is let in.

use std::time::{Duration, Instant};

use mecapy_gateway::Options;

use super::browser::Browser;
use crate::door::{ACME, Door, OPS, PATIENCE};

#[tokio::test]
async fn a_token_is_given_for_a_cookie_that_scripts_and_other_sites_cannot_use() {
    let door = Door::open().await;
    let mut browser = Browser::new(&door);
    let wrong = browser.log_in("wrong").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, ""));
    assert!(wrong.has("No token is like this one."));
    let done = browser.log_in(ACME).await;
    assert_eq!((done.status, done.header("location")), (303, "/console"));
    let cookie = done.header("set-cookie");
    assert!(cookie.starts_with("__Host-mecapy="), "{cookie}");
    for part in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Max-Age=43200", "; Secure"] {
        assert!(cookie.contains(part), "{part} in {cookie}");
    }
    assert!(browser.see("/console").await.has("acme (owner)"));
    // What is kept is worth nothing to whoever reads it.
    let secret = hex::decode(browser.cookie.as_ref().unwrap().split_once('=').unwrap().1).unwrap();
    let kept: Vec<(Vec<u8>, Vec<u8>)> = sqlx::query_as("select id_hash, token_hash from sessions")
        .fetch_all(&door.pool)
        .await
        .unwrap();
    assert_eq!(kept.len(), 1);
    assert!(kept[0].0 != secret && kept[0].1 != secret);
}

#[tokio::test]
async fn without_tls_the_cookie_is_a_plain_one_when_the_configuration_says_so() {
    let options = Options { console_secure_cookie: false, ..Options::default() };
    let door = Door::open_with(options).await;
    let mut browser = Browser::new(&door);
    let done = browser.log_in(ACME).await;
    let cookie = done.header("set-cookie");
    assert!(cookie.starts_with("mecapy=") && !cookie.contains("Secure"), "{cookie}");
    assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
    browser.see("/console").await;
}

#[tokio::test]
async fn who_is_not_logged_in_is_led_to_the_log_in_and_back() {
    let door = Door::open().await;
    let mut browser = Browser::new(&door);
    for path in
        ["/console", "/console/functions/1", "/console/tasks?state=failed", "/console/audit"]
    {
        let page = browser.get(path).await;
        let next: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
        assert_eq!(page.status, 303, "{path}");
        assert_eq!(page.header("location"), format!("/console/login?next={next}"));
    }
    browser.cookie = Some(format!("__Host-mecapy={}", "0a".repeat(32)));
    assert_eq!(browser.get("/console").await.status, 303);
    let form = browser.see("/console/login?next=%2Fconsole%2Ftasks%3Fstate%3Dfailed").await;
    assert_eq!(form.field("next"), "/console/tasks?state=failed");
    let away = browser.see("/console/login?next=https%3A%2F%2Fevil.test").await;
    assert_eq!(away.field("next"), "/console");
    let fields = [("token", ACME), ("next", "/console/tasks?state=failed")];
    let done = browser.send("/console/login", &fields, &[]).await;
    assert_eq!(done.header("location"), "/console/tasks?state=failed");
    // API calls know no cookies.
    assert_eq!(
        door.http.get(format!("{}/functions", door.url)).send().await.unwrap().status(),
        401
    );
}

#[tokio::test]
async fn a_session_ends_with_the_log_out_its_time_or_its_token() {
    let door = Door::open().await;
    let browser = Browser::logged_in(&door, ACME).await;
    let other = Browser::logged_in(&door, ACME).await;
    let out = browser.post("/console/logout", &[]).await;
    assert_eq!((out.status, out.header("location")), (303, "/console/login"));
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(browser.get("/console").await.status, 303, "the cookie itself is worth nothing now");
    other.see("/console").await;
    sqlx::query("update sessions set expires_at = now() - interval '1 s'")
        .execute(&door.pool)
        .await
        .unwrap();
    assert_eq!(other.get("/console").await.status, 303);

    let third = Browser::logged_in(&door, OPS).await;
    let sessions: i64 =
        sqlx::query_scalar("select count(*) from sessions").fetch_one(&door.pool).await.unwrap();
    assert_eq!(sessions, 1, "what has expired is gone");
    // As when the token's line is taken out of the file.
    sqlx::query("update sessions set token_hash = '\\x00'").execute(&door.pool).await.unwrap();
    assert_eq!(third.get("/console").await.status, 303);
}

#[tokio::test]
async fn whoever_guesses_has_to_wait() {
    let door = Door::open().await;
    let mut browser = Browser::new(&door);
    let began = Instant::now();
    let mut wrong = 0;
    let refused = loop {
        let page = browser.log_in(&format!("guess {wrong}")).await;
        if page.status != 401 {
            break page;
        }
        wrong += 1;
        // They are counted a minute long: on a machine that is slower than that, it takes more of them.
        assert!(wrong <= 10 || began.elapsed() > Duration::from_secs(60), "guess {wrong}");
        assert!(began.elapsed() < 5 * PATIENCE, "{wrong} guesses");
    };
    assert!(wrong >= 10, "{wrong}");
    assert_eq!((refused.status, refused.header("retry-after")), (429, "60"));
    assert_eq!(refused.header("set-cookie"), "");
    // Behind a proxy all have one address: whoever guesses keeps nobody out.
    assert_eq!(browser.log_in(ACME).await.status, 303);
    browser.see("/console").await;
}

#[tokio::test]
async fn no_other_site_logs_somebody_in() {
    let door = Door::open().await;
    let browser = Browser::new(&door);
    for header in
        [("sec-fetch-site", "cross-site"), ("origin", "https://evil.test"), ("origin", "null")]
    {
        let refused = browser.send("/console/login", &[("token", ACME)], &[header]).await;
        assert_eq!((refused.status, refused.header("set-cookie")), (403, ""), "{header:?}");
    }
    // All that a browser tells over plain HTTP.
    let own = [("origin", browser.url.as_str())];
    assert_eq!(browser.send("/console/login", &[("token", ACME)], &own).await.status, 303);
}
