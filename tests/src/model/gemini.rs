//! The Gemini API: what is refused, and how answers look.
//!
//! Source: <https://ai.google.dev/api/generate-content>, and
//! <https://ai.google.dev/gemini-api/docs/thought-signatures>.

use chat_core::config::Speaks;
use http::{HeaderMap, Uri};
use serde_json::{Value, json};

use super::{
    Asked,
    speech::{Events, Refusal, key, names},
    words,
};

/// The signature that comes with calls and must come back with them.
const SIGNATURE: &str = "c2lnbmVk";

/// What a request asks. The model stands in the path.
pub(super) fn read(headers: &HeaderMap, uri: &Uri, body: &Value) -> Result<Asked, Refusal> {
    let query = uri.query().unwrap_or_default();
    if query.contains("key=") {
        return Err(Refusal::bad("no key may stand in the URL"));
    }
    if query != "alt=sse" {
        return Err(Refusal::bad("only server-sent events are asked for here"));
    }
    let authorization = key(headers, "x-goog-api-key").ok_or(Refusal::new(403, "x-goog-api-key is missing"))?;
    let model = uri.path().rsplit('/').next().and_then(|last| last.strip_suffix(":streamGenerateContent"));
    let (mut said, mut called, mut answered) = (Vec::new(), Vec::new(), 0);
    for content in body["contents"].as_array().ok_or(Refusal::bad("contents are missing"))? {
        let role = match content["role"].as_str() {
            Some("user") => "user",
            Some("model") => "assistant",
            _ => return Err(Refusal::bad("Please use a valid role: user, model.")),
        };
        let parts = content["parts"].as_array().filter(|parts| !parts.is_empty());
        for part in parts.ok_or(Refusal::bad("contents.parts must not be empty"))? {
            if let Some(text) = part["text"].as_str().filter(|text| !text.is_empty()) {
                said.push((role.to_owned(), text.to_owned()));
            } else if let Some(name) = part["functionCall"]["name"].as_str().filter(|_| role == "assistant") {
                if part["thoughtSignature"] != SIGNATURE {
                    return Err(Refusal::bad("Function call is missing a thought_signature in functionCall parts."));
                }
                called.push((String::new(), name.to_owned(), part["functionCall"]["args"].clone()));
                said.push((role.to_owned(), String::new()));
            } else if let Some(name) = part["functionResponse"]["name"].as_str().filter(|_| role == "user") {
                if called.get(answered).is_none_or(|(_, called, _)| called != name) {
                    return Err(Refusal::bad("each function response must follow its function call"));
                }
                answered += 1;
                let result = part["functionResponse"]["response"]["result"].as_str();
                said.push(("tool".to_owned(), result.ok_or(Refusal::bad("a response is an object"))?.to_owned()));
            } else {
                return Err(Refusal::bad("a part has no data"));
            }
        }
    }
    let declared = body["tools"][0]["functionDeclarations"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(Asked {
        speaks: Speaks::Gemini,
        model: model.ok_or(Refusal::new(404, "no such method"))?.to_owned(),
        system: body["systemInstruction"]["parts"][0]["text"].as_str().map(str::to_owned),
        message: said.iter().rfind(|(role, _)| role == "user").ok_or(Refusal::bad("nobody asks"))?.1.clone(),
        said,
        nth: 0,
        authorization: Some(authorization),
        tools: names(declared.iter(), "parametersJsonSchema")?,
        called,
        temperature: body["generationConfig"]["temperature"].as_f64(),
        max_tokens: body["generationConfig"]["maxOutputTokens"].as_u64(),
        wants_usage: true,
    })
}

/// How this protocol puts it.
pub(super) fn events(asked: &Asked) -> Events {
    let input = asked.input_tokens();
    Events {
        head: Vec::new(),
        text: Box::new(move |part| event(&candidate(&[json!({"text": part})], None, input, None))),
        call: Box::new(move |_, _, name, arguments| {
            let call = json!({"functionCall": {"name": name, "args": arguments}, "thoughtSignature": SIGNATURE});
            vec![event(&candidate(&[call], None, input, None))]
        }),
        end: Box::new(move |text, _| {
            vec![event(&candidate(&[json!({"text": ""})], Some("STOP"), input, Some(words(text))))]
        }),
        withheld: vec![event(&candidate(&[], Some("SAFETY"), input, None))],
        failed: event(&json!({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})),
        whole: Box::new(move |text| candidate(&[json!({"text": text})], Some("STOP"), input, Some(words(text)))),
        too_long: json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message":
            "The input token count (9) exceeds the maximum number of tokens allowed (8)."}}),
        refused: json!({"error": {"code": 500, "status": "INTERNAL", "message": "refused by the script"}}),
    }
}

fn candidate(parts: &[Value], finish_reason: Option<&str>, input: u64, output: Option<u64>) -> Value {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    if let Some(reason) = finish_reason {
        candidate["finishReason"] = json!(reason);
    }
    let mut usage = json!({"promptTokenCount": input});
    if let Some(output) = output {
        usage["candidatesTokenCount"] = json!(output);
    }
    json!({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted"})
}

/// Lines end as theirs do.
fn event(data: &Value) -> String {
    format!("data: {data}\r\n\r\n")
}
