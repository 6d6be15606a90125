//! Google's Gemini API.
//!
//! Source: <https://ai.google.dev/api/generate-content>, and
//! <https://ai.google.dev/gemini-api/docs/thought-signatures>. A stream has no last event: it ends with a
//! `finishReason`, and every event has the shape of a whole answer.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{Heard, Request, decimal, object, read};
use crate::model::{Prompt, Said, ToolCall, Usage, failure::Failure};

/// Where the signature of a thought stands, in the protocol and in [`ToolCall::opaque`].
const SIGNATURE: &str = "thoughtSignature";

/// How the ids begin that are ours, since the service gave none. It is not told of them.
const OURS: &str = "made-";

pub(super) fn request(model: &str, prompt: &Prompt) -> Result<Request, Failure> {
    let name = model.strip_prefix("models/").unwrap_or(model);
    // It becomes a part of the path, and an agent's row is not the operator's.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || !name.bytes().all(fits) || name.bytes().all(|byte| byte == b'.') {
        return Err(Failure::Unknown("no model of this provider has such a name"));
    }
    let mut body = json!({"contents": contents(&prompt.said)});
    if !prompt.system.trim().is_empty() {
        body["systemInstruction"] = json!({"parts": [{"text": prompt.system}]});
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::model::ToolSpec| json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": tool.parameters});
        body["tools"] = json!([{"functionDeclarations": prompt.tools.iter().map(tool).collect::<Vec<_>>()}]);
    }
    if let Some(temperature) = prompt.temperature {
        body["generationConfig"]["temperature"] = json!(decimal(temperature));
    }
    if let Some(most) = prompt.max_output_tokens {
        body["generationConfig"]["maxOutputTokens"] = json!(most);
    }
    Ok(Request { path: format!("/models/{name}:streamGenerateContent?alt=sse"), body })
}

/// Neighbours of one role are parts of one content; it begins with the user, and nothing in it is empty.
fn contents(said: &[Said]) -> Vec<Value> {
    let mut contents: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for said in said.iter().skip_while(|said| !matches!(said, Said::User(_))) {
        let (role, parts) = parts(said);
        match contents.last_mut().filter(|(last, _)| *last == role) {
            Some((_, before)) => before.extend(parts),
            None if parts.is_empty() => {}
            None => contents.push((role, parts)),
        }
    }
    contents.into_iter().map(|(role, parts)| json!({"role": role, "parts": parts})).collect()
}

fn parts(said: &Said) -> (&'static str, Vec<Value>) {
    let text = |text: &str| (!text.is_empty()).then(|| json!({"text": text}));
    match said {
        Said::User(words) => ("user", text(words).into_iter().collect()),
        Said::Agent { text: words, calls } => {
            ("model", text(words).into_iter().chain(calls.iter().map(call)).collect())
        }
        Said::Tool { id, name, result } => {
            let mut response = json!({"name": name, "response": {"result": result}});
            if !id.starts_with(OURS) {
                response["id"] = json!(id);
            }
            ("user", vec![json!({"functionResponse": response})])
        }
    }
}

fn call(call: &ToolCall) -> Value {
    let mut part = json!({"functionCall": {"name": call.name, "args": object(&call.arguments)}});
    if !call.id.starts_with(OURS) {
        part["functionCall"]["id"] = json!(call.id);
    }
    if let Some(signature) = call.opaque.as_ref().and_then(|opaque| opaque.get(SIGNATURE)) {
        part[SIGNATURE] = signature.clone();
    }
    part
}

/// The part of an event that we read; the rest is passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    #[serde(default)]
    candidates: Vec<Candidate>,
    prompt_feedback: Option<Feedback>,
    usage_metadata: Option<Counts>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    text: Option<String>,
    /// What the model thinks is not what it says.
    #[serde(default)]
    thought: bool,
    function_call: Option<Called>,
    thought_signature: Option<Value>,
}

#[derive(Deserialize)]
struct Called {
    id: Option<String>,
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Feedback {
    block_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    prompt_token_count: Option<u64>,
    tool_use_prompt_token_count: Option<u64>,
    candidates_token_count: Option<u64>,
    thoughts_token_count: Option<u64>,
}

pub(super) struct Listener;

impl super::Listener for Listener {
    fn event(&mut self, data: &str) -> Result<Heard, Failure> {
        hear(read(data)?)
    }

    fn whole(&mut self, body: &str) -> Result<Heard, Failure> {
        let heard = hear(read(body)?)?;
        if !heard.complete {
            return Err(Failure::Unusable("the answer has no end"));
        }
        Ok(Heard { last: true, ..heard })
    }
}

fn hear(event: Event) -> Result<Heard, Failure> {
    if event.error.is_some() {
        return Err(Failure::Broken);
    }
    if event.prompt_feedback.is_some_and(|feedback| feedback.block_reason.is_some()) {
        return Err(Failure::Withheld);
    }
    let usage = event.usage_metadata.and_then(|counts| {
        let sum = |one: Option<u64>, other: Option<u64>| one.unwrap_or(0).saturating_add(other.unwrap_or(0));
        Some(Usage {
            input_tokens: sum(Some(counts.prompt_token_count?), counts.tool_use_prompt_token_count),
            output_tokens: sum(counts.candidates_token_count, counts.thoughts_token_count),
        })
    });
    let mut heard = Heard { usage, ..Heard::default() };
    let Some(candidate) = event.candidates.into_iter().next() else { return Ok(heard) };
    for part in candidate.content.map(|content| content.parts).unwrap_or_default() {
        heard.works = true;
        if let Some(text) = part.text.filter(|_| !part.thought) {
            heard.text.push_str(&text);
        }
        if let Some(called) = part.function_call {
            heard.calls.push(ToolCall {
                id: called.id.filter(|id| !id.is_empty()).unwrap_or_else(ours),
                name: called.name,
                arguments: if called.args.is_null() { json!({}) } else { called.args },
                opaque: part.thought_signature.map(|signature| json!({ SIGNATURE: signature })),
            });
        }
    }
    match candidate.finish_reason.as_deref() {
        None | Some("") => {}
        Some("STOP" | "MAX_TOKENS") => heard.complete = true,
        Some("SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE" | "IMAGE_SAFETY") => {
            return Err(Failure::Withheld);
        }
        Some(_) => return Err(Failure::Unusable("the model lost its thread")),
    }
    Ok(heard)
}

/// An id for a call that came without one.
fn ours() -> String {
    format!("{OURS}{:016x}", rand::random::<u64>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::dialect::example;

    #[test]
    fn a_prompt_becomes_contents_and_the_signature_goes_back() {
        let request = request("models/gemini-x", &example::prompt()).unwrap();
        assert_eq!(request.path, "/models/gemini-x:streamGenerateContent?alt=sse");
        let call = |place| json!({"name": "weather", "args": {"place": place}});
        let with_id = |mut value: Value| {
            value["id"] = json!("c1");
            value
        };
        let result = |result| json!({"name": "weather", "response": {"result": result}});
        assert_eq!(
            request.body["contents"],
            json!([
                {"role": "user", "parts": [{"text": "one"}, {"text": "two"}]},
                {"role": "model", "parts": [
                    {"functionCall": with_id(call("Rome")), "thoughtSignature": "sig"},
                    {"functionCall": call("Oslo")},
                ]},
                {"role": "user", "parts": [
                    {"functionResponse": with_id(result("sunny"))},
                    {"functionResponse": result("rain")},
                    {"text": "thanks"},
                ]},
            ])
        );
        assert_eq!(request.body["generationConfig"], json!({"temperature": 1.3, "maxOutputTokens": 100}));
    }

    #[test]
    fn a_models_name_cannot_lead_elsewhere() {
        for name in ["", "..", "../files", "a/b", "a?key=b", "a#b", "a b", "models/", "ä"] {
            assert!(request(name, &example::prompt()).is_err(), "{name}");
        }
    }

    #[test]
    fn thoughts_are_counted_and_not_said() {
        let event = json!({
            "candidates": [{"content": {"parts": [{"text": "hm", "thought": true}, {"text": "Yes."}]}, "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 2, "thoughtsTokenCount": 5},
        });
        let heard = hear(read(&event.to_string()).unwrap()).unwrap();
        assert_eq!((heard.text.as_str(), heard.complete), ("Yes.", true));
        assert_eq!(heard.usage, Some(Usage { input_tokens: 10, output_tokens: 7 }));
    }

    #[test]
    fn an_answer_that_is_held_back_is_none() {
        let blocked = json!({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}});
        let stopped = json!({"candidates": [{"finishReason": "PROHIBITED_CONTENT"}]});
        let lost = json!({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]});
        let hear = |event: Value| hear(read(&event.to_string()).unwrap()).unwrap_err().to_string();
        assert_eq!(hear(blocked), Failure::Withheld.to_string());
        assert_eq!(hear(stopped), Failure::Withheld.to_string());
        assert_eq!(hear(lost), "the model lost its thread");
    }
}
