//! OpenAI's chat completions.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>, and its streaming events. Many services speak
//! this, each a little differently:
//!
//! - Usage in a stream must be asked for with `stream_options`. vLLM, Ollama, llama.cpp, LiteLLM and Groq know it; some
//!   refuse what they do not know with 400 or 422 (Mistral did: github.com/cline/cline/issues/939), so such a refusal is
//!   answered with the same request without it.
//! - OpenAI's newer models refuse `max_tokens`, others refuse `max_completion_tokens`
//!   (github.com/yazinsai/OpenOats/issues/318), so the new name is for OpenAI's and Azure's own hosts.
//! - The end is a `finish_reason` or `[DONE]`; some send but one of them. Usage comes with it, after it, or before.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{Heard, Manner, Request, arguments, decimal, read};
use crate::model::{Prompt, Said, ToolCall, Usage, failure::Failure};

/// Calls in one answer, at most.
const MAX_CALLS: usize = 64;

/// Bytes of all their arguments, at most: as long as an answer.
const MAX_ARGUMENT_BYTES: usize = chat_core::text::MAX_REPLY_BYTES;

/// Where a field of a call stands that must come back with it, in [`ToolCall::opaque`]; Gemini's signatures, if it is
/// spoken to this way.
const EXTRA: &str = "extra_content";

pub(super) fn request(base_url: &str, model: &str, prompt: &Prompt, manner: Manner) -> Request {
    let system = Some(&prompt.system).filter(|text| !text.trim().is_empty());
    let system = system.map(|text| json!({"role": "system", "content": text}));
    let messages: Vec<Value> = system.into_iter().chain(prompt.said.iter().map(message)).collect();
    let mut body = json!({"model": model, "messages": messages, "stream": true});
    if manner == Manner::Full {
        body["stream_options"] = json!({"include_usage": true});
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::model::ToolSpec| {
            let function = json!({"name": tool.name, "description": tool.description, "parameters": tool.parameters});
            json!({"type": "function", "function": function})
        };
        body["tools"] = prompt.tools.iter().map(tool).collect();
    }
    if let Some(temperature) = prompt.temperature {
        body["temperature"] = json!(decimal(temperature));
    }
    if let Some(most) = prompt.max_output_tokens {
        body[if is_openai(base_url) { "max_completion_tokens" } else { "max_tokens" }] = json!(most);
    }
    Request { path: "/chat/completions".to_owned(), body }
}

/// Whether OpenAI's own models are behind it, which want to hear of `max_completion_tokens`.
fn is_openai(base_url: &str) -> bool {
    let host = base_url.split("://").nth(1).and_then(|rest| rest.split(['/', ':']).next()).unwrap_or_default();
    host == "api.openai.com" || host.ends_with(".openai.azure.com")
}

fn message(said: &Said) -> Value {
    match said {
        Said::User(text) => json!({"role": "user", "content": text}),
        Said::Agent { text, calls } if calls.is_empty() => json!({"role": "assistant", "content": text}),
        Said::Agent { text, calls } => {
            let content = Some(text).filter(|text| !text.is_empty());
            let calls: Vec<Value> = calls.iter().map(call).collect();
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Said::Tool { id, result, .. } => json!({"role": "tool", "tool_call_id": id, "content": result}),
    }
}

fn call(call: &ToolCall) -> Value {
    // What could not be read goes back as it came.
    let arguments = call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
    let mut value = json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}});
    if let Some(extra) = call.opaque.as_ref().and_then(|opaque| opaque.get(EXTRA)) {
        value[EXTRA] = extra.clone();
    }
    value
}

/// The part of an event that we read; the rest is passed over. A whole answer has a `message` for the `delta`.
#[derive(Deserialize)]
struct Event {
    /// One, or none in an event about something else, such as usage.
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Counts>,
    /// What went wrong after the status was sent.
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize, Default)]
struct Delta {
    content: Option<Content>,
    /// Why the model would not answer, in its own words.
    refusal: Option<String>,
    #[serde(alias = "reasoning")]
    reasoning_content: Option<Value>,
    tool_calls: Option<Vec<Part>>,
}

/// Words; some services wrap them, together with thoughts.
#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Wrapped(Vec<Wrapped>),
}

#[derive(Deserialize)]
struct Wrapped {
    text: Option<String>,
}

/// A part of a call: the first one names it, all add to its arguments.
#[derive(Deserialize)]
struct Part {
    index: Option<u64>,
    id: Option<String>,
    function: Option<Function>,
    extra_content: Option<Value>,
}

#[derive(Deserialize)]
struct Function {
    name: Option<String>,
    arguments: Option<Value>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// A call that is not complete yet.
struct Open {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
    extra: Option<Value>,
}

#[derive(Default)]
pub(super) struct Listener {
    calls: Vec<Open>,
}

impl super::Listener for Listener {
    fn event(&mut self, data: &str) -> Result<Heard, Failure> {
        if data == "[DONE]" {
            return Ok(Heard { calls: self.close(), complete: true, last: true, ..Heard::default() });
        }
        self.hear(read(data)?, false)
    }

    fn whole(&mut self, body: &str) -> Result<Heard, Failure> {
        let event: Event = read(body)?;
        if event.choices.is_empty() && event.error.is_none() {
            return Err(Failure::Unusable("the answer has no choices"));
        }
        self.hear(event, true)
    }
}

impl Listener {
    fn hear(&mut self, event: Event, whole: bool) -> Result<Heard, Failure> {
        if event.error.is_some() {
            return Err(Failure::Broken);
        }
        let usage = event.usage.and_then(|counts| {
            Some(Usage { input_tokens: counts.prompt_tokens?, output_tokens: counts.completion_tokens.unwrap_or(0) })
        });
        let mut heard = Heard { usage, ..Heard::default() };
        let Some(choice) = event.choices.into_iter().next() else { return Ok(heard) };
        let delta = choice.delta.unwrap_or_default();
        heard.text = match delta.content {
            Some(Content::Text(text)) => text,
            Some(Content::Wrapped(parts)) => parts.into_iter().filter_map(|part| part.text).collect(),
            None => String::new(),
        };
        heard.text.push_str(&delta.refusal.unwrap_or_default());
        heard.works = !heard.text.is_empty() || delta.reasoning_content.is_some_and(|thought| !thought.is_null());
        for part in delta.tool_calls.unwrap_or_default() {
            heard.works = true;
            self.add(part)?;
        }
        match choice.finish_reason.as_deref() {
            Some("content_filter") => return Err(Failure::Withheld),
            None | Some("") if !whole => {}
            _ => {
                heard.calls = self.close();
                heard.complete = true;
                heard.last = whole;
            }
        }
        Ok(heard)
    }

    /// A part belongs to the call with its index, unless it has an id of its own: some services number none, some all
    /// alike.
    fn add(&mut self, part: Part) -> Result<(), Failure> {
        let id = part.id.unwrap_or_default();
        let belongs = |open: &Open| {
            (part.index.is_none() || open.index == part.index) && (id.is_empty() || open.id.is_empty() || open.id == id)
        };
        let place = match self.calls.iter().rposition(belongs) {
            Some(place) => place,
            None if self.calls.len() == MAX_CALLS => return Err(Failure::Unusable("the answer has too many calls")),
            None => {
                let (name, arguments) = (String::new(), String::new());
                self.calls.push(Open { index: part.index, id: String::new(), name, arguments, extra: None });
                self.calls.len() - 1
            }
        };
        let open = &mut self.calls[place];
        if open.id.is_empty() {
            open.id = id;
        }
        open.extra = part.extra_content.or(open.extra.take());
        if let Some(function) = part.function {
            // Some repeat the name with every part.
            if open.name.is_empty() {
                open.name = function.name.unwrap_or_default();
            }
            match function.arguments {
                Some(Value::String(text)) => open.arguments.push_str(&text),
                Some(Value::Null) | None => {}
                Some(whole) => open.arguments = whole.to_string(),
            }
        }
        let bytes: usize = self.calls.iter().map(|open| open.arguments.len()).sum();
        if bytes > MAX_ARGUMENT_BYTES { Err(Failure::Unusable("the arguments of a call are too long")) } else { Ok(()) }
    }

    /// The calls, now that nothing can be added.
    fn close(&mut self) -> Vec<ToolCall> {
        let close = |(number, open): (usize, Open)| ToolCall {
            id: if open.id.is_empty() { format!("call_{number}") } else { open.id },
            name: open.name,
            arguments: arguments(&open.arguments),
            opaque: open.extra.map(|extra| json!({ EXTRA: extra })),
        };
        std::mem::take(&mut self.calls).into_iter().enumerate().map(close).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Listener as _, *};
    use crate::model::dialect::example;

    #[test]
    fn a_prompt_becomes_messages_with_calls_and_their_results() {
        let body = request("http://localhost/v1", "m", &example::prompt(), Manner::Full).body;
        let call = |id, place| {
            let arguments = format!("{{\"place\":\"{place}\"}}");
            json!({"id": id, "type": "function", "function": {"name": "weather", "arguments": arguments}})
        };
        assert_eq!(
            body["messages"],
            json!([
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "one"},
                {"role": "user", "content": "two"},
                {"role": "assistant", "content": null, "tool_calls": [call("c1", "Rome"), call("made-2", "Oslo")]},
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
                {"role": "tool", "tool_call_id": "made-2", "content": "rain"},
                {"role": "user", "content": "thanks"},
            ])
        );
        assert_eq!((&body["temperature"], &body["max_tokens"]), (&json!(1.3), &json!(100)));
        assert_eq!(body["tools"][0]["function"]["name"], "weather");
        assert_eq!(body["stream_options"]["include_usage"], true);
    }

    #[test]
    fn what_not_everybody_knows_is_for_those_who_do() {
        for (base_url, name, other) in [
            ("https://api.openai.com/v1", "max_completion_tokens", "max_tokens"),
            ("https://us.openai.azure.com/openai/v1", "max_completion_tokens", "max_tokens"),
            ("https://api.openai.com.example/v1", "max_tokens", "max_completion_tokens"),
            ("http://127.0.0.1:8000/v1", "max_tokens", "max_completion_tokens"),
        ] {
            let body = request(base_url, "m", &example::prompt(), Manner::Plain).body;
            assert_eq!((&body[name], body.get(other)), (&json!(100), None), "{base_url}");
            assert_eq!(body.get("stream_options"), None);
        }
    }

    #[test]
    fn calls_are_put_together_whoever_numbers_them() {
        let part = |index: Value, id: Value, name: Value, arguments: Value| {
            let function = json!({"name": name, "arguments": arguments});
            json!({"index": index, "id": id, "type": "function", "function": function})
        };
        let null = Value::Null;
        for (name, parts) in [
            (
                "numbered",
                vec![
                    part(json!(0), json!("a"), json!("f"), json!("")),
                    part(json!(1), json!("b"), json!("g"), json!("{\"x\":")),
                    part(json!(0), null.clone(), null.clone(), json!("{}")),
                    part(json!(1), null.clone(), null.clone(), json!("1}")),
                ],
            ),
            (
                "all alike, whole",
                vec![
                    part(json!(0), json!("a"), json!("f"), json!("{}")),
                    part(json!(0), json!("b"), json!("g"), json!("{\"x\":1}")),
                ],
            ),
            (
                "not at all, ids and names repeated",
                vec![
                    part(null.clone(), json!("a"), json!("f"), json!({})),
                    part(null.clone(), json!("b"), json!("g"), json!("{\"x\"")),
                    part(null.clone(), json!("b"), json!("g"), json!(":1}")),
                ],
            ),
        ] {
            let mut listener = Listener::default();
            for part in parts {
                let heard = listener.event(&json!({"choices": [{"delta": {"tool_calls": [part]}}]}).to_string());
                assert!(heard.is_ok_and(|heard| heard.works && heard.calls.is_empty()), "{name}");
            }
            let end = json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}).to_string();
            let call = |id: &str, name: &str, arguments| ToolCall {
                id: id.to_owned(),
                name: name.to_owned(),
                arguments,
                opaque: None,
            };
            let calls = listener.event(&end).unwrap().calls;
            assert_eq!(calls, [call("a", "f", json!({})), call("b", "g", json!({"x": 1}))], "{name}");
        }
    }

    #[test]
    fn what_a_model_made_of_json_goes_back_as_it_came() {
        let mut listener = Listener::default();
        let part =
            json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "{oops"}, "extra_content": {"s": 1}});
        listener.event(&json!({"choices": [{"delta": {"tool_calls": [part]}}]}).to_string()).unwrap();
        let calls = listener.event("[DONE]").unwrap().calls;
        assert_eq!(calls[0].arguments, json!("{oops"));
        let back = call(&calls[0]);
        assert_eq!((&back["function"]["arguments"], &back["extra_content"]), (&json!("{oops"), &json!({"s": 1})));
    }

    #[test]
    fn arguments_without_end_are_refused() {
        let mut listener = Listener::default();
        let part = json!({"index": 0, "id": "a", "function": {"name": "f", "arguments": "x".repeat(70_000)}});
        let event = json!({"choices": [{"delta": {"tool_calls": [part]}}]}).to_string();
        listener.event(&event).unwrap();
        assert!(matches!(listener.event(&event), Err(Failure::Unusable("the arguments of a call are too long"))));
        let part = |id: usize| json!({"id": format!("c{id}"), "function": {"name": "f"}});
        let many: Vec<_> = (0..=MAX_CALLS).map(part).collect();
        let event = json!({"choices": [{"delta": {"tool_calls": many}}]}).to_string();
        assert!(matches!(Listener::default().event(&event), Err(Failure::Unusable("the answer has too many calls"))));
    }
}
