//! OpenAI's chat completions: what is refused, and how answers look.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>, and its streaming events.

use std::collections::HashSet;

use chat_core::config::Speaks;
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::{
    Asked,
    speech::{Events, Refusal, halves, key, names},
    words,
};

/// What a request asks.
pub(super) fn read(headers: &HeaderMap, body: &Value) -> Result<Asked, Refusal> {
    if body["stream"] != true {
        return Err(Refusal::bad("only streams are asked for here"));
    }
    if body.get("max_tokens").is_some() && body.get("max_completion_tokens").is_some() {
        return Err(Refusal::bad("max_tokens and max_completion_tokens exclude each other"));
    }
    let (mut system, mut said, mut called, mut open) = (None, Vec::new(), Vec::new(), HashSet::new());
    for message in body["messages"].as_array().ok_or(Refusal::bad("messages are missing"))? {
        let role = message["role"].as_str().ok_or(Refusal::bad("a message has no role"))?;
        let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
        let text = match (&message["content"], role) {
            (Value::String(text), _) => text.clone(),
            (Value::Null, "assistant") if !calls.is_empty() => String::new(),
            _ => return Err(Refusal::bad("a message has no content")),
        };
        if !open.is_empty() && role != "tool" {
            return Err(Refusal::bad("an assistant message with tool_calls must be followed by tool messages"));
        }
        match role {
            "system" if said.is_empty() && system.is_none() => {
                system = Some(text);
                continue;
            }
            "user" => {}
            "assistant" => {
                for call in calls {
                    let part =
                        |value: &Value| value.as_str().map(str::to_owned).ok_or(Refusal::bad("a call is not whole"));
                    let (id, function) = (part(&call["id"])?, &call["function"]);
                    let arguments = part(&function["arguments"])?;
                    let arguments = serde_json::from_str(&arguments).unwrap_or(Value::String(arguments));
                    open.insert(id.clone());
                    called.push((id, part(&function["name"])?, arguments));
                }
            }
            "tool" if message["tool_call_id"].as_str().is_some_and(|id| open.remove(id)) => {}
            _ => return Err(Refusal::bad("a message of this role does not belong here")),
        }
        said.push((role.to_owned(), text));
    }
    let tools = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    let tools = names(tools.iter().map(|tool| &tool["function"]), "parameters")?;
    let max_tokens = body["max_completion_tokens"].as_u64().or(body["max_tokens"].as_u64());
    Ok(Asked {
        speaks: Speaks::OpenAi,
        model: body["model"].as_str().ok_or(Refusal::bad("the model is missing"))?.to_owned(),
        system,
        message: said.iter().rfind(|(role, _)| role == "user").ok_or(Refusal::bad("nobody asks"))?.1.clone(),
        said,
        nth: 0,
        authorization: key(headers, header::AUTHORIZATION.as_str()),
        tools,
        called,
        temperature: body["temperature"].as_f64(),
        max_tokens,
        wants_usage: body["stream_options"]["include_usage"] == true,
    })
}

/// How this protocol puts it.
pub(super) fn events(asked: &Asked) -> Events {
    let asked_usage = asked.wants_usage;
    let input = asked.input_tokens();
    Events {
        // It comes with the status and says nothing, as OpenAI's own.
        head: vec![chunk(&json!({"role": "assistant", "content": ""}), None)],
        text: Box::new(|part| chunk(&json!({"content": part}), None)),
        // The name first, then the arguments in two halves.
        call: Box::new(|number, id, name, arguments| {
            let arguments = arguments.to_string();
            let (first, second) = halves(&arguments);
            let part = |call: Value| chunk(&json!({"tool_calls": [call]}), None);
            vec![
                part(
                    json!({"index": number, "id": id, "type": "function", "function": {"name": name, "arguments": ""}}),
                ),
                part(json!({"index": number, "function": {"arguments": first}})),
                part(json!({"index": number, "function": {"arguments": second}})),
            ]
        }),
        end: Box::new(move |text, calls| {
            let reason = if calls { "tool_calls" } else { "stop" };
            let usage = asked_usage
                .then(|| event(&json!({"id": ID, "object": CHUNK, "choices": [], "usage": usage(input, text)})));
            let done = "data: [DONE]\n\n".to_owned();
            [chunk(&json!({}), Some(reason))].into_iter().chain(usage).chain([done]).collect()
        }),
        withheld: vec![chunk(&json!({}), Some("content_filter")), "data: [DONE]\n\n".to_owned()],
        failed: event(&json!({"error": {"message": "the server had an error", "type": "server_error"}})),
        whole: Box::new(move |text| {
            let choice =
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"});
            json!({"id": ID, "object": "chat.completion", "choices": [choice], "usage": usage(input, text)})
        }),
        too_long: json!({"error": {"message": "This model's maximum context length is 8 tokens.", "type":
            "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}),
        refused: json!({"error": {"message": "refused by the script", "type": "scripted", "code": null}}),
    }
}

const ID: &str = "chatcmpl-scripted";
const CHUNK: &str = "chat.completion.chunk";

fn usage(input: u64, text: &str) -> Value {
    let output = words(text);
    json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output})
}

fn chunk(delta: &Value, finish_reason: Option<&str>) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish_reason});
    event(&json!({"id": ID, "object": CHUNK, "choices": [choice]}))
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
