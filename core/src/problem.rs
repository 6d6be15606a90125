//! The body of a refusal over HTTP, as RFC 9457 names its members, and ours. Its status is each edge's own.

use serde::Serialize;

use crate::{
    error::{Code, Error, FieldError},
    ids::RequestId,
};

/// What a refused caller reads.
#[derive(Debug, Serialize)]
pub struct Details<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: Code,
    request_id: RequestId,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
}

/// Its `Content-Type`.
pub const CONTENT_TYPE: &str = "application/problem+json";

impl<'a> Details<'a> {
    /// An error's public half, under the status that an edge gives it and that status's own name.
    #[must_use]
    pub fn of(error: &'a Error, status: u16, title: &'a str, request_id: RequestId) -> Self {
        Self {
            r#type: format!("urn:konstruct:chat:{}", error.code()),
            title,
            status,
            detail: error.public(),
            code: error.code(),
            request_id,
            errors: error.fields(),
        }
    }

    /// It as it is written.
    ///
    /// # Panics
    /// Never: text and numbers are always JSON.
    #[must_use]
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers are always JSON")
    }
}
