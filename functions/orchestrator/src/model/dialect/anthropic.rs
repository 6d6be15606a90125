//! Anthropic's messages.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages>, its streaming events, and
//! <https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons>.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use super::{Heard, Request, arguments, decimal, object, read};
use crate::model::{Prompt, Said, ToolCall, Usage, failure::Failure};

/// The version of the API. Source: <https://platform.claude.com/docs/en/api/versioning>.
pub(super) const VERSION: &str = "2023-06-01";

/// Longest answer where the agent sets none, in tokens: the service wants a number, and every one of its models takes
/// this one.
const MAX_TOKENS: u32 = 4_096;

/// Blocks that are open at once, at most.
const MAX_OPEN: usize = 64;

/// Bytes of the arguments of all calls, at most: as long as an answer.
const MAX_ARGUMENT_BYTES: usize = chat_core::text::MAX_REPLY_BYTES;

pub(super) fn request(model: &str, prompt: &Prompt) -> Request {
    let most = prompt.max_output_tokens.unwrap_or(MAX_TOKENS);
    let mut body = json!({"model": model, "max_tokens": most, "messages": messages(&prompt.said), "stream": true});
    if !prompt.system.trim().is_empty() {
        body["system"] = json!(prompt.system);
    }
    if !prompt.tools.is_empty() {
        let tool = |tool: &crate::model::ToolSpec| json!({"name": tool.name, "description": tool.description, "input_schema": tool.parameters});
        body["tools"] = prompt.tools.iter().map(tool).collect();
    }
    let called = called(&prompt.said);
    if prompt.tools.is_empty() && !called.is_empty() {
        // What was called must be among the tools, also where nothing more shall be.
        body["tools"] = called.iter().map(|name| json!({"name": name, "input_schema": {"type": "object"}})).collect();
        body["tool_choice"] = json!({"type": "none"});
    }
    if let Some(temperature) = prompt.temperature {
        // Its scale ends at 1.
        body["temperature"] = json!(decimal(temperature.min(1.0)));
    }
    Request { path: "/messages".to_owned(), body }
}

/// User and assistant must take turns, beginning with the user, and no text may be blank. So neighbours become blocks of
/// one message, what is blank is left out, and so is what an agent said before anybody asked.
fn messages(said: &[Said]) -> Vec<Value> {
    let mut messages: Vec<(&'static str, Vec<Value>)> = Vec::new();
    for said in said.iter().skip_while(|said| !matches!(said, Said::User(_))) {
        let (role, blocks) = blocks(said);
        match messages.last_mut().filter(|(last, _)| *last == role) {
            Some((_, before)) => before.extend(blocks),
            None if blocks.is_empty() => {}
            None => messages.push((role, blocks)),
        }
    }
    messages.into_iter().map(|(role, content)| json!({"role": role, "content": content})).collect()
}

/// The names of the tools that were called.
fn called(said: &[Said]) -> BTreeSet<&str> {
    let calls = said.iter().flat_map(|said| match said {
        Said::Agent { calls, .. } => calls.as_slice(),
        Said::User(_) | Said::Tool { .. } => &[],
    });
    calls.map(|call| call.name.as_str()).collect()
}

fn blocks(said: &Said) -> (&'static str, Vec<Value>) {
    let text = |text: &str| (!text.trim().is_empty()).then(|| json!({"type": "text", "text": text}));
    match said {
        Said::User(words) => ("user", text(words).into_iter().collect()),
        Said::Agent { text: words, calls } => {
            let call = |call: &ToolCall| json!({"type": "tool_use", "id": call.id, "name": call.name, "input": object(&call.arguments)});
            ("assistant", text(words).into_iter().chain(calls.iter().map(call)).collect())
        }
        Said::Tool { id, result, .. } => {
            ("user", vec![json!({"type": "tool_result", "tool_use_id": id, "content": result})])
        }
    }
}

/// The part of an event that we read. What is of another type is passed over, as the service asks for.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Started,
    },
    ContentBlockStart {
        index: u64,
        content_block: Block,
    },
    ContentBlockDelta {
        index: u64,
        delta: Delta,
    },
    ContentBlockStop {
        index: u64,
    },
    MessageDelta {
        delta: Ending,
        usage: Option<Counts>,
    },
    MessageStop,
    Error {
        #[serde(rename = "error")]
        _error: IgnoredAny,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Started {
    usage: Option<Counts>,
}

/// An answer that came whole.
#[derive(Deserialize)]
struct Message {
    content: Vec<Block>,
    stop_reason: Option<String>,
    usage: Option<Counts>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Block {
    Text {
        #[serde(default)]
        text: String,
    },
    ToolUse {
        id: String,
        name: String,
        #[serde(default)]
        input: Value,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum Delta {
    #[serde(rename = "text_delta")]
    Text { text: String },
    #[serde(rename = "input_json_delta")]
    Json { partial_json: String },
    #[serde(rename = "thinking_delta")]
    Thinking {},
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Ending {
    stop_reason: Option<String>,
}

/// Counts so far; what is read from a cache or written to it is read all the same.
#[derive(Deserialize, Default, Clone, Copy)]
struct Counts {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// A call that is not complete yet.
struct Open {
    id: String,
    name: String,
    input: Value,
    json: String,
}

#[derive(Default)]
pub(super) struct Listener {
    open: BTreeMap<u64, Open>,
    argument_bytes: usize,
    counts: Counts,
}

impl super::Listener for Listener {
    fn event(&mut self, data: &str) -> Result<Heard, Failure> {
        let mut heard = Heard::default();
        match read(data)? {
            Event::MessageStart { message } => heard.usage = self.count(message.usage),
            Event::ContentBlockStart { content_block: Block::Text { text }, .. } => {
                heard.works = !text.is_empty();
                heard.text = text;
            }
            Event::ContentBlockStart { index, content_block: Block::ToolUse { id, name, input } } => {
                if self.open.len() == MAX_OPEN {
                    return Err(Failure::Unusable("the answer has too many calls"));
                }
                heard.works = true;
                self.open.insert(index, Open { id, name, input, json: String::new() });
            }
            Event::ContentBlockDelta { delta: Delta::Text { text }, .. } => {
                heard.works = !text.is_empty();
                heard.text = text;
            }
            Event::ContentBlockDelta { index, delta: Delta::Json { partial_json } } => {
                heard.works = true;
                self.argument_bytes += partial_json.len();
                if self.argument_bytes > MAX_ARGUMENT_BYTES {
                    return Err(Failure::Unusable("the arguments of a call are too long"));
                }
                if let Some(open) = self.open.get_mut(&index) {
                    open.json.push_str(&partial_json);
                }
            }
            Event::ContentBlockDelta { delta: Delta::Thinking {}, .. } => heard.works = true,
            Event::ContentBlockStop { index } => heard.calls.extend(self.open.remove(&index).map(closed)),
            Event::MessageDelta { delta, usage } => {
                heard.usage = self.count(usage);
                heard.complete = ended(delta.stop_reason.as_deref())?;
            }
            Event::MessageStop => (heard.complete, heard.last) = (true, true),
            Event::Error { .. } => return Err(Failure::Broken),
            Event::ContentBlockStart { content_block: Block::Other, .. }
            | Event::ContentBlockDelta { delta: Delta::Other, .. }
            | Event::Other => {}
        }
        if heard.complete && !self.open.is_empty() {
            return Err(Failure::Unusable("the answer ended in the middle of a call"));
        }
        Ok(heard)
    }

    fn whole(&mut self, body: &str) -> Result<Heard, Failure> {
        let message: Message = read(body)?;
        ended(message.stop_reason.as_deref())?;
        let mut heard = Heard { usage: self.count(message.usage), complete: true, last: true, ..Heard::default() };
        for block in message.content {
            match block {
                Block::Text { text } => heard.text.push_str(&text),
                Block::ToolUse { id, name, input } => {
                    heard.calls.push(closed(Open { id, name, input, json: String::new() }));
                }
                Block::Other => {}
            }
        }
        Ok(heard)
    }
}

impl Listener {
    /// The counts of an event replace those before.
    fn count(&mut self, counts: Option<Counts>) -> Option<Usage> {
        let (old, new) = (self.counts, counts.unwrap_or_default());
        self.counts = Counts {
            input_tokens: new.input_tokens.or(old.input_tokens),
            cache_creation_input_tokens: new.cache_creation_input_tokens.or(old.cache_creation_input_tokens),
            cache_read_input_tokens: new.cache_read_input_tokens.or(old.cache_read_input_tokens),
            output_tokens: new.output_tokens.or(old.output_tokens),
        };
        let Counts { input_tokens, cache_creation_input_tokens, cache_read_input_tokens, output_tokens } = self.counts;
        let cached = cache_creation_input_tokens.unwrap_or(0).saturating_add(cache_read_input_tokens.unwrap_or(0));
        Some(Usage { input_tokens: input_tokens?.saturating_add(cached), output_tokens: output_tokens.unwrap_or(0) })
    }
}

/// A call whose block has ended. Its arguments came in pieces, or with its beginning.
fn closed(open: Open) -> ToolCall {
    let arguments =
        if open.json.trim().is_empty() && open.input.is_object() { open.input } else { arguments(&open.json) };
    ToolCall { id: open.id, name: open.name, arguments, opaque: None }
}

/// Whether this is the end of an answer.
fn ended(stop_reason: Option<&str>) -> Result<bool, Failure> {
    match stop_reason {
        None => Ok(false),
        Some("refusal") => Err(Failure::Withheld),
        // Also where the answer reached a limit; what the reason was does not matter then.
        Some(_) => Ok(true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::dialect::example;

    #[test]
    fn neighbours_become_one_message_and_nothing_blank_is_sent() {
        let mut prompt = example::prompt();
        prompt.said.insert(0, Said::Agent { text: "Welcome!".to_owned(), calls: Vec::new() });
        prompt.said.insert(2, Said::User(" \n".to_owned()));
        let body = request("m", &prompt).body;
        let text = |text| json!({"type": "text", "text": text});
        let call = |id, place| json!({"type": "tool_use", "id": id, "name": "weather", "input": {"place": place}});
        let result = |id, content| json!({"type": "tool_result", "tool_use_id": id, "content": content});
        assert_eq!(
            body["messages"],
            json!([
                {"role": "user", "content": [text("one"), text("two")]},
                {"role": "assistant", "content": [call("c1", "Rome"), call("made-2", "Oslo")]},
                {"role": "user", "content": [result("c1", "sunny"), result("made-2", "rain"), text("thanks")]},
            ])
        );
        assert_eq!((&body["system"], &body["max_tokens"]), (&json!("Be brief."), &json!(100)));
        assert_eq!(body["temperature"], 1.0, "its scale ends there");
        assert_eq!(body.get("tool_choice"), None);
        let bare = Prompt { tools: Vec::new(), ..prompt.clone() };
        let body = request("m", &bare).body;
        assert_eq!((&body["tools"][0]["name"], &body["tool_choice"]["type"]), (&json!("weather"), &json!("none")));
        let bare = Prompt { system: " ".to_owned(), temperature: None, max_output_tokens: None, ..prompt };
        let body = request("m", &bare).body;
        assert_eq!(
            (body.get("system"), body.get("temperature"), &body["max_tokens"]),
            (None, None, &json!(MAX_TOKENS))
        );
    }

    #[test]
    fn what_was_cached_was_read_too() {
        let mut listener = Listener::default();
        let start = json!({"type": "message_start", "message": {"usage":
            {"input_tokens": 10, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 2, "output_tokens": 1}}});
        super::super::Listener::event(&mut listener, &start.to_string()).unwrap();
        let end = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}});
        let heard = super::super::Listener::event(&mut listener, &end.to_string()).unwrap();
        assert_eq!(heard.usage, Some(Usage { input_tokens: 17, output_tokens: 9 }));
        assert!(heard.complete && !heard.last);
    }

    #[test]
    fn an_end_in_the_middle_of_a_call_is_none() {
        let mut listener = Listener::default();
        let block = json!({"type": "tool_use", "id": "a", "name": "f", "input": {}});
        let start = json!({"type": "content_block_start", "index": 0, "content_block": block});
        super::super::Listener::event(&mut listener, &start.to_string()).unwrap();
        let end = json!({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}});
        assert!(super::super::Listener::event(&mut listener, &end.to_string()).is_err());
    }
}
