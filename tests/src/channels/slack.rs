//! Slack's Web API: `chat.postMessage` and `chat.update` of one workspace.
//!
//! Sources: <https://docs.slack.dev/reference/methods/chat.postMessage>,
//! <https://docs.slack.dev/reference/methods/chat.update>, <https://docs.slack.dev/apis/web-api/>.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Act, Call, http::Server};

/// Longest text that an update takes without `msg_too_long`, and that a post shows in one piece.
const MAX_TEXT: usize = 4_000;

/// A message that people see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The bot's token that it was sent with.
    pub token: String,
    /// The channel.
    pub channel: String,
    /// Its timestamp, which is its id there.
    pub ts: String,
    /// The thread it is in.
    pub thread_ts: Option<String>,
    /// What it says, as it was sent.
    pub text: String,
}

/// A workspace. Dropping it hangs up.
pub struct Slack {
    server: Server,
    seen: Arc<Mutex<Vec<Posted>>>,
}

impl Slack {
    /// Starts one with these bots' tokens. The script is asked about each call.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(tokens: &[&str], script: impl Fn(&Call) -> Act + Send + Sync + 'static) -> Result<Self> {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (tokens, messages): (Vec<String>, _) = (tokens.iter().map(|&t| t.to_owned()).collect(), Arc::clone(&seen));
        let service = move |call: &Call| {
            let mut seen = messages.lock().unwrap_or_else(PoisonError::into_inner);
            match answer(call, &tokens, &mut seen) {
                Ok(done) => (200, done),
                // What Slack refuses it refuses with 200.
                Err(error) => (200, json!({"ok": false, "error": error})),
            }
        };
        Ok(Self { server: Server::start(Box::new(script), Box::new(service)).await?, seen })
    }

    /// For `SLACK_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/api", self.server.address)
    }

    /// Every call until now.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.server.calls()
    }

    /// What people see.
    #[must_use]
    pub fn seen(&self) -> Vec<Posted> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Posts something by another way, a placeholder for instance; returns its timestamp.
    #[must_use]
    pub fn post(&self, token: &str, channel: &str, text: &str) -> String {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let ts = ts(seen.len());
        let (token, channel, text) = (token.to_owned(), channel.to_owned(), text.to_owned());
        seen.push(Posted { token, channel, ts: ts.clone(), thread_ts: None, text });
        ts
    }
}

fn ts(number: usize) -> String {
    format!("1700000000.{number:06}")
}

fn answer(call: &Call, tokens: &[String], seen: &mut Vec<Posted>) -> Result<Value, &'static str> {
    let text = |name: &str| call.body[name].as_str().map(str::to_owned);
    let token =
        call.headers.get("authorization").and_then(|value| value.strip_prefix("Bearer ")).ok_or("not_authed")?;
    if !tokens.iter().any(|known| known == token) {
        return Err("invalid_auth");
    }
    if call.headers.get("content-type").map(String::as_str) != Some("application/json; charset=utf-8") {
        return Err("invalid_post_type");
    }
    if call.method != "POST" || !call.body.is_object() {
        return Err("invalid_json");
    }
    let channel = text("channel").filter(|channel| channel.starts_with(['C', 'D', 'G'])).ok_or("channel_not_found")?;
    let said = text("text").filter(|text| !text.is_empty()).ok_or("no_text")?;
    // An unescaped control character is a link or a call for somebody.
    if said.contains(['<', '>']) || said.encode_utf16().count() > MAX_TEXT {
        return Err("msg_too_long");
    }
    let ts = match call.path.as_str() {
        "/api/chat.postMessage" => {
            let (ts, thread_ts) = (ts(seen.len()), text("thread_ts"));
            seen.push(Posted {
                token: token.to_owned(),
                channel: channel.clone(),
                ts: ts.clone(),
                thread_ts,
                text: said,
            });
            ts
        }
        "/api/chat.update" => {
            let ts = text("ts").ok_or("invalid_arguments")?;
            let message = seen.iter_mut().find(|message| message.ts == ts && message.channel == channel);
            let message = message.ok_or("message_not_found")?;
            if message.token != token {
                return Err("cant_update_message");
            }
            message.text = said;
            ts
        }
        _ => return Err("unknown_method"),
    };
    Ok(json!({"ok": true, "channel": channel, "ts": ts, "message": call.body}))
}
