//! What each route needs beside its path, so that whoever goes through all of them gets as far as the route itself.

use serde_json::{Value, json};

/// The body that a route takes with a method, if it takes one. `path` is as in `ROUTES`, with or without its ids.
///
/// Opening a conversation names a company and an agent, which only the caller knows.
#[must_use]
pub fn body(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("POST", path) if path.ends_with("/messages") => Some(json!({"text": "let me in"})),
        ("PUT", path) if path.ends_with("/read") => Some(json!({"seq": 1})),
        ("PUT", path) if path.ends_with("/feedback") => Some(json!({"rating": "up", "comment": "let me in"})),
        ("PATCH", _) => Some(json!({"title": "let me in"})),
        ("POST", _) => Some(json!({})),
        _ => None,
    }
}

/// What stands in the query of a route beside the company.
#[must_use]
pub fn query(path: &str) -> &'static str {
    match path {
        "/search" => "&q=answer",
        "/usage" => "&from=2026-01-01&to=2026-12-31",
        _ => "",
    }
}
