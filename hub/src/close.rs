//! Why a socket or a stream ends or does not begin: the one table of close codes and statuses, with what a client shall
//! do about each.

use axum::{extract::ws::CloseFrame, http::StatusCode};
use chat_core::{Error, Kind};
use tracing::{debug, error, warn};

use crate::gate;

/// Why a socket ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The peer has left, or the connection broke; there is nobody to tell.
    Gone,
    /// This hub is going away (RFC 6455 registry: Service Restart). Reconnect.
    Restart,
    /// An operator had this person's sockets closed (same code: Service Restart). Reconnect, with a token that still holds.
    PutOut,
    /// The peer breaks the protocol. Final.
    Protocol,
    /// A binary frame; frames are text.
    Binary,
    /// A text frame that is not UTF-8.
    NotUtf8,
    /// A frame over the limit.
    TooBig,
    /// Our fault. Reconnect.
    Internal,
    /// A backing service is away. Back off.
    Overloaded,
    /// The first frame is not `auth`, or ten in a row could not be read. Final.
    BadFrames,
    /// The token is missing, bad or has expired. Final with this token.
    Unauthenticated,
    /// Not allowed (any more). Final.
    Forbidden,
    /// No such conversation, or not yours. Final.
    NotFound,
    /// No `auth` in time.
    AuthTimeout,
    /// Too slow a reader. Reconnect.
    TooSlow,
    /// Over a limit. Back off.
    OverLimit,
}

impl Close {
    /// All but [`Close::Gone`], of which nobody is told.
    pub const ALL: &[Self] = &[
        Self::Protocol,
        Self::Binary,
        Self::NotUtf8,
        Self::TooBig,
        Self::Internal,
        Self::Restart,
        Self::PutOut,
        Self::Overloaded,
        Self::BadFrames,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::AuthTimeout,
        Self::TooSlow,
        Self::OverLimit,
    ];

    /// Whether a client that comes back as it is would only be put out again.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Protocol | Self::BadFrames | Self::Unauthenticated | Self::Forbidden | Self::NotFound => true,
            Self::Gone
            | Self::Restart
            | Self::PutOut
            | Self::Binary
            | Self::NotUtf8
            | Self::TooBig
            | Self::Internal
            | Self::Overloaded
            | Self::AuthTimeout
            | Self::TooSlow
            | Self::OverLimit => false,
        }
    }

    /// The code, the status of a request that is refused for it, and a reason for the person who reads a log; at most 123
    /// bytes (RFC 6455, section 5.5).
    #[must_use]
    pub fn entry(self) -> (u16, StatusCode, &'static str) {
        match self {
            Self::Gone | Self::Restart => (1012, StatusCode::SERVICE_UNAVAILABLE, "this hub is going away, reconnect"),
            Self::PutOut => (1012, StatusCode::SERVICE_UNAVAILABLE, "closed by an operator, reconnect"),
            Self::Protocol => (1002, StatusCode::BAD_REQUEST, "protocol error"),
            Self::Binary => (1003, StatusCode::BAD_REQUEST, "frames are text"),
            Self::NotUtf8 => (1007, StatusCode::BAD_REQUEST, "text frames are UTF-8"),
            Self::TooBig => (1009, StatusCode::PAYLOAD_TOO_LARGE, "the frame is too big"),
            Self::Internal => (1011, StatusCode::INTERNAL_SERVER_ERROR, "our fault, reconnect"),
            Self::Overloaded => (1013, StatusCode::SERVICE_UNAVAILABLE, "not available at the moment, back off"),
            Self::BadFrames => (4400, StatusCode::BAD_REQUEST, "frames cannot be read, or the first was not auth"),
            Self::Unauthenticated => (4401, StatusCode::UNAUTHORIZED, "the token is missing, bad or has expired"),
            Self::Forbidden => (4403, StatusCode::FORBIDDEN, "not allowed"),
            Self::NotFound => (4404, StatusCode::NOT_FOUND, "no such conversation"),
            Self::AuthTimeout => (4408, StatusCode::REQUEST_TIMEOUT, "no auth in time"),
            Self::TooSlow => (4413, StatusCode::REQUEST_TIMEOUT, "too slow a reader, reconnect"),
            Self::OverLimit => (4429, StatusCode::TOO_MANY_REQUESTS, "over a limit, back off"),
        }
    }

    /// The frame that tells the peer; `None` where there is nobody to tell.
    #[must_use]
    pub fn frame(self) -> Option<CloseFrame> {
        let (code, _, reason) = self.entry();
        (self != Self::Gone).then(|| CloseFrame { code, reason: reason.into() })
    }

    /// The status of a request that is refused for it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.entry().1
    }

    /// The close for an error that a socket cannot be served with; logged here, since the peer learns only a code.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        match error.kind() {
            Kind::Internal => error!(?error, "socket not served"),
            Kind::Unavailable => warn!(?error, "socket not served"),
            Kind::Unauthenticated | Kind::Forbidden | Kind::NotFound | Kind::Invalid | Kind::Conflict | Kind::Busy => {
                debug!(?error, "socket not let in")
            }
        }
        error.into()
    }

    /// The close of a socket that was in: whoever finds nothing here any more has been put out since.
    #[must_use]
    pub fn put_out(error: &Error) -> Self {
        if error.kind() == Kind::NotFound { Self::Forbidden } else { Self::of(error) }
    }
}

impl From<&Error> for Close {
    fn from(error: &Error) -> Self {
        match error.kind() {
            Kind::Unauthenticated => Self::Unauthenticated,
            Kind::Forbidden => Self::Forbidden,
            Kind::NotFound => Self::NotFound,
            Kind::Invalid | Kind::Conflict => Self::BadFrames,
            Kind::Busy => Self::OverLimit,
            Kind::Unavailable => Self::Overloaded,
            Kind::Internal => Self::Internal,
        }
    }
}

/// Reads the library's complaint about what a peer sent.
impl From<axum::Error> for Close {
    fn from(error: axum::Error) -> Self {
        use tungstenite::Error as Complaint;
        match error.into_inner().downcast_ref::<Complaint>() {
            Some(Complaint::Capacity(_)) => Self::TooBig,
            Some(Complaint::Io(error)) if gate::is_shut(error) => Self::TooBig,
            Some(Complaint::Utf8(_)) => Self::NotUtf8,
            Some(Complaint::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => Self::Gone,
            Some(Complaint::Protocol(_)) => Self::Protocol,
            _ => Self::Gone,
        }
    }
}
