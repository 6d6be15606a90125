//! This edge's reading of an error: a status and an RFC 9457 problem body. The only HTTP statuses of the function.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{MatchedPath, Request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use chat_core::{
    Code, Error, Kind,
    ids::RequestId,
    problem::{self, Details},
};
use http::{HeaderValue, StatusCode, header};
use tracing::{debug, error, warn};

/// An error on its way out.
#[derive(Debug)]
pub struct Problem {
    error: Error,
    /// When the same request may succeed, where that is known.
    retry_after: Option<Duration>,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

impl Problem {
    /// The caller sends faster than they may, and may go on after `wait`.
    pub(crate) fn too_fast(wait: Duration) -> Self {
        let error = Error::new(Code::RateLimited, "Too much at once; wait a moment.");
        Self { error, retry_after: Some(wait) }
    }
}

/// When to come back after a refusal for load, in seconds, where nobody knows better.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");

fn status(error: &Error) -> StatusCode {
    match (error.kind(), error.code()) {
        (Kind::Invalid, Code::MethodNotAllowed) => StatusCode::METHOD_NOT_ALLOWED,
        (Kind::Invalid, Code::UnsupportedMediaType) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        (Kind::Invalid, Code::PayloadTooLarge) => StatusCode::PAYLOAD_TOO_LARGE,
        (Kind::Invalid, _) => StatusCode::BAD_REQUEST,
        (Kind::Unauthenticated, _) => StatusCode::UNAUTHORIZED,
        (Kind::Forbidden, _) => StatusCode::FORBIDDEN,
        (Kind::NotFound, _) => StatusCode::NOT_FOUND,
        // A repeated key with another body (draft-ietf-httpapi-idempotency-key-header, section 2.7).
        (Kind::Conflict, _) => StatusCode::UNPROCESSABLE_ENTITY,
        (Kind::Busy, _) => StatusCode::TOO_MANY_REQUESTS,
        (Kind::Unavailable, _) => StatusCode::SERVICE_UNAVAILABLE,
        (Kind::Internal, _) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    /// A response without a body yet: [`with_request_id`] writes that, once, where the request is known.
    fn into_response(self) -> Response {
        let mut response = status(&self.error).into_response();
        response.extensions_mut().insert(std::sync::Arc::new(self));
        response
    }
}

/// Gives each request an id, writes the problem body that names it, and logs what failed.
pub(crate) async fn with_request_id(request: Request, next: Next) -> Response {
    let request_id = RequestId::new();
    let method = request.method().clone();
    // Not the path itself: what stands there may be anything, somebody's token too.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    let route = route.as_ref().map(MatchedPath::as_str);
    if let Some(problem) = response.extensions_mut().remove::<std::sync::Arc<Problem>>() {
        let error = &problem.error;
        match error.kind() {
            Kind::Internal => error!(%request_id, %method, route, ?error, "request failed"),
            Kind::Unavailable => warn!(%request_id, %method, route, ?error, "request not served"),
            Kind::Unauthenticated | Kind::Forbidden | Kind::NotFound | Kind::Invalid | Kind::Conflict | Kind::Busy => {
                debug!(%request_id, %method, route, ?error, "request refused")
            }
        }
        write(&mut response, &problem, request_id);
    }
    let id = HeaderValue::from_str(&request_id.to_string()).expect("a UUID is a header value");
    response.headers_mut().insert("x-request-id", id);
    response
}

fn write(response: &mut Response, problem: &Problem, request_id: RequestId) {
    let error = &problem.error;
    let status = status(error);
    let title = status.canonical_reason().unwrap_or("Error");
    let body = Details::of(error, status.as_u16(), title, request_id);
    *response.body_mut() = Body::from(body.json());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(problem::CONTENT_TYPE));
    match error.kind() {
        Kind::Unauthenticated => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Kind::Busy | Kind::Unavailable => {
            // Whole seconds, rounded up: who comes back then is not too early.
            let seconds = problem.retry_after.map(|wait| HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
            headers.insert(header::RETRY_AFTER, seconds.unwrap_or(RETRY_AFTER));
        }
        Kind::Forbidden | Kind::NotFound | Kind::Invalid | Kind::Conflict | Kind::Internal => {}
    }
}
