//! The protocols: each turns a prompt into a request, and what comes back into what was said.

mod anthropic;
mod gemini;
mod openai;

use chat_core::config::{Secret, Speaks};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{Prompt, ToolCall, Usage, failure::Failure};

/// A request, but for the address of the service.
pub(super) struct Request {
    /// What follows the base URL.
    pub path: String,
    /// The body, JSON.
    pub body: Value,
}

/// What an event, or a whole answer, adds.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Words.
    pub text: String,
    /// Calls that are complete with it.
    pub calls: Vec<ToolCall>,
    /// What the answer takes, as far as is known.
    pub usage: Option<Usage>,
    /// Whether the model is at work: words, thoughts or parts of a call came, and not just a sign of life.
    pub works: bool,
    /// The answer is complete. What follows can only say what it took.
    pub complete: bool,
    /// Nothing follows.
    pub last: bool,
}

/// Understands one answer.
pub(super) trait Listener: Send {
    /// Takes the data of one server-sent event.
    fn event(&mut self, data: &str) -> Result<Heard, Failure>;

    /// Takes an answer that came whole, as one JSON document.
    fn whole(&mut self, body: &str) -> Result<Heard, Failure>;
}

/// How much of a protocol a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// All of it.
    Full,
    /// Without what not everybody knows who speaks it.
    Plain,
}

/// The request that puts this prompt to `model`.
///
/// # Errors
/// If no such model can be asked for.
pub(super) fn request(
    speaks: Speaks,
    base_url: &str,
    model: &str,
    prompt: &Prompt,
    manner: Manner,
) -> Result<Request, Failure> {
    match speaks {
        Speaks::OpenAi => Ok(openai::request(base_url, model, prompt, manner)),
        Speaks::Anthropic => Ok(anthropic::request(model, prompt)),
        Speaks::Gemini => gemini::request(model, prompt),
    }
}

/// Whether a refusal may be about what [`Manner::Plain`] leaves out.
pub(super) fn has_plain(speaks: Speaks) -> bool {
    match speaks {
        Speaks::OpenAi => true,
        Speaks::Anthropic | Speaks::Gemini => false,
    }
}

/// The headers that come with it: the key never stands in the URL, which ends up in logs.
///
/// # Errors
/// If no header can carry the key.
pub(super) fn headers(speaks: Speaks, key: Option<&Secret>) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    if speaks == Speaks::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(anthropic::VERSION));
    }
    if let Some(key) = key {
        let (name, value) = match speaks {
            Speaks::OpenAi => (reqwest::header::AUTHORIZATION, format!("Bearer {}", key.expose())),
            Speaks::Anthropic => (HeaderName::from_static("x-api-key"), key.expose().to_owned()),
            Speaks::Gemini => (HeaderName::from_static("x-goog-api-key"), key.expose().to_owned()),
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| Failure::KeySealed(chat_core::Error::internal("the key cannot stand in a header")))?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// Who listens to the answer.
pub(super) fn listener(speaks: Speaks) -> Box<dyn Listener> {
    match speaks {
        Speaks::OpenAi => Box::<openai::Listener>::default(),
        Speaks::Anthropic => Box::<anthropic::Listener>::default(),
        Speaks::Gemini => Box::new(gemini::Listener),
    }
}

/// Reads an event. The error of the parser would repeat a part of the text, so it is dropped.
fn read<'a, T: serde::Deserialize<'a>>(data: &'a str) -> Result<T, Failure> {
    serde_json::from_str(data).map_err(|_| Failure::Unusable("an event cannot be read"))
}

/// The arguments of a call: what a model wrote for JSON. Nothing is taken for no arguments.
fn arguments(text: &str) -> Value {
    match text.trim() {
        "" => Value::Object(serde_json::Map::new()),
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned())),
    }
}

/// The arguments of a call where only an object will do.
fn object(arguments: &Value) -> Value {
    if arguments.is_object() { arguments.clone() } else { serde_json::json!({ "arguments": arguments }) }
}

/// A temperature as it was meant: `0.7`, not the nearest double to the nearest float.
fn decimal(temperature: f32) -> f64 {
    (f64::from(temperature) * 1_000.0).round() / 1_000.0
}

/// How prompts look in the tests of the dialects.
#[cfg(test)]
mod example {
    use chat_core::ids::TenantId;
    use serde_json::json;

    use super::super::{Prompt, Said, ToolCall, ToolSpec};

    /// A user asks twice, the agent calls two tools, both answer, and the user goes on.
    pub(super) fn prompt() -> Prompt {
        let call = |id: &str, place: &str, opaque| ToolCall {
            id: id.to_owned(),
            name: "weather".to_owned(),
            arguments: json!({"place": place}),
            opaque,
        };
        let result = |id: &str, result: &str| Said::Tool {
            id: id.to_owned(),
            name: "weather".to_owned(),
            result: result.to_owned(),
        };
        Prompt {
            tenant: TenantId::new(),
            models: vec!["m".to_owned()],
            system: "Be brief.".to_owned(),
            said: vec![
                Said::User("one".to_owned()),
                Said::User("two".to_owned()),
                Said::Agent {
                    text: String::new(),
                    calls: vec![
                        call("c1", "Rome", Some(json!({"thoughtSignature": "sig"}))),
                        call("made-2", "Oslo", None),
                    ],
                },
                result("c1", "sunny"),
                result("made-2", "rain"),
                Said::User("thanks".to_owned()),
            ],
            tools: vec![ToolSpec {
                name: "weather",
                description: "Tells the weather.",
                parameters: json!({"type": "object", "properties": {"place": {"type": "string"}}}),
            }],
            temperature: Some(1.3),
            max_output_tokens: Some(100),
            until: None,
        }
    }
}
