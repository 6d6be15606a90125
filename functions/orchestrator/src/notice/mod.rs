//! Tells a tenant outside that a conversation waits for a person: by a signed webhook, in a Slack channel, or both.
//!
//! A notice is ours to send once: it was claimed in Postgres. What is refused for the moment is tried again while this
//! invocation lasts; what may have arrived is not, the reminder makes up for it.
//!
//! Sources: <https://www.standardwebhooks.com>, <https://docs.slack.dev/reference/methods/chat.postMessage>.

mod address;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};
use chat_core::{
    config::{self, Sealing, Secret},
    conversation::{Author, Line},
    sealed::Sealer,
    store::notices::Notice,
    timestamp::Timestamp,
};
use reqwest::{ClientBuilder, RequestBuilder, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::outside::Outside;
use address::{NotPublic, PublicOnly};

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for an answer. Whoever wants to do more with a notice than to take it does that later.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// No try begins later than this after the first: with its own time it leaves the function some of its own.
const LAST_TRY: Duration = Duration::from_secs(12);

/// Tries at most.
const TRIES: u32 = 3;

/// Upper end of the random pause before the second try; it doubles with each.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest message in Slack, in characters.
const MAX_SLACK_CHARS: usize = 3_000;

/// Longest answer of Slack that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 65_536;

/// Sends notices.
pub struct Notices {
    settings: config::Notices,
    sealer: Sealer,
    webhooks: Outside,
    slack: Outside,
}

/// What became of one way of telling.
type Told = Result<(), String>;

impl Notices {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(settings: &config::Notices, sealing: &Sealing) -> Self {
        let patient = |builder: ClientBuilder| builder.connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT);
        let allow_private = settings.allow_private;
        let public = move |builder: ClientBuilder| {
            if allow_private { builder } else { builder.dns_resolver(Arc::new(PublicOnly)) }
        };
        Self {
            settings: settings.clone(),
            sealer: Sealer::new(sealing),
            webhooks: Outside::new(move |builder| public(patient(builder))),
            slack: Outside::new(patient),
        }
    }

    pub(crate) fn settings(&self) -> &config::Notices {
        &self.settings
    }

    /// Sends a notice on every way that its tenant has set, and returns what became of each, as a JSON object.
    pub(crate) async fn send(&self, notice: &Notice) -> Value {
        let (webhook, slack) =
            tokio::join!(async { Some(self.webhook(notice, notice.webhook.as_ref()?).await) }, async {
                Some(self.slack(notice, notice.slack.as_ref()?).await)
            },);
        let mut outcome = json!({"count": notice.count});
        for (way, told) in [("webhook", webhook), ("slack", slack)] {
            let Some(told) = told else { continue };
            match &told {
                Ok(()) => info!(notice.id = %notice.id, way, count = notice.count, "a tenant was told"),
                Err(why) => warn!(notice.id = %notice.id, way, count = notice.count, why, "a tenant was not told"),
            }
            outcome[way] = told.map_or_else(Value::String, |()| json!("sent"));
        }
        outcome
    }

    async fn webhook(&self, notice: &Notice, (url, secret): &(String, Vec<u8>)) -> Told {
        let url = address::webhook(url, self.settings.allow_private)?;
        let secret = self.open(notice, "webhook", secret)?;
        let http = self.webhooks.client()?;
        let (id, body) = (notice.id.to_string(), event(notice).to_string());
        // Each try has its own time; the id stays, so that whoever got it twice knows.
        let request = || {
            let timestamp = seconds_since_1970().to_string();
            let signature = signature(&secret, &id, &timestamp, &body)?;
            Ok(http
                .post(url.clone())
                .header(header::CONTENT_TYPE, "application/json")
                .header("webhook-id", &id)
                .header("webhook-timestamp", timestamp)
                .header("webhook-signature", signature)
                .body(body.clone()))
        };
        deliver(request).await.map(drop)
    }

    async fn slack(&self, notice: &Notice, (channel, token): &(String, Vec<u8>)) -> Told {
        let token = self.open(notice, "slack_notice", token)?;
        let http = self.slack.client()?;
        let url = format!("{}/chat.postMessage", self.settings.slack_base_url);
        let body = json!({"channel": channel, "text": slack_text(notice), "mrkdwn": false,
            "unfurl_links": false, "unfurl_media": false});
        let answer = deliver(|| Ok(http.post(&url).bearer_auth(token.expose()).json(&body))).await?;
        // Slack refuses with status 200, and says why.
        let answer = read(answer).await?;
        if answer["ok"] == true {
            return Ok(());
        }
        let why: String = answer["error"].as_str().unwrap_or("unknown").chars().take(100).collect();
        Err(format!("refused: {why}"))
    }

    fn open(&self, notice: &Notice, purpose: &str, sealed: &[u8]) -> Result<Secret, String> {
        self.sealer.open(notice.tenant, purpose, sealed).map_err(|_| "its secret does not open".to_owned())
    }
}

/// Sends until it is taken, or refused for good, or nobody knows.
async fn deliver(request: impl Fn() -> Result<RequestBuilder, String>) -> Result<Response, String> {
    let last_try = Instant::now() + LAST_TRY;
    let mut tries = 1;
    loop {
        let (why, asked) = match request()?.send().await {
            Ok(answer) if answer.status().is_success() => return Ok(answer),
            Ok(answer) => {
                let status = answer.status();
                let why = format!("answered {}", status.as_u16());
                if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
                    return Err(why);
                }
                (why, retry_after(answer.headers()))
            }
            Err(error) if source_is::<NotPublic>(&error) => return Err(NotPublic.to_string()),
            // Nothing was sent yet.
            Err(error) if error.is_connect() => ("no connection".to_owned(), Duration::ZERO),
            Err(error) if error.is_timeout() => return Err("no answer in time".to_owned()),
            Err(_) => return Err("the connection was lost".to_owned()),
        };
        let pause = asked.saturating_add((PAUSE * 2_u32.pow(tries - 1)).mul_f64(rand::random()));
        if tries == TRIES || Instant::now() + pause > last_try {
            return Err(why);
        }
        sleep(pause).await;
        tries += 1;
    }
}

/// How long the header of that name asks for: seconds or a date (RFC 9110, section 10.2.3). What cannot be read counts as
/// absent; what is longer than a day is as good as never.
fn retry_after(headers: &header::HeaderMap) -> Duration {
    let text = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()).unwrap_or_default().trim();
    let until = |date| httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::now()).ok();
    let asked = text.parse().ok().map(Duration::from_secs).or_else(|| until(text));
    asked.unwrap_or_default().min(Duration::from_secs(86_400))
}

fn source_is<T: std::error::Error + 'static>(error: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if cause.is::<T>() {
            return true;
        }
        source = cause.source();
    }
    false
}

/// The JSON of an answer, if it is not too long.
async fn read(mut answer: Response) -> Result<Value, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|_| "the answer was lost")? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err("the answer is too long".to_owned());
        }
    }
    serde_json::from_slice(&body).map_err(|_| "the answer is no JSON".to_owned())
}

fn seconds_since_1970() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The header `webhook-signature`. A secret is `whsec_` and the base64 of 24 to 64 bytes.
/// Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.
fn signature(secret: &Secret, id: &str, timestamp: &str, body: &str) -> Result<String, String> {
    let key = secret.expose().strip_prefix("whsec_").and_then(|key| BASE64_STANDARD.decode(key).ok());
    let key = key.filter(|key| (24..=64).contains(&key.len())).ok_or("its secret is not whsec_ and 24 to 64 bytes")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    Ok(format!("v1,{}", BASE64_STANDARD.encode(tag)))
}

/// The body of a webhook.
fn event(notice: &Notice) -> Value {
    json!({
        "id": notice.id,
        "type": "conversation.escalated",
        "timestamp": Timestamp::now(),
        "data": {
            "tenant_id": notice.tenant,
            "conversation_id": notice.conversation,
            "agent": {"id": notice.agent, "name": notice.agent_name},
            "user": {"id": notice.user, "name": notice.user_name},
            "reason": notice.reason,
            "since": notice.since,
            "count": notice.count,
            "transcript": notice.transcript,
        },
    })
}

/// What stands in Slack: what it is about, and as much of the end of the transcript as fits. `&`, `<` and `>` are the
/// characters with a meaning there; without that whoever chats could call a whole channel.
/// Source: <https://docs.slack.dev/messaging/formatting-message-text>.
fn slack_text(notice: &Notice) -> String {
    let user = notice.user_name.as_deref().unwrap_or("Somebody");
    let again = if notice.count > 1 { format!(" (notice {})", notice.count) } else { String::new() };
    let head = format!(
        "{user} waits for a person in the conversation with {}{again}.\nReason: {}\nSince: {}\nConversation: {}\n",
        notice.agent_name, notice.reason, notice.since, notice.conversation
    );
    let head: String = head.chars().take(MAX_SLACK_CHARS).collect();
    let says = |line: &Line| match (line.role, line.author_id) {
        (Author::User, None) => user.to_owned(),
        (Author::Assistant, None) => notice.agent_name.clone(),
        (Author::User | Author::Assistant, Some(_)) => "An admin".to_owned(),
    };
    let said: String = notice.transcript.iter().map(|line| format!("\n{}: {}", says(line), line.content)).collect();
    let room = MAX_SLACK_CHARS - head.chars().count();
    let over = said.chars().count().saturating_sub(room);
    let said: String = said.chars().skip(over).collect();
    format!("{head}{said}").replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use chat_core::ids::{AgentId, AuditId, ConversationId, TenantId, UserId};

    use super::*;

    #[test]
    fn a_signature_is_the_one_that_the_specifications_libraries_verify() {
        let sign = |secret: &str| {
            let (id, timestamp) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
            signature(&Secret::from(secret.to_owned()), id, timestamp, r#"{"test": 2432232314}"#)
        };
        assert_eq!(
            sign("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        for bad in ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64 at all"] {
            assert!(sign(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slack_message_is_cut_and_calls_nobody() {
        let line = |seq, content: String| Line {
            seq,
            role: Author::User,
            author_id: None,
            content,
            created_at: Timestamp::now(),
        };
        let notice = Notice {
            id: AuditId::new(),
            tenant: TenantId::new(),
            conversation: ConversationId::new(),
            agent: AgentId::new(),
            agent_name: "Mila & Otto".to_owned(),
            user: UserId::new(),
            user_name: Some("ben".to_owned()),
            reason: "<!channel>".to_owned(),
            since: Timestamp::now(),
            count: 2,
            transcript: vec![line(1, "ü".repeat(2_990)), line(2, "<!here> the end".to_owned())],
            webhook: None,
            slack: None,
        };
        let text = slack_text(&notice);
        assert!(
            text.starts_with("ben waits for a person in the conversation with Mila &amp; Otto (notice 2)."),
            "{text}"
        );
        assert!(
            text.contains("Reason: &lt;!channel&gt;\n") && text.ends_with("\nben: &lt;!here&gt; the end"),
            "{text}"
        );
        let shown = text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
        assert_eq!(shown.chars().count(), MAX_SLACK_CHARS);
    }
}
