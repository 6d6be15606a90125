//! The one error, and the closed list of codes that clients see.
//!
//! An [`Error`] has a public half, written for the user, and a source, written for the log; the source
//! has no way into a response. It knows nothing of HTTP or sockets: each edge translates it once, by
//! [`Kind`] (`functions/conversations/src/error.rs`, `hub/src/close.rs`, `functions/orchestrator/src/batch.rs`).

use std::{borrow::Cow, error, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What this crate and its users return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What somebody must do differently. Matches on it list every arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Say who you are (again).
    Unauthenticated,
    /// You may not, and asking again will not help.
    Forbidden,
    /// There is no such thing, or it is not yours; the two are alike on purpose.
    NotFound,
    /// The request itself is wrong; mend it.
    Invalid,
    /// The request contradicts an earlier one.
    Conflict,
    /// Over a limit; come back later.
    Busy,
    /// Something this depends on is away; the same request may be sent again.
    Unavailable,
    /// Our fault; a person should look.
    Internal,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:tt => $kind:ident)*) => {
        /// The closed list of error codes, in REST problems, socket `error` frames and failed turns.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        pub enum Code {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl Code {
            /// Every code there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The code as clients and the database see it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it asks of whoever meets it.
            #[must_use]
            pub fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }
        }
    };
}

codes! {
    /// The token is missing, malformed, wrongly signed, or names nobody we know.
    Unauthenticated = "unauthenticated" => Unauthenticated
    /// The token was good once.
    TokenExpired = "token_expired" => Unauthenticated
    /// Not a tenant of yours, or not with your role.
    Forbidden = "forbidden" => Forbidden
    /// No such thing, or not yours.
    NotFound = "not_found" => NotFound
    /// A body, query, header or path that cannot be read; `errors` names the fields.
    Invalid = "invalid" => Invalid
    /// The path is there, but not with this method.
    MethodNotAllowed = "method_not_allowed" => Invalid
    /// The body is not `application/json`.
    UnsupportedMediaType = "unsupported_media_type" => Invalid
    /// The body is larger than the limit.
    PayloadTooLarge = "payload_too_large" => Invalid
    /// A socket frame that cannot be read.
    BadFrame = "bad_frame" => Invalid
    /// A socket frame whose `type` is not one of ours.
    UnknownFrame = "unknown_frame" => Invalid
    /// The text has more code points than the limit.
    TextTooLong = "text_too_long" => Invalid
    /// The text is empty or has a character that cannot be carried.
    TextRefused = "text_refused" => Invalid
    /// The same client id came before with another text.
    IdempotencyMismatch = "idempotency_mismatch" => Conflict
    /// The conversation has as many open turns as it may.
    Busy = "busy" => Busy
    /// Too many messages in too short a time.
    RateLimited = "rate_limited" => Busy
    /// The company has spent what it may on its agents this month.
    OverBudget = "over_budget" => Busy
    /// Too many sockets.
    TooManySockets = "too_many_sockets" => Busy
    /// A backing service is away; the same request may be sent again.
    Unavailable = "unavailable" => Unavailable
    /// Our fault.
    Internal = "internal" => Internal
    /// The agent's model gave no usable answer.
    ModelFailed = "model_failed" => Internal
    /// Nobody who could answer for the agent can be reached, or all of them are busy.
    ModelUnavailable = "model_unavailable" => Unavailable
    /// The agent's model would not answer this.
    ModelRefused = "model_refused" => Invalid
    /// The conversation does not fit into the agent's model.
    PromptTooLong = "prompt_too_long" => Invalid
    /// The tenant's own key for the agent's model does not open, or is not taken.
    ModelKeyRefused = "model_key_refused" => Internal
    /// The turn ran out of attempts.
    AttemptsExhausted = "attempts_exhausted" => Internal
    /// The turn did not end in time.
    DeadlineExceeded = "deadline_exceeded" => Internal
    /// The answer's channel refused it, or could not be reached.
    DeliveryFailed = "delivery_failed" => Internal
    /// Nobody can tell whether the answer, or all of it, arrived in its channel; it is not sent again.
    DeliveryUnknown = "delivery_unknown" => Internal
}

impl Code {
    /// What a user reads when a turn failed for this reason.
    #[must_use]
    #[expect(clippy::wildcard_enum_match_arm, reason = "few of the codes end turns")]
    pub fn failure(self) -> &'static str {
        match self {
            Self::ModelFailed => "The agent could not answer. Send your message again.",
            Self::ModelUnavailable => "The agent cannot be reached at the moment. Send your message again in a while.",
            Self::ModelRefused => "The agent's model would not answer this. Say it in another way.",
            Self::PromptTooLong => "This conversation is too long for the agent. Say it in fewer words, or start anew.",
            Self::ModelKeyRefused => "Your company's key for the agent's model does not work. Tell an administrator.",
            Self::AttemptsExhausted => "The agent failed several times and gave up. Send your message again.",
            Self::DeadlineExceeded => "The agent took too long and was stopped. Send your message again.",
            Self::OverBudget => {
                "Your company has used up this month's budget for its agents. An administrator can raise it."
            }
            Self::TextTooLong => "Your message is too long for the agent. Send a shorter one.",
            Self::TextRefused => "The agent can only read text, and there was none it could read in your message.",
            _ => "Something went wrong while the agent was answering. Send your message again.",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Code {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.iter().copied().find(|code| code.as_str() == text).ok_or(())
    }
}

/// One field of a request that was refused, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Where it stands: a field path (`text`), a query parameter, a header or a path segment.
    pub field: String,
    /// What is wrong with it, for the person who wrote the client.
    pub message: String,
}

/// A refusal or a failure: a code and a sentence for the user, a source for the log.
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    public: Cow<'static, str>,
    fields: Vec<FieldError>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// An error with the sentence its user will read.
    pub fn new(code: Code, public: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { code, public: public.into(), fields: Vec::new(), source: None }))
    }

    /// A field of the request is wrong: [`Code::Invalid`], naming it.
    pub fn field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let mut error = Self::new(Code::Invalid, format!("{field}: {message}"));
        error.0.fields.push(FieldError { field, message });
        error
    }

    /// Names the field that it is about.
    #[must_use]
    pub fn about(mut self, field: impl Into<String>) -> Self {
        let message = self.0.public.clone().into_owned();
        self.0.fields.push(FieldError { field: field.into(), message });
        self
    }

    /// The one answer for what is absent and for what is somebody else's.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(Code::NotFound, "There is no such conversation.")
    }

    /// A backing service did not answer. Whether the work was done may be unknown, so the same request,
    /// with the same client id, may be sent again.
    pub fn unavailable(source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Unavailable, "Not available at the moment; the same request may be sent again.").because(source)
    }

    /// Our fault; the user learns only that.
    pub fn internal(source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        Self::new(Code::Internal, "Something went wrong on our side.").because(source)
    }

    /// Adds what caused it, for the log alone.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The code that clients see.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What to do about it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.code.kind()
    }

    /// The sentence for the user.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.0.public
    }

    /// The fields of the request that were refused; empty for anything but bad input.
    #[must_use]
    pub fn fields(&self) -> &[FieldError] {
        &self.0.fields
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.public)?;
        let mut cause = error::Error::source(self);
        while let Some(source) = cause {
            write!(f, ": {source}")?;
            cause = source.source();
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.public)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_has_no_way_into_what_the_user_reads() {
        let error = Error::unavailable("password authentication failed for chat_app");
        assert!(!error.to_string().contains("password"));
        assert!(format!("{error:?}").contains("password"));
    }

    #[test]
    fn each_code_is_read_back_from_its_own_name() {
        for code in Code::ALL {
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{code}\""));
        }
    }
}
