//! The documents of the interface: whole, fresh, and true.

use std::{collections::BTreeSet, fs, path::Path};

use chat_core::event::CLIENT_FRAMES;
use conversations::ROUTES;
use harness::described::{asyncapi, documents, openapi};
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
