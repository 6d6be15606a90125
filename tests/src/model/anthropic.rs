//! Anthropic's messages: what is refused, and how answers look.
//!
//! Source: <https://platform.claude.com/docs/en/api/messages>, and its streaming events.

use std::collections::HashSet;

use chat_core::config::Speaks;
use http::HeaderMap;
use serde_json::{Value, json};

use super::{
    Asked,
    speech::{Events, Refusal, halves, key, names},
    words,
};

/// What a request asks.
pub(super) fn read(headers: &HeaderMap, body: &Value) -> Result<Asked, Refusal> {
    let authorization = key(headers, "x-api-key").ok_or(Refusal::new(401, "x-api-key is missing"))?;
    if key(headers, "anthropic-version").as_deref() != Some("2023-06-01") {
        return Err(Refusal::bad("anthropic-version is missing"));
    }
    if body["stream"] != true {
        return Err(Refusal::bad("only streams are asked for here"));
    }
    let max_tokens =
        body["max_tokens"].as_u64().filter(|most| *most > 0).ok_or(Refusal::bad("max_tokens is missing"))?;
    if body["temperature"].as_f64().is_some_and(|temperature| temperature > 1.0) {
        return Err(Refusal::bad("temperature: Input should be less than or equal to 1"));
    }
    let (mut said, mut called, mut open) = (Vec::new(), Vec::new(), HashSet::new());
    let mut expected = "user";
    for message in body["messages"].as_array().ok_or(Refusal::bad("messages are missing"))? {
        if message["role"] != expected {
            return Err(Refusal::bad("roles must alternate, beginning with user"));
        }
        let blocks = message["content"].as_array().filter(|blocks| !blocks.is_empty());
        for block in blocks.ok_or(Refusal::bad("a message is empty"))? {
            let text = |value: &Value| value.as_str().map(str::to_owned).ok_or(Refusal::bad("a block is not whole"));
            match (block["type"].as_str(), expected) {
                (Some("tool_result"), "user") => {
                    let id = block["tool_use_id"].as_str().unwrap_or_default();
                    if !open.remove(id) {
                        return Err(Refusal::bad("a tool_result has no tool_use"));
                    }
                    said.push(("tool".to_owned(), text(&block["content"])?));
                }
                (Some("text"), _) if !open.is_empty() && expected == "user" => {
                    return Err(Refusal::bad("tool_use ids were found without tool_result blocks immediately after"));
                }
                (Some("text"), _) => {
                    let text = text(&block["text"])?;
                    if text.trim().is_empty() {
                        return Err(Refusal::bad("text content blocks must contain non-whitespace text"));
                    }
                    said.push((expected.to_owned(), text));
                }
                (Some("tool_use"), "assistant") if block["input"].is_object() => {
                    let id = text(&block["id"])?;
                    open.insert(id.clone());
                    called.push((id, text(&block["name"])?, block["input"].clone()));
                    said.push((expected.to_owned(), String::new()));
                }
                _ => return Err(Refusal::bad("a block does not belong here")),
            }
        }
        expected = if expected == "user" { "assistant" } else { "user" };
    }
    let tools = body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    if tools.is_empty() && !called.is_empty() {
        return Err(Refusal::bad("Requests which include `tool_use` or `tool_result` blocks must define tools"));
    }
    let may_call = body["tool_choice"]["type"] != "none";
    Ok(Asked {
        speaks: Speaks::Anthropic,
        model: body["model"].as_str().ok_or(Refusal::bad("the model is missing"))?.to_owned(),
        system: body["system"].as_str().map(str::to_owned),
        message: said.iter().rfind(|(role, _)| role == "user").ok_or(Refusal::bad("nobody asks"))?.1.clone(),
        said,
        nth: 0,
        authorization: Some(authorization),
        tools: names(tools.iter().filter(|_| may_call), "input_schema")?,
        called,
        temperature: body["temperature"].as_f64(),
        max_tokens: Some(max_tokens),
        wants_usage: true,
    })
}

/// How this protocol puts it.
pub(super) fn events(asked: &Asked) -> Events {
    let input = asked.input_tokens();
    let message = json!({"id": "msg_scripted", "type": "message", "role": "assistant", "content": [],
        "model": asked.model, "stop_reason": null, "usage": {"input_tokens": input, "output_tokens": 1}});
    let block =
        |index: u64, block: Value| event("content_block_start", &json!({"index": index, "content_block": block}));
    Events {
        head: vec![
            event("message_start", &json!({"message": message})),
            block(0, json!({"type": "text", "text": ""})),
            event("ping", &json!({})),
        ],
        text: Box::new(|part| {
            event("content_block_delta", &json!({"index": 0, "delta": {"type": "text_delta", "text": part}}))
        }),
        call: Box::new(move |number, id, name, arguments| {
            let arguments = arguments.to_string();
            let (first, second) = halves(&arguments);
            let index = number + 1;
            let part = |part: &str| {
                let delta = json!({"type": "input_json_delta", "partial_json": part});
                event("content_block_delta", &json!({"index": index, "delta": delta}))
            };
            vec![
                block(index, json!({"type": "tool_use", "id": id, "name": name, "input": {}})),
                part(""),
                part(first),
                part(second),
                event("content_block_stop", &json!({"index": index})),
            ]
        }),
        end: Box::new(|text, calls| {
            let reason = if calls { "tool_use" } else { "end_turn" };
            vec![
                event("content_block_stop", &json!({"index": 0})),
                ending(reason, text),
                event("message_stop", &json!({})),
            ]
        }),
        withheld: vec![ending("refusal", ""), event("message_stop", &json!({}))],
        failed: event("error", &json!({"error": {"type": "overloaded_error", "message": "Overloaded"}})),
        whole: Box::new(move |text| {
            json!({"id": "msg_scripted", "type": "message", "role": "assistant", "stop_reason": "end_turn",
                "content": [{"type": "text", "text": text}],
                "usage": {"input_tokens": input, "output_tokens": words(text)}})
        }),
        too_long: json!({"type": "error", "error":
            {"type": "invalid_request_error", "message": "prompt is too long: 9 tokens > 8 maximum"}}),
        refused: json!({"type": "error", "error": {"type": "api_error", "message": "refused by the script"}}),
    }
}

fn ending(reason: &str, text: &str) -> String {
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    event("message_delta", &json!({"delta": delta, "usage": {"output_tokens": words(text)}}))
}

fn event(name: &str, data: &Value) -> String {
    let mut data = data.clone();
    data["type"] = json!(name);
    format!("event: {name}\ndata: {data}\n\n")
}
