//! A headless Chromium, over WebDriver: the few calls of it that these tests need.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use mecapy_testkit::{Port, eventually, free_port};
use serde_json::{Value, json};

/// What passes it hangs.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a page's script may take, in the browser itself: less, so that it is the browser that says so.
const SCRIPT_MS: u64 = 150_000;
/// Its version.
const AXE_CORE: &str = "4.14.1";
/// Ends with the pipe to this process, whatever ended that, and takes along what it has started.
const DRIVER: &str = r#"chromedriver --port="$0" </dev/null & cat >/dev/null; kill -KILL 0"#;
/// What WebDriver calls an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// One browser with one window. It ends with the test.
#[derive(Debug)]
pub struct Chromium {
    driver: Child,
    /// Of the session.
    url: String,
    http: reqwest::Client,
    _port: Port,
}

impl Chromium {
    /// None: there is none on this machine. That is said aloud: what it would have tested is not tested.
    pub async fn start() -> Result<Option<Self>> {
        let is_here = |program: &str| {
            let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
            found.is_ok_and(|output| output.status.success())
        };
        if !is_here("chromium") || !is_here("chromedriver") {
            eprintln!(
                "SKIPPED: no Chromium here (Debian: chromium, chromium-driver): the console is not tested"
            );
            return Ok(None);
        }
        use std::os::unix::process::CommandExt as _;
        let port = free_port();
        mecapy_service::install_tls();
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let driver = Command::new("sh")
            .args(["-c", DRIVER, &port.number.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // With the browsers that it starts, so that all end at once.
            .process_group(0)
            .spawn()
            .context("chromedriver")?;
        let mut this =
            Self { driver, url: format!("http://127.0.0.1:{}", port.number), http, _port: port };
        eventually("chromedriver answers", PATIENCE, async || {
            let status = this.http.get(format!("{}/status", this.url)).send().await.ok()?;
            let status: Value = status.json().await.ok()?;
            (status["value"]["ready"] == true).then_some(())
        })
        .await;
        let options = json!({
            "args": ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                "--no-proxy-server", "--window-size=1280,900", "--force-device-scale-factor=1"],
        });
        let capabilities = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": options, "timeouts": { "script": SCRIPT_MS },
        } } });
        let session = this.post("/session", &capabilities).await?;
        let id = session["sessionId"].as_str().context("no sessionId")?;
        this.url = format!("{}/session/{id}", this.url);
        Ok(Some(this))
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let answer = self.http.post(format!("{}{path}", self.url)).json(body).send().await?;
        let is_well = answer.status().is_success();
        let mut answer: Value = answer.json().await?;
        if !is_well {
            bail!("WebDriver: {path}: {}", answer["value"]);
        }
        Ok(answer["value"].take())
    }

    pub async fn go(&self, url: &str) -> Result<()> {
        self.post("/url", &json!({ "url": url })).await.map(drop)
    }

    pub async fn address(&self) -> Result<String> {
        let answer: Value = self.http.get(format!("{}/url", self.url)).send().await?.json().await?;
        Ok(answer["value"].as_str().unwrap_or_default().to_owned())
    }

    /// What a function's body returns in the page.
    pub async fn script(&self, body: &str) -> Result<Value> {
        self.post("/execute/sync", &json!({ "script": body, "args": [] })).await
    }

    /// What axe-core has against the page as it is: rules of WCAG 2 (A, AA) that it breaks, with where. None: npm is not
    /// here, or can't fetch it; that is said aloud.
    pub async fn accessibility_problems(&self) -> Result<Option<Vec<String>>> {
        let Some(axe) = axe_core()? else { return Ok(None) };
        let check = r#"
            const done = arguments[arguments.length - 1];
            const told = (rule) => rule.id + ": " + rule.nodes.map((node) => node.html).slice(0, 3).join(" | ");
            axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"] })
                .then((found) => done(found.violations.map(told)), (error) => done(["axe: " + error]));
        "#;
        let body = json!({ "script": format!("{axe};\n{check}"), "args": [] });
        let found = self.post("/execute/async", &body).await?;
        let found = found.as_array().context("axe-core says nothing")?.iter();
        Ok(Some(found.map(|problem| problem.as_str().unwrap_or_default().to_owned()).collect()))
    }

    /// A command of the DevTools.
    pub async fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters })).await
    }

    async fn element(&self, css: &str) -> Result<String> {
        let found =
            self.post("/element", &json!({ "using": "css selector", "value": css })).await?;
        Ok(found[ELEMENT].as_str().with_context(|| format!("no {css}"))?.to_owned())
    }

    /// A page that follows what happens may put another part in the place of the one that was just found: that one is
    /// looked for again.
    pub async fn click(&self, css: &str) -> Result<()> {
        eventually(&format!("{css} is clicked"), PATIENCE, async || {
            let click = async {
                let element = self.element(css).await?;
                self.post(&format!("/element/{element}/click"), &json!({})).await.map(drop)
            };
            match click.await {
                Err(error) if is_of_another_moment(&error) => None,
                clicked => Some(clicked),
            }
        })
        .await
    }

    pub async fn write(&self, css: &str, text: &str) -> Result<()> {
        let element = self.element(css).await?;
        let body = json!({ "text": text });
        self.post(&format!("/element/{element}/value"), &body).await.map(drop)
    }

    /// What can be read in the page, or in a part of it.
    pub async fn text(&self, css: &str) -> Result<String> {
        let element = self.element(css).await?;
        let path = format!("{}/element/{element}/text", self.url);
        let answer: Value = self.http.get(path).send().await?.json().await?;
        let text = answer["value"].as_str();
        Ok(text.with_context(|| format!("{css}: {}", answer["value"]))?.to_owned())
    }

    /// Waits until a part of the page, as it is, says something. What it says then.
    pub async fn until(&self, css: &str, says: &str, within: Duration) -> String {
        eventually(&format!("{css} says {says:?}"), within, async || {
            self.text(css).await.ok().filter(|text| text.contains(says))
        })
        .await
    }

    /// As on a screen of this width.
    pub async fn width(&self, pixels: u32) -> Result<()> {
        let screen = json!({ "width": pixels, "height": 900, "deviceScaleFactor": 1, "mobile": pixels < 600 });
        self.devtools("Emulation.setDeviceMetricsOverride", &screen).await.map(drop)
    }

    /// Light or dark.
    pub async fn scheme(&self, scheme: &str) -> Result<()> {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &features).await.map(drop)
    }

    /// The page as a picture (PNG, base64), at most so high.
    pub async fn picture(&self, height: u32) -> Result<String> {
        let size =
            self.script("return [innerWidth, document.documentElement.scrollHeight]").await?;
        let (width, whole) = (size[0].as_u64().unwrap_or(1280), size[1].as_u64().unwrap_or(900));
        let clip = json!({ "x": 0, "y": 0, "width": width, "height": whole.min(height.into()), "scale": 1 });
        let asked = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let taken = self.devtools("Page.captureScreenshot", &asked).await?;
        Ok(taken["data"].as_str().context("no picture")?.to_owned())
    }
}

/// Whether WebDriver says that the page was another one a moment ago.
fn is_of_another_moment(error: &anyhow::Error) -> bool {
    let said = error.to_string();
    ["stale element reference", "no such element"].iter().any(|kind| said.contains(kind))
}

/// The text of axe-core, fetched once with npm, into target/.
fn axe_core() -> Result<Option<String>> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/axe-core");
    let file = format!("{folder}/{AXE_CORE}/axe.min.js");
    if !std::fs::exists(&file)? {
        // In a folder of its own until it is whole: several tests may fetch it at once.
        let fetch = format!(
            "set -e; mkdir -p {folder}; here=$(mktemp -d {folder}/XXXXXX); cd $here
             npm pack --silent axe-core@{AXE_CORE} >/dev/null; tar -xzf axe-core-*.tgz
             mv -T package ../{AXE_CORE} 2>/dev/null || true; cd ..; rm -rf $here"
        );
        let fetched = Command::new("sh").args(["-c", &fetch]).output()?;
        if !fetched.status.success() || !std::fs::exists(&file)? {
            let why = String::from_utf8_lossy(&fetched.stderr).into_owned();
            eprintln!(
                "SKIPPED: axe-core can't be fetched with npm: accessibility is not tested: {why}"
            );
            return Ok(None);
        }
    }
    Ok(Some(std::fs::read_to_string(file)?))
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.driver.wait();
    }
}
