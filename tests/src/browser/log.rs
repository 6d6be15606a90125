//! What a browser says itself: what it complained about, and whom it asked.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Browser;

/// A request that the page made, or tried to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Where to.
    pub url: String,
    /// Bytes that came over the wire, the head included; 0 for a socket, and for what was not answered.
    pub bytes: u64,
}

/// A line of a log.
#[derive(Deserialize)]
struct Entry {
    level: String,
    #[serde(default)]
    source: String,
    message: String,
}

impl Browser {
    /// Scripts that failed and what the policy (CSP) stopped, since it was asked last. That the network was away is no
    /// complaint.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn complaints(&self) -> Result<Vec<String>> {
        let grave = self.log("browser").await?.into_iter().filter(|entry| {
            let network = entry.source == "network" || entry.message.contains("WebSocket connection to");
            matches!(entry.level.as_str(), "SEVERE" | "WARNING") && !network
        });
        let said = grave.map(|entry| format!("{}: {}", entry.source, entry.message));
        Ok(said.filter(|line| !self.forgiven.iter().any(|part| line.contains(part))).collect())
    }

    /// Takes what is in a log.
    async fn log(&self, kind: &str) -> Result<Vec<Entry>> {
        Ok(serde_json::from_value(self.driver.post("se/log", &json!({"type": kind})).await?)?)
    }

    /// Every request of all tabs and frames, sockets among them, since it was asked last.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn requests(&self) -> Result<Vec<Request>> {
        let mut requests: Vec<(String, Request)> = Vec::new();
        for entry in self.log("performance").await? {
            let said: Value = serde_json::from_str(&entry.message)?;
            let (said, params) = (&said["message"], &said["message"]["params"]);
            let id = params["requestId"].as_str().unwrap_or_default().to_owned();
            let url = match said["method"].as_str().context("a method")? {
                // The browser's own pages are not the page's doing.
                "Network.requestWillBeSent"
                    if !params["documentURL"].as_str().is_some_and(|at| at.starts_with("http")) =>
                {
                    continue;
                }
                "Network.requestWillBeSent" => &params["request"]["url"],
                "Network.webSocketCreated" => &params["url"],
                "Network.loadingFinished" => {
                    let bytes = params["encodedDataLength"].as_f64().unwrap_or_default();
                    if let Some((_, request)) = requests.iter_mut().rev().find(|(known, _)| *known == id) {
                        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole bytes")]
                        let bytes = bytes as u64;
                        request.bytes = bytes;
                    }
                    continue;
                }
                _ => continue,
            };
            requests.push((id, Request { url: url.as_str().unwrap_or_default().to_owned(), bytes: 0 }));
        }
        Ok(requests.into_iter().map(|(_, request)| request).collect())
    }

    /// Whom the page asked, but for this machine, since it was asked for requests last.
    pub(super) async fn strangers(&self) -> Result<Vec<String>> {
        let urls = self.requests().await?.into_iter().map(|request| request.url);
        Ok(urls.filter(|url| !url.split_once("://").is_some_and(|(_, rest)| rest.starts_with("127.0.0.1:"))).collect())
    }
}
