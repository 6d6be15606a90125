//! REST as an OpenAPI 3.1 document: what the handlers say, finished with what holds for all of them.

use chat_core::{Code, Kind};
use serde_json::{Map, Value, json};

use super::{recording::Recording, text};

/// The document.
///
/// # Panics
/// If a handler's doc comment cannot be read for what it is; the test of the documents says so.
#[must_use]
pub fn document() -> Value {
    let mut document = serde_json::to_value(conversations::described::operations()).expect("a document is JSON");
    document["openapi"] = json!("3.1.1");
    document["info"] = json!({
        "title": "Konstruct web chat",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "Portal users of many companies talk to their AI employees. Replies come on the socket, which \
            `asyncapi.json` describes; everything said there is found here, too.",
        "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    });
    document["servers"] = json!([{"url": conversations::BASE, "description": "Where the portal serves it."}]);
    document["tags"] = json!([
        {"name": "conversations", "description": "The one thread of a person with an agent."},
        {"name": "messages", "description": "What is said in it."},
        {"name": "portal", "description": "Who one is, whom one may talk to, and what was said and spent."},
        {"name": "service", "description": "The service itself; for everybody."},
    ]);
    document["security"] = json!([{"bearer": []}]);
    document["components"]["securitySchemes"] = json!({"bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "The portal's token. What it says of role and company is a hint; the database decides.",
    }});
    document["components"]["headers"] = json!({
        "RequestId": {"description": "This request; an operator finds it in the log by that.", "required": true,
            "schema": {"type": "string", "format": "uuid"}},
        "RetryAfter": {"description": "Seconds until the same request may succeed.", "required": true,
            "schema": {"type": "integer", "minimum": 1}},
        "Authenticate": {"description": "How to say who one is.", "required": true,
            "schema": {"type": "string", "const": "Bearer"}},
    });
    // Neither is there for a derive to say.
    document["components"]["schemas"]["Patch"]["minProperties"] = json!(1);
    document["components"]["schemas"]["Problem"]["description"] = json!("An error (RFC 9457).");
    let paths = document["paths"].as_object_mut().expect("a document has paths");
    for (path, methods) in paths {
        for (method, operation) in methods.as_object_mut().expect("a path has methods") {
            finish(path, method, operation);
        }
    }
    document
}

/// The statuses, and what each is for, that `code` of a problem can mean at this edge.
fn codes(status: u16) -> Vec<&'static str> {
    let of = |code: &&Code| match (code.kind(), **code) {
        (_, Code::MethodNotAllowed) => status == 405,
        (_, Code::UnsupportedMediaType) => status == 415,
        (_, Code::PayloadTooLarge) => status == 413,
        (Kind::Invalid, _) => status == 400,
        (Kind::Unauthenticated, _) => status == 401,
        (Kind::Forbidden, _) => status == 403,
        (Kind::NotFound, _) => status == 404,
        (Kind::Conflict, _) => status == 422,
        (Kind::Busy, _) => status == 429,
        (Kind::Unavailable, _) => status == 503,
        (Kind::Internal, _) => status == 500,
    };
    // Those of failed turns and of the socket are no answers to a request.
    let elsewhere = [
        Code::BadFrame,
        Code::UnknownFrame,
        Code::OverBudget,
        Code::TooManySockets,
        Code::ModelFailed,
        Code::ModelUnavailable,
        Code::ModelRefused,
        Code::PromptTooLong,
        Code::ModelKeyRefused,
        Code::AttemptsExhausted,
        Code::DeadlineExceeded,
        Code::DeliveryFailed,
        Code::DeliveryUnknown,
    ];
    Code::ALL.iter().filter(|code| !elsewhere.contains(code)).filter(of).map(|code| code.as_str()).collect()
}

fn finish(path: &str, method: &str, operation: &mut Value) {
    let said = format!("{}\n{}", text(&operation["summary"]), text(&operation["description"]));
    let (about, errors) = said.split_once("# Errors").unwrap_or((&said, ""));
    let (summary, description) = sentences(about);
    assert!(!summary.is_empty(), "{method} {path}: its doc comment says nothing");
    operation["summary"] = json!(summary);
    match operation.as_object_mut() {
        Some(fields) if description.is_empty() => drop(fields.remove("description")),
        _ => operation["description"] = json!(description),
    }

    let mut refusals: Vec<(u16, String)> = Vec::new();
    let secured = operation.get("security").is_none();
    if secured {
        refusals.push((401, "the token is missing, bad or has expired".to_owned()));
        refusals.push((500, "our fault".to_owned()));
        refusals.push((503, "something this depends on is away; the same request may be sent again".to_owned()));
    } else {
        operation["security"] = json!([]);
    }
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let (schema, description) = match name {
                "conversation_id" => ("ConversationId", "The conversation."),
                "message_id" => ("MessageId", "The message."),
                "turn_id" => ("TurnId", "The turn."),
                other => panic!("{path}: say here what {other} is"),
            };
            let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
            json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
        })
        .collect();
    parameters.extend(operation["parameters"].as_array().into_iter().flatten().cloned());
    if !parameters.is_empty() {
        refusals.push((400, "a bad path, query or header".to_owned()));
        operation["parameters"] = json!(parameters);
    }
    if operation.get("requestBody").is_some() {
        refusals.push((400, "a bad body".to_owned()));
        refusals.push((413, "the body is larger than the limit".to_owned()));
        refusals.push((415, "the body is not `application/json`".to_owned()));
    }
    let errors = joined(errors);
    for part in errors.trim_end_matches('.').split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let read = part.split_once(' ').and_then(|(status, what)| Some((status.parse().ok()?, what.to_owned())));
        refusals.push(read.unwrap_or_else(|| panic!("{method} {path}: no status and what it is for: {part}")));
    }

    let responses = operation["responses"].as_object_mut().expect("an operation has responses");
    for (status, what) in refusals {
        // What a handler says comes last, and is more exact.
        responses.insert(status.to_string(), refusal(status, &capital(&what)));
    }
    for response in responses.values_mut() {
        header(response, "x-request-id", "RequestId");
    }
}

fn refusal(status: u16, what: &str) -> Value {
    let codes: Vec<_> = codes(status).into_iter().map(|code| format!("`{code}`")).collect();
    let schema = json!({"$ref": "#/components/schemas/Problem"});
    let mut response = json!({
        "description": format!("{what}. Codes: {}.", codes.join(", ")),
        "content": {"application/problem+json": {"schema": schema}},
    });
    match status {
        401 => header(&mut response, "WWW-Authenticate", "Authenticate"),
        429 | 503 => header(&mut response, "Retry-After", "RetryAfter"),
        _ => {}
    }
    response
}

fn header(response: &mut Value, name: &str, component: &str) {
    let headers = response.as_object_mut().expect("a response is an object").entry("headers");
    let headers = headers.or_insert_with(|| Value::Object(Map::new()));
    headers[name] = json!({"$ref": format!("#/components/headers/{component}")});
}

/// The first sentence of a doc comment, and the others. What it says of method and path the document says itself.
fn sentences(about: &str) -> (String, String) {
    let about = joined(about);
    let about = match about.strip_prefix('`').and_then(|rest| rest.split_once("`: ")) {
        Some((route, rest)) if route.contains(" /") => rest,
        _ => &about,
    };
    let (first, others) = about.split_once(". ").unwrap_or((about.trim_end_matches('.'), ""));
    (capital(first), others.to_owned())
}

/// Without the breaks of its lines.
fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// Adds what was recorded: to each operation its path with ids in it, what was asked, and what came back.
pub fn illustrate(document: &mut Value, recording: &Recording) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.flat_map(|(path, methods)| {
        methods.as_object_mut().into_iter().flatten().map(move |(_, operation)| (path, operation))
    });
    for (template, operation) in operations {
        let Some(shown) = recording.operations.get(text(&operation["operationId"])) else { continue };
        if let Some(asked) = &shown.asked {
            operation["requestBody"]["content"]["application/json"]["example"] = asked.clone();
        }
        let (path, query) = shown.path.split_once('?').unwrap_or((&shown.path, ""));
        let in_path = template
            .split('/')
            .zip(path.split('/'))
            .filter_map(|(named, part)| Some((named.strip_prefix('{')?.strip_suffix('}')?, part)));
        let asked: Vec<(&str, &str)> =
            in_path.chain(query.split('&').filter_map(|pair| pair.split_once('='))).collect();
        let parameters = operation.get_mut("parameters").and_then(Value::as_array_mut);
        for parameter in parameters.into_iter().flatten() {
            let name = parameter["name"].clone();
            if let Some((_, part)) = asked.iter().find(|(named, _)| name == *named) {
                // A number or a word as its schema has it.
                let number = parameter["schema"]["type"] == "integer" || parameter["schema"]["type"] == "boolean";
                let number = if number { serde_json::from_str(part).ok() } else { None };
                parameter["example"] = number.unwrap_or_else(|| json!(part));
            }
        }
        for ((status, kind), body) in &shown.answers {
            let response = &mut operation["responses"][status.to_string()];
            if let Some(content) = response.get_mut("content").and_then(|content| content.get_mut(kind)) {
                content["example"] = body.clone();
            }
        }
    }
}
