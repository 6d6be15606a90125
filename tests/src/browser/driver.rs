//! WebDriver, as far as we need it: JSON over HTTP (<https://www.w3.org/TR/webdriver2/>), and chromedriver's own additions.
//!
//! Of the clients that there are, `thirtyfour` switches `serde_json` to another order of fields for the whole workspace, so
//! that tests would see another product than is deployed; `fantoccini` brings older releases of a dozen crates. What is used
//! here are twenty commands.

use std::{fmt, path::Path};

use anyhow::{Context, Result, bail};
use reqwest::RequestBuilder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clients::http;

/// A browser's session.
pub(super) struct Driver {
    http: reqwest::Client,
    /// Where the session is.
    base: String,
}

/// An element of a page, as long as that is there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Element {
    /// The name is the standard's.
    #[serde(rename = "element-6066-11e4-a52e-4f735466cecf")]
    id: String,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// A tab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tab(String);

impl Driver {
    /// Starts a browser with these arguments.
    pub(super) async fn start(driver: &str, browser: &Path, arguments: &[String]) -> Result<Self> {
        let wishes = json!({
            "goog:chromeOptions": {"binary": browser, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            // axe looks at everything.
            "timeouts": {"script": 60_000},
        });
        let http = http();
        let wishes = http.post(format!("{driver}/session")).json(&json!({"capabilities": {"alwaysMatch": wishes}}));
        let session = said(wishes).await?;
        let id = session["sessionId"].as_str().context("a session has an id")?;
        Ok(Self { http, base: format!("{driver}/session/{id}") })
    }

    /// Tells the browser to do something.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        said(self.http.post(format!("{}/{path}", self.base)).json(body)).await
    }

    /// Asks it something.
    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        said(self.http.get(format!("{}/{path}", self.base))).await
    }

    /// Ends it.
    pub(super) async fn quit(self) -> Result<()> {
        said(self.http.delete(&self.base)).await.map(drop)
    }
}

/// What the driver says to a request.
async fn said(request: RequestBuilder) -> Result<Value> {
    let answer = request.send().await.context("the driver is gone")?;
    let good = answer.status().is_success();
    let value = answer.json::<Value>().await?["value"].take();
    if !good {
        let message = value["message"].as_str().unwrap_or_default();
        bail!("{}: {}", value["error"].as_str().unwrap_or("error"), message.lines().next().unwrap_or_default());
    }
    Ok(value)
}
