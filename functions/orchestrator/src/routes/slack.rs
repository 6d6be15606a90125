//! Slack's reply route: a placeholder is replaced, everything else posted, in the thread.
//!
//! Sources: <https://docs.slack.dev/reference/methods/chat.postMessage>,
//! <https://docs.slack.dev/reference/methods/chat.update>,
//! <https://docs.slack.dev/messaging/formatting-message-text>.

use chat_core::config::Secret;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::warn;

use super::{
    delivery::{Answer, Channels, Failure},
    split::split,
};

/// Longest text of one message, in characters, escaped: what Slack recommends; it truncates at ten times that, and breaks
/// messages up itself in between.
const MAX_TEXT: usize = 4_000;

/// Refusals of an update after which the text may be posted instead: there is no placeholder that we could replace.
const GONE: &[&str] = &["message_not_found", "cant_update_message", "edit_window_closed"];

/// Refusals that may not be ones: "It's possible some aspect of the operation succeeded before the error was raised."
const UNSURE: &[&str] = &["internal_error", "fatal_error", "service_unavailable"];

/// Where to post.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The channel, or the direct conversation.
    pub channel_id: String,
    /// The thread in it, by the timestamp of its first message.
    pub thread_ts: Option<String>,
    /// The message that says that an answer is coming, to be replaced by it.
    pub placeholder_ts: Option<String>,
}

/// The body of a call.
#[derive(Serialize)]
struct Message<'a> {
    channel: &'a str,
    text: &'a str,
    /// Which message is replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thread_ts: Option<&'a str>,
    /// A model's words call nobody: no `@name` and no `#channel` is turned into a link.
    parse: &'static str,
    /// Nor do they make Slack fetch pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfurl_links: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unfurl_media: Option<bool>,
}

/// The part of an answer that we read.
#[derive(Deserialize)]
struct Said {
    ok: bool,
    error: Option<String>,
}

/// Sends an answer.
///
/// Replacing the placeholder twice shows it once, so where nobody can tell whether it was replaced it is done again; what
/// is posted twice is there twice, so that is not.
///
/// # Errors
/// How it failed. What came before the part that failed has arrived.
pub(super) async fn send_response(
    channels: &Channels,
    place: &Place,
    token: &Secret,
    text: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let parts: Vec<String> = split(text, MAX_TEXT, escaped_length).into_iter().map(escaped).collect();
    let count = parts.len();
    for (number, text) in parts.iter().enumerate() {
        let first_into = place.placeholder_ts.as_deref().filter(|_| number == 0);
        let sent = match first_into {
            Some(ts) => match channels.persist(deadline, true, || update(channels, place, token, text, ts)).await {
                Err(Failure::Refused(why)) if GONE.contains(&why.as_str()) => {
                    warn!(why, "there is no placeholder to replace; posting");
                    channels.persist(deadline, false, || post(channels, place, token, text)).await
                }
                other => other,
            },
            None => channels.persist(deadline, false, || post(channels, place, token, text)).await,
        };
        sent.inspect_err(|_| {
            if number > 0 {
                warn!(sent = number, count, "a part of the answer has arrived");
            }
        })?;
    }
    Ok(())
}

async fn post(channels: &Channels, place: &Place, token: &Secret, text: &str) -> Result<(), Failure> {
    let (channel, thread_ts, no) = (place.channel_id.as_str(), place.thread_ts.as_deref(), Some(false));
    let message = Message { channel, text, ts: None, thread_ts, parse: "none", unfurl_links: no, unfurl_media: no };
    call(channels, "chat.postMessage", token, &message).await
}

async fn update(channels: &Channels, place: &Place, token: &Secret, text: &str, ts: &str) -> Result<(), Failure> {
    let (channel, ts) = (place.channel_id.as_str(), Some(ts));
    let message = Message { channel, text, ts, thread_ts: None, parse: "none", unfurl_links: None, unfurl_media: None };
    call(channels, "chat.update", token, &message).await
}

async fn call(channels: &Channels, method: &str, token: &Secret, message: &Message<'_>) -> Result<(), Failure> {
    let url = format!("{}/{method}", channels.settings().slack_base_url);
    outcome(&channels.post(&url, token, message).await?)
}

/// What an answer says. Slack answers 200 to what it refuses, and names the reason in `error`.
fn outcome(answer: &Answer) -> Result<(), Failure> {
    let (status, after) = (answer.status, answer.retry_after);
    if status == StatusCode::TOO_MANY_REQUESTS {
        return Err(Failure::Later { why: "ratelimited".to_owned(), after });
    }
    match serde_json::from_slice::<Said>(&answer.body) {
        Ok(Said { ok: true, .. }) if status.is_success() => Ok(()),
        Ok(Said { ok: false, error: Some(error) }) if is_word(&error) => Err(match error.as_str() {
            "ratelimited" | "rate_limited" => Failure::Later { why: error, after },
            unsure if UNSURE.contains(&unsure) || status.is_server_error() => Failure::Unknown(error),
            _ => Failure::Refused(error),
        }),
        _ if status.is_client_error() || status.is_redirection() => {
            Err(Failure::Refused(format!("status {}", status.as_u16())))
        }
        _ => Err(Failure::Unknown(format!("status {} and no answer that can be read", status.as_u16()))),
    }
}

/// Whether this is one of Slack's names for a refusal, which may be logged.
fn is_word(error: &str) -> bool {
    (1..=64).contains(&error.len()) && error.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
}

/// A text as Slack shows it: what would be a link or a call for somebody (`<!channel>`) is text.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// How long a character is once it is escaped.
fn escaped_length(c: char) -> usize {
    match c {
        '&' => 5,
        '<' | '>' => 4,
        other => super::split::utf16(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_model_cannot_call_anybody_or_break_what_it_says() {
        for (text, shown) in [
            ("plain *bold* `code`", "plain *bold* `code`"),
            ("a < b && c > d", "a &lt; b &amp;&amp; c &gt; d"),
            ("<!channel> <@U1> <https://a.example|b>", "&lt;!channel&gt; &lt;@U1&gt; &lt;https://a.example|b&gt;"),
            ("&lt;", "&amp;lt;"),
        ] {
            assert_eq!(escaped(text), shown);
            assert_eq!(text.chars().map(escaped_length).sum::<usize>(), shown.encode_utf16().count());
        }
    }

    #[test]
    fn an_answer_says_what_became_of_the_message_or_that_nobody_can_tell() {
        let later = |seconds: u64| {
            Err(Failure::Later { why: "ratelimited".to_owned(), after: Some(Duration::from_secs(seconds)) })
        };
        let refused = |why: &str| Err(Failure::Refused(why.to_owned()));
        let unknown = |why: &str| Err(Failure::Unknown(why.to_owned()));
        let unread = |status: u16| Err(Failure::Unknown(format!("status {status} and no answer that can be read")));
        for (status, body, said) in [
            (200, r#"{"ok": true, "ts": "1.2"}"#, Ok(())),
            (200, r#"{"ok": false, "error": "channel_not_found"}"#, refused("channel_not_found")),
            (200, r#"{"ok": false, "error": "ratelimited"}"#, later(7)),
            (429, "", later(7)),
            (200, r#"{"ok": false, "error": "internal_error"}"#, unknown("internal_error")),
            (200, r#"{"ok": false, "error": "fatal_error"}"#, unknown("fatal_error")),
            (500, r#"{"ok": false, "error": "channel_not_found"}"#, unknown("channel_not_found")),
            (500, r#"{"ok": true}"#, unread(500)),
            (503, "<html>", unread(503)),
            (200, "<html>", unread(200)),
            (200, r#"{"ok": false, "error": "The text: hello"}"#, unread(200)),
            (302, "", refused("status 302")),
            (404, "", refused("status 404")),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, retry_after: Some(Duration::from_secs(7)), body: body.into() };
            assert_eq!(outcome(&answer), said, "{status} {body}");
        }
    }
}
