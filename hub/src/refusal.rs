//! What a refusal looks like: an `error` frame to whoever is in, a problem (RFC 9457) in answer to a request that becomes
//! neither a socket nor a stream.

use std::time::Duration;

use axum::{
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use chat_core::{
    Code, Error, Kind,
    event::ServerFrame,
    ids::{ClientMessageId, RequestId, TurnId},
    problem::{self, Details},
};
use tracing::debug;

use crate::close::Close;

/// When to come again where this hub, or somebody's address, has no room.
const NO_ROOM: Duration = Duration::from_secs(5);

/// When to come again after there were too many sockets.
pub(crate) const FULL_PATIENCE: Duration = Duration::from_secs(10);

/// When to come again where a backing service is away.
const AWAY: Duration = Duration::from_secs(2);

/// A request that is refused.
pub(crate) struct Refusal {
    close: Close,
    error: Error,
    retry_after: Option<Duration>,
}

impl Refusal {
    /// Why, in the words of a socket's end.
    pub(crate) fn close(&self) -> Close {
        self.close
    }

    /// A page that may not connect.
    pub(crate) fn foreign() -> Self {
        let error = Error::new(Code::Forbidden, "This origin may not connect.");
        Self { close: Close::Forbidden, error, retry_after: None }
    }

    /// This hub is going away; the next one is there already.
    pub(crate) fn leaving() -> Self {
        let error = Error::new(Code::Unavailable, "This hub is going away; come again.");
        Self { close: Close::Restart, error, retry_after: Some(Duration::ZERO) }
    }

    /// Too many connections of this address of which nobody knows whose they are.
    pub(crate) fn strangers() -> Self {
        let error = Error::new(Code::TooManySockets, "Too many connections without authentication.");
        Self { close: Close::OverLimit, error, retry_after: Some(NO_ROOM) }
    }

    /// This hub has no place left.
    pub(crate) fn full() -> Self {
        let error = Error::new(Code::Unavailable, "This hub is full; come again.");
        Self { close: Close::Overloaded, error, retry_after: Some(NO_ROOM) }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let retry_after = match error.kind() {
            Kind::Busy => Some(FULL_PATIENCE),
            Kind::Unavailable => Some(AWAY),
            Kind::Unauthenticated
            | Kind::Forbidden
            | Kind::NotFound
            | Kind::Invalid
            | Kind::Conflict
            | Kind::Internal => None,
        };
        Self { close: Close::of(&error), error, retry_after }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, request_id) = (self.close.status(), RequestId::new());
        debug!(%request_id, status = status.as_u16(), error = ?self.error, "request refused");
        let title = status.canonical_reason().unwrap_or("Error");
        let body = Details::of(&self.error, status.as_u16(), title, request_id).json();
        let mut response = (status, [(header::CONTENT_TYPE, problem::CONTENT_TYPE)], body).into_response();
        let headers = response.headers_mut();
        let id = HeaderValue::from_str(&request_id.to_string()).expect("a UUID is a header value");
        headers.insert("x-request-id", id);
        if self.close == Close::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
        }
        response
    }
}

/// The frame that refuses something.
pub(crate) fn frame(error: &Error, client_message_id: Option<ClientMessageId>) -> ServerFrame {
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: None, client_message_id, retry_after_ms: None }
}

/// The frame that refuses a message, and says when to try again where that may help.
pub(crate) fn retry(error: &Error, client_message_id: Option<ClientMessageId>, wait: Duration) -> ServerFrame {
    let helps = matches!(error.kind(), Kind::Busy | Kind::Unavailable);
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: None, client_message_id, retry_after_ms: helps.then_some(wait) }
}

/// The frame that refuses something about a turn.
pub(crate) fn about_turn(error: &Error, turn: TurnId) -> ServerFrame {
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: Some(turn), client_message_id: None, retry_after_ms: None }
}
