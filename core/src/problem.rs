//! The body of a refusal over HTTP, as RFC 9457 names its members, and ours. Its status is each edge's own.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, FieldError},
    ids::RequestId,
};

/// What a refused caller reads.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct Details<'a> {
    /// The kind of problem: `urn:konstruct:chat:` and the code.
    r#type: String,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// A sentence for the user.
    detail: &'a str,
    /// One of the closed list.
    code: Code,
    /// This request, as in `x-request-id`; an operator finds it in the log by that.
    request_id: RequestId,
    /// Each field that was refused; absent where it is about none.
    #[schema(required = false)]
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
