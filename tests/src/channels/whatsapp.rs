//! WhatsApp's Cloud API: the messages of its numbers.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/text-messages/>.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use serde_json::{Value, json};

use super::{Act, Call, http::Server};

/// Longest text, in characters.
const MAX_TEXT: usize = 4_096;

/// A message that somebody gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The number that wrote, by its id.
    pub from: String,
    /// Whom it wrote to.
    pub to: String,
    /// What it says.
    pub text: String,
}

/// The service. Dropping it hangs up.
pub struct WhatsApp {
    server: Server,
    got: Arc<Mutex<Vec<Got>>>,
}

impl WhatsApp {
    /// Starts one with these numbers, each with its token. The script is asked about each call.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(
        numbers: &[(&str, &str)],
        script: impl Fn(&Call) -> Act + Send + Sync + 'static,
    ) -> Result<Self> {
        let got = Arc::new(Mutex::new(Vec::new()));
        let messages = Arc::clone(&got);
        let numbers: Vec<_> = numbers
            .iter()
            .map(|(id, token)| (format!("/v26.0/{id}/messages"), (*id).to_owned(), format!("Bearer {token}")))
            .collect();
        let service = move |call: &Call| match answer(call, &numbers) {
            Ok(message) => {
                let mut got = messages.lock().unwrap_or_else(PoisonError::into_inner);
                got.push(message.clone());
                let contact = json!({"input": message.to, "wa_id": message.to});
                let id = format!("wamid.{}", got.len());
                (200, json!({"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": id}]}))
            }
            Err((status, code)) => (status, refusal(code)),
        };
        Ok(Self { server: Server::start(Box::new(script), Box::new(service)).await?, got })
    }

    /// For `WHATSAPP_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v26.0", self.server.address)
    }

    /// Every call until now.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.server.calls()
    }

    /// What people got.
    #[must_use]
    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The body of a refusal with this code.
#[must_use]
pub fn refusal(code: i64) -> Value {
    json!({"error": {"message": format!("(#{code}) refused"), "type": "OAuthException", "code": code, "fbtrace_id": "x"}})
}

fn answer(call: &Call, numbers: &[(String, String, String)]) -> Result<Got, (u16, i64)> {
    let (_, from, token) = numbers.iter().find(|(path, ..)| *path == call.path).ok_or((400, 100))?;
    if call.headers.get("authorization") != Some(token) {
        return Err((401, 190));
    }
    let json = call.headers.get("content-type").is_some_and(|value| value.starts_with("application/json"));
    let fixed = [("messaging_product", "whatsapp"), ("recipient_type", "individual"), ("type", "text")];
    let to = call.body["to"].as_str().filter(|to| !to.is_empty());
    let text = call.body["text"]["body"].as_str().filter(|text| (1..=MAX_TEXT).contains(&text.encode_utf16().count()));
    match (to, text) {
        (Some(to), Some(text))
            if json && call.method == "POST" && fixed.iter().all(|(name, value)| call.body[*name] == *value) =>
        {
            Ok(Got { from: from.clone(), to: to.to_owned(), text: text.to_owned() })
        }
        _ => Err((400, 100)),
    }
}
