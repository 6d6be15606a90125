//! WhatsApp's reply route: text messages of the Cloud API.
//!
//! Sources: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/text-messages/>,
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes>.

use chat_core::config::Secret;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::time::Instant;
use tracing::warn;

use super::{
    delivery::{Answer, Channels, Failure},
    split::{split, utf16},
};

/// Longest text of one message, in characters.
const MAX_TEXT: usize = 4_096;

/// Too many calls: of the app, of the account, of the number, of the number to this person.
const TOO_MANY: &[i64] = &[4, 80_007, 130_429, 131_056];

/// Unknown errors and passing ones of the service, which do not say that the message will not arrive: API unknown, API
/// service, something went wrong, service unavailable.
const UNSURE: &[i64] = &[1, 2, 131_000, 131_016];

/// Whom to write to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chat {
    /// The number that answers, by its id: digits.
    pub phone_number_id: String,
    /// The person, by their `wa_id`.
    pub to: String,
}

/// The body of a call.
#[derive(Serialize)]
struct Message<'a> {
    messaging_product: &'static str,
    recipient_type: &'static str,
    to: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    text: Text<'a>,
}

#[derive(Serialize)]
struct Text<'a> {
    /// A model's words make nobody fetch pages.
    preview_url: bool,
    body: &'a str,
}

/// The part of an answer that we read.
#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    messages: Vec<IgnoredAny>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Refusal {
    code: i64,
}

/// Sends an answer.
///
/// # Errors
/// How it failed. What came before the part that failed has arrived. 131047, after a day without a word from this
/// person, is a refusal like others: only templates may be sent then.
pub(super) async fn send_response(
    channels: &Channels,
    chat: &Chat,
    token: &Secret,
    text: &str,
    deadline: Instant,
) -> Result<(), Failure> {
    let parts = split(text, MAX_TEXT, utf16);
    let count = parts.len();
    for (number, body) in parts.into_iter().enumerate() {
        let sent = channels.persist(deadline, false, || call(channels, chat, token, body)).await;
        sent.inspect_err(|_| {
            if number > 0 {
                warn!(sent = number, count, "a part of the answer has arrived");
            }
        })?;
    }
    Ok(())
}

async fn call(channels: &Channels, chat: &Chat, token: &Secret, body: &str) -> Result<(), Failure> {
    let url = format!("{}/{}/messages", channels.settings().whatsapp_base_url, chat.phone_number_id);
    let message = Message {
        messaging_product: "whatsapp",
        recipient_type: "individual",
        to: &chat.to,
        kind: "text",
        text: Text { preview_url: false, body },
    };
    outcome(&channels.post(&url, token, &message).await?)
}

/// What an answer says. The error's code says more than the status.
fn outcome(answer: &Answer) -> Result<(), Failure> {
    let (status, after) = (answer.status, answer.retry_after);
    let said = serde_json::from_slice::<Said>(&answer.body);
    let code = said.as_ref().ok().and_then(|said| said.error.as_ref()).map(|error| error.code);
    if let Some(code) = code {
        let why = format!("error {code}");
        return Err(match code {
            code if TOO_MANY.contains(&code) => Failure::Later { why, after },
            code if UNSURE.contains(&code) || status.is_server_error() => Failure::Unknown(why),
            _ => Failure::Refused(why),
        });
    }
    match said {
        Ok(said) if status.is_success() && !said.messages.is_empty() => Ok(()),
        _ if status == StatusCode::TOO_MANY_REQUESTS => Err(Failure::Later { why: "status 429".to_owned(), after }),
        _ if status.is_client_error() || status.is_redirection() => {
            Err(Failure::Refused(format!("status {}", status.as_u16())))
        }
        _ => Err(Failure::Unknown(format!("status {} and no answer that can be read", status.as_u16()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_became_of_the_message_or_that_nobody_can_tell() {
        let later = |why: &str| Err(Failure::Later { why: why.to_owned(), after: None });
        let refused = |why: &str| Err(Failure::Refused(why.to_owned()));
        let unknown = |why: &str| Err(Failure::Unknown(why.to_owned()));
        for (status, body, said) in [
            (200, r#"{"messaging_product": "whatsapp", "messages": [{"id": "wamid.1"}]}"#, Ok(())),
            (400, r#"{"error": {"code": 130429, "message": "hello"}}"#, later("error 130429")),
            (400, r#"{"error": {"code": 131056}}"#, later("error 131056")),
            (429, "", later("status 429")),
            (400, r#"{"error": {"code": 131047}}"#, refused("error 131047")),
            (401, r#"{"error": {"code": 190}}"#, refused("error 190")),
            (500, r#"{"error": {"code": 131000}}"#, unknown("error 131000")),
            (503, r#"{"error": {"code": 2}}"#, unknown("error 2")),
            (500, r#"{"error": {"code": 190}}"#, unknown("error 190")),
            (404, "<html>", refused("status 404")),
            (301, "", refused("status 301")),
            (502, "<html>", unknown("status 502 and no answer that can be read")),
            (200, r#"{"messages": []}"#, unknown("status 200 and no answer that can be read")),
            (200, "", unknown("status 200 and no answer that can be read")),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let answer = Answer { status, retry_after: None, body: body.into() };
            assert_eq!(outcome(&answer), said, "{status} {body}");
        }
    }
}
