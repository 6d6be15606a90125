//! The documents of the interface: [`openapi`] of REST, [`asyncapi`] of the socket, [`typescript`] of both for clients. They are
//! made of what stands beside the handlers and the frames; `cargo describe` writes them to `docs/`, a test compares, and
//! [`check`] holds what the tests send and receive to them.

pub mod asyncapi;
pub mod check;
pub mod openapi;
pub mod recording;
pub mod scenes;
pub mod typescript;

use anyhow::Result;
use serde_json::Value;

/// Every document: its path in the repository, and what it is. Its examples are what a running product has just answered.
///
/// # Errors
/// What the product did otherwise than it should, or than is documented.
pub async fn documents() -> Result<Vec<(String, String)>> {
    let (mut rest, mut socket) = (openapi::document(), asyncapi::document());
    let declarations = typescript::declarations(&rest, &socket);
    let recording = scenes::record().await?;
    openapi::illustrate(&mut rest, &recording);
    asyncapi::illustrate(&mut socket, &recording)?;
    let mut documents = vec![
        ("docs/openapi.json".to_owned(), written(&rest)),
        ("docs/asyncapi.json".to_owned(), written(&socket)),
        ("docs/konstruct-chat.d.ts".to_owned(), declarations),
    ];
    let transcripts = recording.transcripts.into_iter();
    documents.extend(transcripts.map(|(name, lines)| (format!("docs/transcripts/{name}.txt"), lines)));
    Ok(documents)
}

fn written(document: &Value) -> String {
    format!("{document:#}\n")
}

/// The entries of an object; none for anything else.
pub(crate) fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// The text of a value; empty for anything else.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
