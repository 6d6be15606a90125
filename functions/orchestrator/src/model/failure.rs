//! Why a try brought no answer, and whether another one may.

use std::{
    error, fmt, io,
    time::{Duration, SystemTime},
};

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
    /// Nothing came for too long, at this point.
    Silent(&'static str),
    /// What came is no answer, for this reason.
    Unusable(&'static str),
}

impl Failure {
    /// How long to wait before another try, or `None` if another try is of no use: a random time up to `most` (full
    /// jitter, so that those who failed together do not come back together), after what the provider asks for.
    pub(super) fn pause(&self, most: Duration) -> Option<Duration> {
        let least = match self {
            Self::Connection(_) => Duration::ZERO,
            Self::Refused { status, retry_after } if passing(*status) => retry_after.unwrap_or_default(),
            Self::Refused { .. } | Self::Cut(_) | Self::Silent(_) | Self::Unusable(_) => return None,
        };
        Some(least.saturating_add(most.mul_f64(rand::random())))
    }
}

/// Whether a refusal with this status may pass.
fn passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504)
}

/// The header of that name, which holds seconds or a date (RFC 9110, section 10.2.3). What cannot be read counts as
/// absent.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
            Self::Silent(place) => write!(f, "the provider fell silent {place}"),
            Self::Unusable(why) => f.write_str(why),
        }
    }
}

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Connection(error) | Self::Cut(error) => Some(error),
            Self::Refused { .. } | Self::Silent(_) | Self::Unusable(_) => None,
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
}
