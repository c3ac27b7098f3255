//! A browser.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baal::demo::supervised::{Spec, Supervised, tail};
use fantoccini::wd::Capabilities;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{DEADLINE, free_port};

/// A real Chromium without a window.
pub struct Browser {
    pub client: Client,
    screenshots: PathBuf,
    _driver: Supervised,
}

impl Browser {
    /// With a window of this width and height; it keeps its files in `dir`.
    pub async fn start(dir: &Path, (width, height): (u32, u32)) -> Self {
        let port = free_port();
        let log = dir.join("chromedriver.log");
        let port_argument = format!("--port={port}");
        let driver = Supervised::spawn(&Spec {
            name: "chromedriver",
            program: OsStr::new("chromedriver"),
            args: &[OsStr::new(&port_argument)],
            env: &[("HOME", dir.as_os_str())],
            log: &log,
            speaks: false,
            signal: "TERM",
            grace: Duration::from_secs(5),
        })
        .unwrap();
        let window = format!("--window-size={width},{height}");
        let profile = format!("--user-data-dir={}", dir.join("chromium").display());
        let mut capabilities = Capabilities::new();
        let arguments = [
            "--headless=new",
            // Tests may run as root, where Chromium refuses to start with its sandbox; it opens only our own page.
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--no-proxy-server",
            &window,
            &profile,
        ];
        capabilities.insert("goog:chromeOptions".into(), json!({ "args": arguments }));
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let deadline = Instant::now() + DEADLINE * 2;
        let client = loop {
            match builder.connect(&format!("http://127.0.0.1:{port}")).await {
                Ok(client) => break client,
                Err(error) if Instant::now() > deadline => {
                    panic!("no session with chromedriver: {error}\n{}", tail(&log, 30))
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        };
        let screenshots = std::env::var_os("BAAL_SCREENSHOTS").map_or_else(|| dir.join("screenshots"), PathBuf::from);
        std::fs::create_dir_all(&screenshots).unwrap();
        Self { client, screenshots, _driver: driver }
    }

    /// Keeps a picture: where BAAL_SCREENSHOTS says, for people to look at, else until the test ends.
    pub async fn shoot(&self, name: &str) {
        // Messages fly in; a picture of them half way is no use.
        sleep(Duration::from_millis(400)).await;
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(self.screenshots.join(format!("{name}.png")), picture).unwrap();
    }
}
