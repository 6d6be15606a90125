//! Why a try brought no answer, what it says about the provider, and whether another one may help.

use std::{
    error, fmt, io,
    time::{Duration, SystemTime},
};

use chat_core::Code;
use reqwest::{
    StatusCode,
    header::{HeaderMap, RETRY_AFTER},
};

/// Why a try brought no answer. Nothing in it comes from prompt, text or key, so that it may be logged.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection, or it was lost before the first token.
    Connection(io::Error),
    /// The connection was lost after the first token.
    Cut(io::Error),
    /// The provider answered with this status.
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// How long it wants to be left alone.
        retry_after: Option<Duration>,
    },
    /// It does not take the key.
    KeyRefused {
        /// The HTTP status.
        status: StatusCode,
        /// Not the operator's.
        own: bool,
    },
    /// The tenant's own key does not open.
    KeySealed(chat_core::Error),
    /// Filtered out, the question or the answer.
    Withheld,
    /// The prompt does not fit into the model.
    TooLong,
    /// The provider said that it failed, after the status was sent.
    Broken,
    /// The turn's time is over.
    OutOfTime,
    /// Nothing came for too long, at this point.
    Silent(&'static str),
    /// What came is no answer, for this reason.
    Unusable(&'static str),
    /// Nobody in the settings answers for such a model.
    Unknown(&'static str),
    /// It failed so often that it is left alone for now.
    LeftAlone,
}

/// What a failure says about the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is there, and would answer others.
    There,
    /// It is away or broken.
    Away,
    /// Nothing.
    None,
}

impl Failure {
    /// How long to wait before another try, or `None` if another try is of no use: a random time up to `most` (full
    /// jitter, so that those who failed together do not come back together), after what the provider asks for.
    pub(super) fn pause(&self, most: Duration) -> Option<Duration> {
        let least = match self {
            Self::Connection(_) | Self::Broken => Duration::ZERO,
            Self::Refused { status, retry_after } if passing(*status) => retry_after.unwrap_or_default(),
            Self::Refused { .. }
            | Self::Cut(_)
            | Self::KeyRefused { .. }
            | Self::KeySealed(_)
            | Self::Withheld
            | Self::TooLong
            | Self::OutOfTime
            | Self::Silent(_)
            | Self::Unusable(_)
            | Self::Unknown(_)
            | Self::LeftAlone => return None,
        };
        Some(least.saturating_add(most.mul_f64(rand::random())))
    }

    /// What it says about the provider.
    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Connection(_) | Self::Cut(_) | Self::Broken | Self::Silent(_) => Verdict::Away,
            Self::Refused { status, .. } if status.is_server_error() => Verdict::Away,
            // 429 among them: it asks for time, and gets it.
            Self::Refused { .. } | Self::KeyRefused { .. } | Self::Withheld | Self::TooLong => Verdict::There,
            Self::KeySealed(_) | Self::OutOfTime | Self::Unusable(_) | Self::Unknown(_) | Self::LeftAlone => {
                Verdict::None
            }
        }
    }

    /// What the user is told if nobody else answers.
    pub(super) fn code(&self) -> Code {
        match self {
            Self::Connection(_) | Self::Broken | Self::Silent(_) | Self::LeftAlone => Code::ModelUnavailable,
            Self::Refused { status, .. } if passing(*status) => Code::ModelUnavailable,
            Self::KeyRefused { own: true, .. } | Self::KeySealed(_) => Code::ModelKeyRefused,
            Self::Withheld => Code::ModelRefused,
            Self::TooLong => Code::PromptTooLong,
            Self::OutOfTime => Code::DeadlineExceeded,
            Self::Refused { .. }
            | Self::KeyRefused { own: false, .. }
            | Self::Cut(_)
            | Self::Unusable(_)
            | Self::Unknown(_) => Code::ModelFailed,
        }
    }
}

/// Whether a refusal with this status may pass. 529 is Anthropic's "overloaded".
fn passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504 | 529)
}

/// Longest that is read of a refusal's body, in bytes.
pub(super) const MAX_REFUSAL_BYTES: usize = 16_384;

/// What a refusal is about. Its body is searched for the few words by which services tell, and let go: it may repeat the
/// prompt, or parts of the key.
///
/// The words are those of OpenAI, Azure, vLLM, llama.cpp, Anthropic and Gemini. A body that repeats a prompt with such
/// words in it makes the sentence to its user a wrong one, and no more.
pub(super) fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8], own: bool) -> Failure {
    const TOO_LONG: &[&str] = &[
        "context_length_exceeded",
        "maximum context length",
        "exceed_context_size",
        "prompt is too long",
        "input token count",
        "reduce the length of the messages",
    ];
    const WITHHELD: &[&str] = &["content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"];
    const KEY: &[&str] = &["API_KEY_INVALID", "invalid_api_key"];
    let body = String::from_utf8_lossy(body);
    let says = |words: &[&str]| words.iter().any(|word| body.contains(word));
    match status.as_u16() {
        401 => Failure::KeyRefused { status, own },
        403 if !says(WITHHELD) => Failure::KeyRefused { status, own },
        400 if says(KEY) => Failure::KeyRefused { status, own },
        413 => Failure::TooLong,
        400 | 422 if says(TOO_LONG) => Failure::TooLong,
        400 | 403 if says(WITHHELD) => Failure::Withheld,
        _ => Failure::Refused { status, retry_after: retry_after(headers) },
    }
}

/// The header of that name, which holds seconds or a date (RFC 9110, section 10.2.3). What cannot be read counts as
/// absent.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    /// What is longer is as good as never; and sums with it do not overflow.
    const LONGEST: Duration = Duration::from_secs(86_400);
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A date that has passed asks for no wait.
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(SystemTime::now()).unwrap_or_default(),
    };
    Some(wait.min(LONGEST))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(_) => f.write_str("no connection to the provider"),
            Self::Cut(_) => f.write_str("the connection to the provider was lost in the middle of an answer"),
            Self::Refused { status, retry_after: None } => write!(f, "the provider answered {}", status.as_u16()),
            Self::Refused { status, retry_after: Some(wait) } => {
                write!(f, "the provider answered {}, to come back in {} s", status.as_u16(), wait.as_secs())
            }
            Self::KeyRefused { status, own } => {
                let whose = if *own { "the tenant's own" } else { "our" };
                write!(f, "the provider answered {} to {whose} key", status.as_u16())
            }
            Self::KeySealed(_) => f.write_str("the tenant's own key does not open"),
            Self::Withheld => f.write_str("the provider held the answer back"),
            Self::TooLong => f.write_str("the prompt does not fit into the model"),
            Self::Broken => f.write_str("the provider failed in the middle of the stream"),
            Self::OutOfTime => f.write_str("the turn's time was over before the answer was"),
            Self::Silent(place) => write!(f, "the provider fell silent {place}"),
            Self::Unusable(why) | Self::Unknown(why) => f.write_str(why),
            Self::LeftAlone => f.write_str("the provider failed too often and is left alone"),
        }
    }
}

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connection(error) | Self::Cut(error) => Some(error),
            Self::KeySealed(error) => Some(error),
            Self::Refused { .. }
            | Self::KeyRefused { .. }
            | Self::Withheld
            | Self::TooLong
            | Self::Broken
            | Self::OutOfTime
            | Self::Silent(_)
            | Self::Unusable(_)
            | Self::Unknown(_)
            | Self::LeftAlone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_provider_says_when_to_come_back() {
        let date = |from_now| httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(from_now));
        for (text, least, most) in [
            ("0", 0, 0),
            ("7", 7, 7),
            (" 7 ", 7, 7),
            ("18446744073709551615", 86_400, 86_400),
            (&date(60), 58, 60),
            ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            let wait = retry_after(&headers).unwrap_or_else(|| panic!("{text}")).as_secs();
            assert!((least..=most).contains(&wait), "{text}: {wait}");
        }
        for text in ["", "soon", "-1"] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers), None, "{text}");
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let most = Duration::from_millis(100);
        for (status, again) in [
            (301, false),
            (400, false),
            (401, false),
            (404, false),
            (408, false),
            (429, true),
            (500, true),
            (501, false),
            (502, true),
            (503, true),
            (504, true),
            (529, true),
        ] {
            let wait = Duration::from_secs(3);
            let status = StatusCode::from_u16(status).unwrap();
            let pause = Failure::Refused { status, retry_after: Some(wait) }.pause(most);
            assert_eq!(pause.is_some(), again, "{status}");
            assert!(pause.is_none_or(|pause| (wait..=wait + most).contains(&pause)), "{status}: {pause:?}");
        }
        assert_eq!(Failure::Silent("").pause(most), None);
        assert_eq!(Failure::Unusable("").pause(most), None);
    }

    #[test]
    fn what_a_refusal_is_about_is_found_in_its_body() {
        let about = |status, body: &str, own| {
            let status = StatusCode::from_u16(status).unwrap();
            let failure = refusal(status, &HeaderMap::new(), body.as_bytes(), own);
            (failure.code(), failure.verdict())
        };
        for (status, body, own, expected) in [
            (400, r#"{"error":{"code":"context_length_exceeded"}}"#, false, (Code::PromptTooLong, Verdict::There)),
            (
                400,
                r#"{"error":{"message":"prompt is too long: 9 tokens > 8"}}"#,
                false,
                (Code::PromptTooLong, Verdict::There),
            ),
            (413, "", false, (Code::PromptTooLong, Verdict::There)),
            (400, r#"{"error":{"code":"content_filter"}}"#, false, (Code::ModelRefused, Verdict::There)),
            (
                400,
                r#"{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}"#,
                true,
                (Code::ModelKeyRefused, Verdict::There),
            ),
            (400, "", true, (Code::ModelFailed, Verdict::There)),
            (401, "", false, (Code::ModelFailed, Verdict::There)),
            (401, "", true, (Code::ModelKeyRefused, Verdict::There)),
            (403, "", true, (Code::ModelKeyRefused, Verdict::There)),
            (404, "context_length_exceeded", false, (Code::ModelFailed, Verdict::There)),
            (429, "content_filter", true, (Code::ModelUnavailable, Verdict::There)),
            (500, "content_filter", false, (Code::ModelUnavailable, Verdict::Away)),
            (501, "", false, (Code::ModelFailed, Verdict::Away)),
        ] {
            assert_eq!(about(status, body, own), expected, "{status} {body}");
        }
    }
}
