//! A service with models behind it: how it is reached, how long it is waited for, and what was learned of it.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use chat_core::config::{self, Secret, Speaks};
use futures::{StreamExt, TryStreamExt};
use reqwest::{
    Response,
    header::{CONTENT_TYPE, HeaderMap, HeaderValue},
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::io::StreamReader;

use super::{
    Prompt,
    breaker::{Breaker, Habits},
    dialect::{self, Manner},
    failure::{Failure, MAX_REFUSAL_BYTES, refusal},
    stream::{Answer, Form, Wait},
};
use crate::outside::Outside;

/// Longest wait for the body of a refusal.
const REFUSAL: Duration = Duration::from_secs(2);

/// How long a provider is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a connection, TLS included.
    pub connect: Duration,
    /// Longest wait for the first token of one try, from its beginning; half of the time that is left if there is
    /// somebody else to ask. Models that reason are silent meanwhile.
    pub first_token: Duration,
    /// Longest silence between two tokens.
    pub idle: Duration,
    /// Upper end of the random pause before the first retry; it doubles with each.
    pub pause: Duration,
    /// The turn's own limit: a pause that would outlive it is not begun.
    pub turn: Duration,
    /// When a provider is left alone.
    pub breaker: Habits,
}

impl Patience {
    /// What fits into a turn of this length: at most half of it for the first token, so that whoever hangs is found out
    /// while the turn can still say so. The rest are first guesses.
    #[must_use]
    pub fn within(turn: Duration) -> Self {
        Self {
            connect: Duration::from_secs(5),
            first_token: turn / 2,
            idle: Duration::from_secs(30).min(turn / 2),
            pause: Duration::from_millis(500),
            turn,
            breaker: Habits::default(),
        }
    }
}

/// The HTTP client of all providers. Connections are kept between turns.
pub(super) fn client(patience: Patience) -> Outside {
    Outside::new(move |builder| builder.connect_timeout(patience.connect))
}

/// A provider.
pub(super) struct Provider {
    pub(super) name: String,
    pub(super) breaker: Arc<Breaker>,
    pub(super) key: Option<Secret>,
    speaks: Speaks,
    base_url: String,
    http: Outside,
    /// What it takes of its protocol, once that is known.
    manner: AtomicU8,
}

/// One call of a provider.
pub(super) struct Call<'a> {
    /// The model, as the provider knows it.
    pub(super) model: &'a str,
    pub(super) prompt: &'a Prompt,
    pub(super) key: Option<&'a Secret>,
    /// Whether the key is the tenant's own.
    pub(super) own: bool,
    pub(super) manner: Manner,
    pub(super) wait: Wait,
}

impl Provider {
    /// Connects to nothing yet.
    pub(super) fn new(settings: &config::Provider, http: Outside, patience: Patience) -> Self {
        Self {
            name: settings.name.clone(),
            breaker: Breaker::new(patience.breaker),
            key: settings.api_key.clone(),
            speaks: settings.speaks,
            base_url: settings.base_url.clone(),
            http,
            manner: AtomicU8::new(UNKNOWN),
        }
    }

    /// Makes ready in the background what a call needs.
    pub(super) fn warm(&self) {
        self.http.warm();
    }

    /// How it is spoken to.
    pub(super) fn speaks(&self) -> Speaks {
        self.speaks
    }

    /// How to speak to it first.
    pub(super) fn manner(&self) -> Manner {
        if self.manner.load(Ordering::Relaxed) == PLAIN { Manner::Plain } else { Manner::Full }
    }

    /// Whether a refusal may mean that it does not know all of its protocol.
    pub(super) fn may_be_plain(&self) -> bool {
        dialect::has_plain(self.speaks) && self.manner.load(Ordering::Relaxed) == UNKNOWN
    }

    /// Makes one call; returns with the head of its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let request = dialect::request(self.speaks, &self.base_url, call.model, call.prompt, call.manner)?;
        let headers = dialect::headers(self.speaks, call.key)?;
        let url = format!("{}{}", self.base_url, request.path);
        let first_token = call.wait.first_token.min(call.wait.until);
        let http = self.http.client().map_err(|why| Failure::Connection(io::Error::other(why)))?;
        let response = timeout_at(first_token, http.post(url).headers(headers).json(&request.body).send())
            .await
            .map_err(|_| Failure::Silent("before an answer"))?
            .map_err(|error| Failure::Connection(lost(error)))?;
        if !response.status().is_success() {
            return Err(refused(response, call.own).await);
        }
        self.manner.store(if call.manner == Manner::Plain { PLAIN } else { FULL }, Ordering::Relaxed);
        let form = form(response.headers());
        let body = StreamReader::new(response.bytes_stream().map_err(lost));
        Ok(Answer::new(Box::pin(body), form, dialect::listener(self.speaks), call.wait))
    }
}

/// Nothing is known yet.
const UNKNOWN: u8 = 0;
/// It has taken everything.
const FULL: u8 = 1;
/// It has taken only the plain.
const PLAIN: u8 = 2;

/// How the answer comes. Services that name no type send events.
fn form(headers: &HeaderMap) -> Form {
    let kind = headers.get(CONTENT_TYPE).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    if kind.trim_start().to_ascii_lowercase().starts_with("application/json") { Form::Whole } else { Form::Events }
}

/// What a refusal is about. Of its body a little is read and nothing kept.
async fn refused(response: Response, own: bool) -> Failure {
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    if status.is_client_error() {
        let mut chunks = response.bytes_stream();
        let read = async {
            while let Some(Ok(chunk)) = chunks.next().await {
                body.extend_from_slice(&chunk[..chunk.len().min(MAX_REFUSAL_BYTES - body.len())]);
                if body.len() == MAX_REFUSAL_BYTES {
                    break;
                }
            }
        };
        let _ = timeout(REFUSAL, read).await;
    }
    refusal(status, &headers, &body, own)
}

/// A failure below HTTP, for the log.
fn lost(error: reqwest::Error) -> io::Error {
    io::Error::other(error.without_url())
}

/// The moment until which a model must be seen at work: what patience allows, but with somebody else to ask not more
/// than half of what is left of the turn.
pub(super) fn first_token(patience: Patience, until: Instant, others: bool) -> Instant {
    let now = Instant::now();
    let left = until.saturating_duration_since(now);
    now + patience.first_token.min(if others { left / 2 } else { left })
}
