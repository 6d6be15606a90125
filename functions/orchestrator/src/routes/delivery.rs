//! A call of a channel's service, and what is known of it afterwards.
//!
//! A message cannot be taken back, and the services know no key by which they would tell a second try from a second
//! message. So each failure says whether the message certainly did not arrive ([`Failure::Later`], [`Failure::Refused`])
//! or nobody can tell ([`Failure::Unknown`]); only the first is tried again.
//!
//! Each call has a connection of its own. A kept one may be closed by its server, or die while the environment is
//! frozen, and a request written into it is one of which nobody can tell; that would cost messages to save a handshake.

use std::{error, fmt, future::Future, sync::Arc, time::Duration};

use chat_core::{
    Code, Error, Result,
    config::{self, Secret},
    ids::TenantId,
    sealed::Sealer,
    store::connections::Connection,
};
use reqwest::{
    StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::outside::Outside;

/// How often a call is made again at most, after the first time.
const RETRIES: u32 = 3;

/// Longest answer of a service that is read, in bytes. Slack's repeats the whole message, twice.
const MAX_ANSWER_BYTES: usize = 262_144;

/// The longest pause that a service may ask for; what is longer is as good as never.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// How long a service is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a connection, TLS included: nothing was sent then.
    pub connect: Duration,
    /// Longest wait for the whole answer, the connection included.
    pub answer: Duration,
    /// Upper end of the random pause before the first retry; it doubles with each.
    pub pause: Duration,
}

impl Patience {
    /// What fits into a turn of this length. First guesses: both services answer within a second.
    #[must_use]
    pub fn within(turn: Duration) -> Self {
        Self {
            connect: Duration::from_secs(5).min(turn / 9),
            answer: Duration::from_secs(20).min(turn / 9),
            pause: Duration::from_millis(500),
        }
    }
}

/// The services behind the channels. Cheap to clone.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

struct Inner {
    http: Outside,
    settings: config::Channels,
    sealer: Sealer,
    text_chars: usize,
    patience: Patience,
}

impl Channels {
    /// Connects to nothing yet. `text_chars` is the longest message that is taken in, in Unicode code points.
    #[must_use]
    pub fn new(settings: &config::Channels, sealing: &config::Sealing, text_chars: usize, patience: Patience) -> Self {
        let (settings, sealer) = (settings.clone(), Sealer::new(sealing));
        let http = Outside::new(move |builder| {
            builder.connect_timeout(patience.connect).timeout(patience.answer).pool_max_idle_per_host(0)
        });
        Self(Arc::new(Inner { http, settings, sealer, text_chars, patience }))
    }

    /// Where the services are.
    pub(super) fn settings(&self) -> &config::Channels {
        &self.0.settings
    }

    /// The longest message that is taken in, in Unicode code points.
    #[must_use]
    pub fn text_chars(&self) -> usize {
        self.0.text_chars
    }

    /// The token of a connection.
    ///
    /// # Errors
    /// [`Code::Internal`], naming the connection, if it has none or it does not open.
    pub fn token(&self, tenant: TenantId, connection: &Connection) -> Result<Secret> {
        let sealed = connection.credentials.as_deref();
        let sealed =
            sealed.ok_or_else(|| Error::internal(format!("the connection {} has no credentials", connection.id)))?;
        self.0.sealer.open(tenant, &connection.purpose(), sealed)
    }

    /// One call: a JSON body and a token there, a status and a JSON body back.
    pub(super) async fn post(&self, url: &str, token: &Secret, body: &impl Serialize) -> Result<Answer, Failure> {
        let http = self.0.http.client().map_err(|why| Failure::Later { why, after: None })?;
        let request = http.post(url).bearer_auth(token.expose());
        let request = request.header(CONTENT_TYPE, "application/json; charset=utf-8").json(body);
        let mut response = request.send().await.map_err(|error| lost(&error))?;
        let status = response.status();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let mut body = Vec::new();
        // A status says enough where the body is lost; where it does not, whoever reads an empty body finds out.
        while let Ok(Some(chunk)) = response.chunk().await {
            if body.len() + chunk.len() > MAX_ANSWER_BYTES {
                body.clear();
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer { status, retry_after, body })
    }

    /// Longest time that one call takes.
    #[must_use]
    pub fn longest_call(&self) -> Duration {
        self.0.patience.answer
    }

    /// Makes a call until it succeeds, is refused, or nobody can tell; with pauses, as long as the service asks for. None
    /// begins after `deadline`. What may be `repeated` is called again even where nobody can tell.
    pub(super) async fn persist<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        deadline: Instant,
        repeated: bool,
        call: impl Fn() -> F,
    ) -> Result<T, Failure> {
        let mut tries = 0;
        if Instant::now() >= deadline {
            return Err(Failure::Later { why: "the turn has no time left".to_owned(), after: None });
        }
        loop {
            let failure = match call().await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            let least = match &failure {
                Failure::Later { after, .. } => after.unwrap_or_default().min(LONGEST_PAUSE),
                Failure::Unknown(_) if repeated => Duration::ZERO,
                Failure::Refused(_) | Failure::Unknown(_) => return Err(failure),
            };
            let pause = least + (self.0.patience.pause * 2_u32.pow(tries)).mul_f64(rand::random());
            if tries == RETRIES || Instant::now() + pause >= deadline {
                return Err(failure);
            }
            warn!(%failure, pause_ms = pause.as_millis(), "the channel's service failed; trying again");
            sleep(pause).await;
            tries += 1;
        }
    }
}

/// What a service answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// Why a message did not arrive, or may not have. Nothing in it comes from text or token, so that it may be logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It certainly did not, and may another time.
    Later {
        /// Why.
        why: String,
        /// How long the service wants to be left alone.
        after: Option<Duration>,
    },
    /// It certainly did not and will not.
    Refused(String),
    /// Nobody can tell.
    Unknown(String),
}

impl Failure {
    /// How the turn ends.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Later { .. } | Self::Refused(_) => Code::DeliveryFailed,
            Self::Unknown(_) => Code::DeliveryUnknown,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later { why, after: None } => write!(f, "not sent: {why}"),
            Self::Later { why, after: Some(after) } => write!(f, "not sent: {why}, again in {} s", after.as_secs()),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Unknown(why) => write!(f, "perhaps sent: {why}"),
        }
    }
}

impl error::Error for Failure {}

/// No answer. What failed before there was a connection was not sent; of everything later nobody can tell.
fn lost(error: &reqwest::Error) -> Failure {
    if error.is_connect() {
        Failure::Later { why: "no connection".to_owned(), after: None }
    } else if error.is_builder() {
        Failure::Refused("no such address or token".to_owned())
    } else if error.is_timeout() {
        Failure::Unknown("no answer in time".to_owned())
    } else {
        Failure::Unknown("the connection was lost".to_owned())
    }
}
