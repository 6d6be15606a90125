//! The socket as an AsyncAPI 3.0 document: one message for each frame, made of the frames' own types.

use anyhow::{Context, Result};
use chat_core::event::{CLIENT_FRAMES, ServerFrame};
use hub::close::Close;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{recording::Recording, text};

/// Where the socket is.
pub const ADDRESS: &str = "/chat/ws/{conversation_id}";

/// Where its twin is.
pub const EVENTS: &str = "/chat/sse/{conversation_id}";

const ABOUT_EVENTS: &str = "The socket's twin for whoever sits behind a proxy that breaks WebSockets: the same frames from the \
    server in the same order, as Server-Sent Events, one in the `data` of each; what the client says goes over REST. The \
    token stands in the header `Authorization`. The `id` of an event is `epoch.seq`: up to where everything was told; \
    whoever comes back with it in `Last-Event-ID` gets exactly what was missed. A comment keeps the connection alive. The \
    last event is named `close` and says why in the codes of the socket; a refusal before the stream is an HTTP status with \
    a problem, as REST's.";

const ABOUT: &str = "One conversation, live. The first frame says who is asking, within ten seconds; then messages go out and \
    replies come in. Text frames, one JSON object each, `type` names it. Of what the server sends, a client ignores \
    types and fields that it does not know; the server ignores fields that it does not know, and answers an unknown \
    `type` with an `error` frame. Frames with a `seq` come in its order; a client that comes back sends the newest it has \
    seen, with its `epoch`, and gets exactly what it missed. Where no WebSocket gets through, the \
    channel `events` brings the same frames. A page is let in by its `Origin`; the `x-close-codes` of the channel say how a socket ends, and whether to come back.";

/// The document.
///
/// # Panics
/// If a frame has no type of its own; the test of the documents says so.
#[must_use]
pub fn document() -> Value {
    let mut schemas = Map::new();
    let mut beside = Vec::new();
    ServerFrame::schemas(&mut beside);
    for (name, schema) in beside {
        schemas.insert(name, json!(schema));
    }
    let mut messages = Map::new();
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for frame in CLIENT_FRAMES {
        let mut schema = json!((frame.schema)());
        add_type(&mut schema, frame.name);
        received.push(add("Client", frame.name, schema, &mut schemas, &mut messages));
    }
    let server = json!(ServerFrame::schema());
    for variant in server["oneOf"].as_array().expect("frames are several") {
        let name = text(&variant["properties"]["type"]["enum"][0]).to_owned();
        let mut schema = variant.clone();
        schema["properties"]["type"] = json!({"const": name, "type": "string"});
        sent.push(add("Server", &name, schema, &mut schemas, &mut messages));
    }
    let refer = |name: &String| (name.clone(), json!({"$ref": format!("#/components/messages/{name}")}));
    let channel: Map<String, Value> = messages.keys().map(refer).collect();
    let mut told: Map<String, Value> = sent.iter().map(refer).collect();
    told.extend([refer(&CLOSE.to_owned())]);
    schemas.insert(CLOSE.to_owned(), close_event());
    messages.insert(
        CLOSE.to_owned(),
        json!({
            "name": "close",
            "title": "close",
            "summary": "The last event of a stream, by its name: why it ends, and so whether to come back.",
            "contentType": "application/json",
            "payload": {"$ref": format!("#/components/schemas/{CLOSE}")},
        }),
    );
    let closes: Vec<Value> = Close::ALL
        .iter()
        .map(|close| {
            let (code, _, reason) = close.entry();
            json!({"code": code, "reason": reason, "final": close.is_final()})
        })
        .collect();
    let of = |names: &[String]| -> Vec<Value> {
        names.iter().map(|name| json!({"$ref": format!("#/channels/conversation/messages/{name}")})).collect()
    };
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:konstruct:chat:socket",
        "info": {
            "title": "Konstruct web chat: the socket",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Portal users of many companies talk to their AI employees; `openapi.json` describes the rest.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
            "tags": [{"name": "conversations", "description": "The one thread of a person with an agent."}],
        },
        "defaultContentType": "application/json",
        "servers": {"hub": {
            "host": "chat.konstruct.example",
            "protocol": "wss",
            "description": "A hub, behind the portal's name. Any hub serves any conversation.",
        }, "events": {
            "host": "chat.konstruct.example",
            "protocol": "https",
            "description": "The same, over plain HTTP.",
        }},
        "channels": {"conversation": {
            "address": ADDRESS,
            "title": "A conversation, live",
            "description": ABOUT,
            "servers": [{"$ref": "#/servers/hub"}],
            "parameters": {"conversation_id": {"description": "The conversation, a UUID."}},
            "messages": channel,
            "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            "x-close-codes": closes,
        }, "events": {
            "address": EVENTS,
            "title": "A conversation, live, over HTTP",
            "description": ABOUT_EVENTS,
            "servers": [{"$ref": "#/servers/events"}],
            "parameters": {"conversation_id": {"description": "The conversation, a UUID."}},
            "messages": told,
        }},
        "operations": {
            "send": {
                "action": "send",
                "title": "What the server sends",
                "description": "News of the conversation, and answers to what this client sent.",
                "channel": {"$ref": "#/channels/conversation"},
                "messages": of(&sent),
            },
            "tell": {
                "action": "send",
                "title": "What a stream of events tells",
                "description": "News of the conversation; at the end, why it ends.",
                "channel": {"$ref": "#/channels/events"},
                "messages": sent.iter().chain([&CLOSE.to_owned()])
                    .map(|name| json!({"$ref": format!("#/channels/events/messages/{name}")})).collect::<Vec<_>>(),
                "bindings": {"http": {"method": "GET", "bindingVersion": "0.3.0"}},
            },
            "receive": {
                "action": "receive",
                "title": "What a client sends",
                "description": "Who it is, then whatever it wants, in any order.",
                "channel": {"$ref": "#/channels/conversation"},
                "messages": of(&received),
            },
        },
        "components": {"messages": messages, "schemas": schemas},
    })
}

/// The message with which a stream of events ends.
pub const CLOSE: &str = "EventClose";

/// What is in it.
fn close_event() -> Value {
    json!({
        "title": CLOSE,
        "description": "Why a stream of events ends.",
        "type": "object",
        "required": ["code", "reason"],
        "properties": {
            "code": {"type": "integer", "description": "One of the channel `conversation`'s `x-close-codes`."},
            "reason": {"type": "string", "description": "The same in words."},
        },
    })
}

/// Says in a client frame's schema what its `type` is.
fn add_type(schema: &mut Value, name: &str) {
    schema["properties"]["type"] = json!({"const": name, "type": "string"});
    let required = schema.as_object_mut().expect("a frame is an object").entry("required").or_insert(json!([]));
    required.as_array_mut().expect("a list of fields").push(json!("type"));
}

/// Adds the message of a frame, and tells its name.
fn add(
    side: &str,
    kind: &str,
    mut schema: Value,
    schemas: &mut Map<String, Value>,
    messages: &mut Map<String, Value>,
) -> String {
    let mut letters = kind.chars();
    let name: String = letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect();
    let name = format!("{side}{name}");
    schema["title"] = json!(name);
    messages.insert(
        name.clone(),
        json!({
            "name": kind,
            "title": kind,
            "summary": schema["description"],
            "contentType": "application/json",
            "payload": {"$ref": format!("#/components/schemas/{name}")},
        }),
    );
    schemas.insert(name.clone(), schema);
    name
}

/// Adds what was recorded: to each message the frame that showed most of it.
///
/// # Errors
/// The frame that nobody has shown.
pub fn illustrate(document: &mut Value, recording: &Recording) -> Result<()> {
    for (name, message) in document["components"]["messages"].as_object_mut().into_iter().flatten() {
        let frame = recording.frames.get(name);
        let frame = frame.with_context(|| format!("nobody has shown {name}; do so in scenes.rs"))?;
        message["examples"] = json!([{"name": name, "payload": frame}]);
    }
    Ok(())
}
