//! The documents of the interface: whole, fresh, and true.

use std::{collections::BTreeSet, fs, path::Path};

use chat_core::event::{CLIENT_FRAMES, ServerFrame};
use conversations::ROUTES;
use harness::described::{asyncapi, check, documents, openapi};
use http::{HeaderMap, HeaderName, header::CONTENT_TYPE};
use serde_json::Value;

fn keys(value: &Value) -> impl Iterator<Item = &str> {
    value.as_object().unwrap().keys().map(String::as_str)
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let document = openapi::document();
    let described: BTreeSet<String> = keys(&document["paths"])
        .flat_map(|path| keys(&document["paths"][path]).map(move |method| format!("{} {path}", method.to_uppercase())))
        .collect();
    let routes = ROUTES.iter().flat_map(|route| route.methods.iter().map(|method| format!("{method} {}", route.path)));
    assert_eq!(described, routes.collect());
}

#[test]
fn every_frame_of_a_client_is_described_and_nothing_else() {
    let document = asyncapi::document();
    let messages = document["channels"]["conversation"]["messages"].as_object().unwrap().keys();
    let described: BTreeSet<String> =
        messages.filter_map(|name| name.strip_prefix("Client")).map(str::to_lowercase).collect();
    assert_eq!(described, CLIENT_FRAMES.iter().map(|frame| frame.name.to_owned()).collect());
}

#[tokio::test]
async fn what_is_checked_in_is_what_the_code_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let stale =
        |(path, document): &(String, String)| fs::read_to_string(root.join(path)).ok().as_ref() != Some(document);
    let stale: Vec<String> = documents().await.unwrap().into_iter().filter(stale).map(|(path, _)| path).collect();
    assert!(
        stale.is_empty(),
        "the code says something else than {stale:?}: run `cargo describe` and look at the difference"
    );
}

/// The examples are as their schemas say, and what the server sends is read back for what it is.
#[test]
fn every_message_has_an_example_that_is_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let document: Value = serde_json::from_str(&fs::read_to_string(root.join("docs/asyncapi.json")).unwrap()).unwrap();
    for (name, message) in document["components"]["messages"].as_object().unwrap() {
        let example = &message["examples"][0]["payload"];
        if name.starts_with("Server") {
            check::heard(example).unwrap();
            let frame: ServerFrame = serde_json::from_value(example.clone()).unwrap();
            assert_eq!(serde_json::to_value(frame).unwrap(), *example, "{name}");
        } else if name.starts_with("Client") {
            check::said(example).unwrap();
        } else {
            check::named(name, example).unwrap();
        }
    }
}

#[test]
fn what_is_not_documented_is_seen() {
    let frame = |more: &str| format!(r#"{{"type":"reset","epoch":1{more}}}"#).parse::<Value>().unwrap();
    check::heard(&frame("")).unwrap();
    let extra = check::heard(&frame(r#","secret":1"#)).unwrap_err().to_string();
    assert!(extra.contains("secret"), "{extra}");
    let headers = |kind: &str| {
        let id = "0193b3a0-0000-7000-8000-000000000001".parse().unwrap();
        HeaderMap::from_iter([(CONTENT_TYPE, kind.parse().unwrap()), (HeaderName::from_static("x-request-id"), id)])
    };
    let me = |kind: &str, status: u16, body: &str| {
        check::answered("GET", "/api/portal/chat/me", status, &headers(kind), body.as_bytes())
            .map_err(|error| error.to_string())
    };
    let body =
        r#"{"id":"0193b3a0-0000-7000-8000-000000000001","display_name":"Ben","role":"customer_operator","tenants":[]}"#;
    me("application/json", 200, body).unwrap();
    let wrong = [
        ("application/json", 200, body.replace("customer_operator", "king"), "/role"),
        ("application/json", 200, body.replace("tenants", "companies"), "companies"),
        ("application/json", 418, body.to_owned(), "418"),
        ("text/html", 200, body.to_owned(), "text/html"),
    ];
    for (kind, status, body, named) in wrong {
        let seen = me(kind, status, &body).unwrap_err();
        assert!(seen.contains(named), "{seen}");
    }
}
