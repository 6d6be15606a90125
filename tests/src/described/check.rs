//! What goes over the wire in tests, held to the documents. What the server says may have no field that they do not know,
//! though clients must pass over those: so nothing goes out undescribed.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use anyhow::{Result, anyhow, bail, ensure};
use conversations::BASE;
use http::{HeaderMap, header};
use jsonschema::Validator;
use serde_json::{Value, json};

use super::{asyncapi, entries, openapi, text};

/// A document whose objects have the fields that it names and no other, and what was made of it so far.
struct Held {
    document: Value,
    made: Mutex<HashMap<String, Arc<Validator>>>,
}

static REST: LazyLock<Held> = LazyLock::new(|| Held::new(openapi::document()));
static SOCKET: LazyLock<Held> = LazyLock::new(|| Held::new(asyncapi::document()));

impl Held {
    fn new(mut document: Value) -> Self {
        for (name, schema) in document["components"]["schemas"].as_object_mut().into_iter().flatten() {
            // What a client sends may have fields that the server does not know.
            if !name.starts_with("Client") {
                close(schema);
            }
        }
        Self { document, made: Mutex::default() }
    }

    /// Holds a value to a schema of the document, named by `key`.
    fn hold(&self, key: &str, schema: &Value, value: &Value) -> Result<()> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = match made.get(key) {
            Some(validator) => Arc::clone(validator),
            None => {
                let whole =
                    json!({"allOf": [schema], "components": {"schemas": self.document["components"]["schemas"]}});
                let validator = jsonschema::options().should_validate_formats(true).build(&whole);
                let validator = Arc::new(validator.map_err(|error| anyhow!("{key}: no schema: {error}"))?);
                made.insert(key.to_owned(), Arc::clone(&validator));
                validator
            }
        };
        drop(made);
        let wrong: Vec<String> =
            validator.iter_errors(value).map(|error| format!("at `{}`: {error}", error.instance_path())).collect();
        ensure!(wrong.is_empty(), "{key} is not as documented: {}", wrong.join("; "));
        Ok(())
    }
}

/// Refuses, in every object of a schema that names its fields, any other.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let named = fields.get("type").is_some_and(|kind| kind == "object") && fields.contains_key("properties");
            fields.values_mut().for_each(close);
            if named {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Holds a frame of the server to its message.
///
/// # Errors
/// What is wrong with it, and where.
pub fn heard(frame: &Value) -> Result<()> {
    held("Server", frame)
}

/// Holds a frame of a client to its message.
///
/// # Errors
/// What is wrong with it, and where.
pub fn said(frame: &Value) -> Result<()> {
    held("Client", frame)
}

fn held(side: &str, frame: &Value) -> Result<()> {
    let Some(name) = message(side, text(&frame["type"])) else { bail!("no message of the document: {frame}") };
    named(&name, frame)
}

/// Holds a payload to the message of this name.
///
/// # Errors
/// What is wrong with it, and where.
pub fn named(name: &str, payload: &Value) -> Result<()> {
    SOCKET.hold(name, &json!({"$ref": format!("#/components/schemas/{name}")}), payload)
}

/// What the message of a frame is called in the document, by who sends it, `Server` or `Client`, and its `type`.
#[must_use]
pub fn message(side: &str, kind: &str) -> Option<String> {
    let mut messages = entries(&SOCKET.document["components"]["messages"]);
    let (name, _) = messages.find(|(name, message)| name.starts_with(side) && message["name"] == kind)?;
    Some(name.clone())
}

/// The id of the operation that a request is for, by its whole path.
#[must_use]
pub fn operation(method: &str, path: &str) -> Option<String> {
    Some(text(&described(method, path)?["operationId"]).to_owned())
}

fn described(method: &str, path: &str) -> Option<&'static Value> {
    let asked = path.strip_prefix(BASE)?;
    let (_, methods) = entries(&REST.document["paths"]).find(|(template, _)| is_at(asked, template))?;
    methods.get(method.to_ascii_lowercase())
}

/// Holds an answer to what its operation may answer: status, kind of content, body, and the headers it must have. What is
/// at no path of the document, or not with this method, is refused as every problem is.
///
/// # Errors
/// What is wrong with it, and where.
pub fn answered(method: &str, path: &str, status: u16, headers: &HeaderMap, body: &[u8]) -> Result<()> {
    if matches!(method, "OPTIONS" | "HEAD") || !path.starts_with(BASE) {
        return Ok(());
    }
    let Some(operation) = described(method, path) else {
        ensure!(matches!(status, 404 | 405), "{method} {path} is not documented, and answers {status}");
        let problem = json!({"$ref": "#/components/schemas/Problem"});
        return REST.hold("a problem", &problem, &serde_json::from_slice(body)?);
    };
    let name = text(&operation["operationId"]);
    let response = &operation["responses"][status.to_string()];
    ensure!(response.is_object(), "{name} may not answer {status}: {}", String::from_utf8_lossy(body));
    for (header, what) in entries(&response["headers"]) {
        let component = text(&what["$ref"]).rsplit('/').next().unwrap_or_default();
        let required = REST.document["components"]["headers"][component]["required"] == true;
        ensure!(!required || headers.contains_key(header), "{name} answers {status} without {header}");
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    let Some(content) = response.get("content") else {
        ensure!(body.is_empty(), "{name} answers {status} with a body");
        return Ok(());
    };
    let Some(content) = content.get(kind) else { bail!("{name} answers {status} as {kind}") };
    if kind.ends_with("json") {
        REST.hold(&format!("{status} of {name}"), &content["schema"], &serde_json::from_slice(body)?)?;
    }
    Ok(())
}

fn is_at(asked: &str, template: &str) -> bool {
    asked.split('/').count() == template.split('/').count()
        && asked.split('/').zip(template.split('/')).all(|(part, named)| named.starts_with('{') || part == named)
}
