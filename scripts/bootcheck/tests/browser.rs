//! report.html in a real browser: what a person sees, and that a hostile guest changes none of it.
//!
//! Runs only when asked for: `cargo test -p bootcheck --test browser -- --ignored`. It needs
//! Debian's chromium and chromium-driver (`scripts/setup --all`).

mod common;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bootcheck::guest::Guest;
use common::Bench;
use serde_json::{Value, json};

/// A headless Chromium, spoken to by the WebDriver protocol.
struct Browser {
    driver: Child,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn start() -> Self {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("chromedriver does not run: `scripts/setup --all` installs it");
        let stdout = BufReader::new(driver.stdout.take().unwrap());
        // "ChromeDriver was started successfully on port 41234."
        let port = stdout.lines().find_map(|line| {
            let line = line.unwrap();
            let port = line.strip_prefix("ChromeDriver was started successfully on port ")?;
            Some(port.trim_end_matches('.').to_owned())
        });
        let address = format!("http://127.0.0.1:{}", port.unwrap());
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,960",
            &format!("--user-data-dir={}", profile.path().display()),
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        }}});
        let answer = post(&format!("{address}/session"), &wanted);
        let id = answer["sessionId"].as_str().unwrap();
        Self {
            session: format!("{address}/session/{id}"),
            driver,
            _profile: profile,
        }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        post(&format!("{}/{path}", self.session), body)
    }

    fn open(&self, path: &Path) {
        self.post(
            "url",
            &json!({ "url": format!("file://{}", path.display()) }),
        );
    }

    /// What a piece of JavaScript returns.
    fn ask(&self, script: &str) -> Value {
        let script = format!("return {script}");
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    fn click(&self, selector: &str) {
        let by = json!({ "using": "css selector", "value": selector });
        let element = self.post("element", &by);
        let id = element.as_object().unwrap().values().next().unwrap();
        self.post(
            &format!("element/{}/click", id.as_str().unwrap()),
            &json!({}),
        );
    }

    fn prefer(&self, scheme: &str) {
        let feature = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let command =
            json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": feature } });
        self.post("goog/cdp/execute", &command);
    }

    fn log(&self) -> Value {
        self.post("se/log", &json!({ "type": "browser" }))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn post(address: &str, body: &Value) -> Value {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let text = agent
        .post(address)
        .header("Content-Type", "application/json")
        .send(body.to_string())
        .unwrap()
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_string()
        .unwrap();
    let mut answer: Value = serde_json::from_str(&text).unwrap();
    assert!(answer["value"]["error"].is_null(), "{address}: {answer}");
    answer["value"].take()
}

const HOSTILE: &str = "boot\n</pre></aside><script>document.title='owned'</script>\
    <img src=x onerror=\"document.title='owned'\"><style>body{display:none}</style>\
    <a href=\"javascript:document.title='owned'\">x</a>\n\
    Kernel panic - not syncing: <script>document.title='owned'</script>\n";

/// A report of good cells, bad ones of a hostile guest, and skipped ones.
fn report() -> Bench {
    let bench = Bench::with(Guest::default().print("boot: PASS\n").power_off());
    let hostile = Guest::default().print(HOSTILE).reset().image();
    std::fs::write(bench.path("hostile"), hostile).unwrap();
    let config = format!(
        "[images]\ngood = {{ image = {:?} }}\nhostile = {{ image = {:?} }}\n\
         [[cells]]\nname = 'cpu'\nimage = 'good'\ncpu = ['cortex-a53', 'max', 'cortex-z9']\n\
         smp = [1, 2]\n[[cells]]\nname = 'hostile'\nimage = 'hostile'\nsmp = [1, 2]",
        bench.path("Image"),
        bench.path("hostile")
    );
    std::fs::write(bench.path("cells.toml"), config).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bootcheck"))
        .args(["matrix", "--config"])
        .arg(bench.path("cells.toml"))
        .arg("--out")
        .arg(bench.path("out"))
        .output()
        .unwrap();
    assert_eq!(common::status(&output), 1);
    bench
}

#[test]
#[ignore = "needs chromium and chromium-driver: scripts/setup --all"]
fn the_report_shows_everything_and_runs_nothing() {
    let bench = report();
    let browser = Browser::start();
    browser.open(&bench.path("out/report.html"));

    let title = browser.ask("document.title");
    assert_eq!(title, "cells: 4 of 6 cells as expected");
    let active = "document.querySelectorAll('script, img, iframe, object, a[href^=java]').length";
    assert_eq!(browser.ask(active), 0);
    assert_eq!(browser.ask("document.querySelectorAll('style').length"), 1);
    let loaded = "performance.getEntriesByType('resource').length";
    assert_eq!(browser.ask(loaded), 0, "nothing else is loaded");

    // The grid: first axis down, second across, in colours that differ.
    assert_eq!(
        browser.ask("document.querySelectorAll('td.tile').length"),
        8
    );
    let rows = "[...document.querySelectorAll('.group')[0].querySelectorAll('tbody th')]\
        .map(it => it.innerText)";
    assert_eq!(browser.ask(rows), json!(["cortex-a53", "max", "cortex-z9"]));
    let colour = |class: &str| {
        browser.ask(&format!(
            "getComputedStyle(document.querySelector('td.{class}')).backgroundColor"
        ))
    };
    let colours = [colour("expected"), colour("unexpected"), colour("skipped")];
    assert!(colours[0] != colours[1] && colours[1] != colours[2] && colours[0] != colours[2]);
    assert_eq!(
        browser.ask("document.querySelectorAll('.failure').length"),
        1,
        "both cells fail alike"
    );

    // A click on a red cell shows its console, as text.
    let shown = "[...document.querySelectorAll('.panel')]\
        .filter(it => getComputedStyle(it).display != 'none').map(it => it.innerText)";
    assert_eq!(browser.ask(shown), json!([]));
    browser.click("td.unexpected a");
    let panels = browser.ask(shown);
    let panel = panels[0].as_str().unwrap();
    assert_eq!(panels.as_array().unwrap().len(), 1);
    assert!(panel.contains("hostile/1") && panel.contains(HOSTILE.lines().nth(1).unwrap()));
    assert!(panel.contains("bootcheck boot --image"), "{panel}");
    browser.click(".panel:target .close");
    assert_eq!(browser.ask(shown), json!([]));

    let page = "getComputedStyle(document.body).backgroundColor";
    browser.prefer("light");
    let light = browser.ask(page);
    browser.prefer("dark");
    assert_ne!(browser.ask(page), light);
    assert_eq!(browser.ask("document.title"), title, "still");
    assert_eq!(
        browser.log(),
        json!([]),
        "the browser has nothing to complain about"
    );
}
