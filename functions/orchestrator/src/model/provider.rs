//! A service that speaks OpenAI's chat completions, streamed: one prompt out, one whole answer back or none.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat/create>, and its streaming events.

use std::{io, time::Duration};

use chat_core::{
    Code, Error, Result,
    config::{self, Secret},
};
use futures::TryStreamExt;
use reqwest::{Client, redirect};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::io::StreamReader;
use tracing::warn;

use super::{
    Prompt, Said,
    failure::{Failure, retry_after},
    stream,
};

/// How often a prompt is sent again at most, after the first time.
const RETRIES: u32 = 2;

/// How long a provider is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Longest wait for a connection, TLS included.
    pub connect: Duration,
    /// Longest wait for the first token of one try, from its beginning. Models that reason are silent meanwhile.
    pub first_token: Duration,
    /// Longest silence between two tokens.
    pub idle: Duration,
    /// Upper end of the random pause before the first retry; it doubles with each.
    pub pause: Duration,
    /// The turn's own limit: a pause that would outlive it is not begun.
    pub turn: Duration,
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
        }
    }
}

/// A provider. Connections are kept between turns.
pub struct Provider {
    http: Client,
    url: String,
    key: Option<Secret>,
    patience: Patience,
}

impl Provider {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// If this machine has no certificates to know it by.
    pub fn new(settings: &config::Provider, patience: Patience) -> Result<Self, reqwest::Error> {
        // Nobody leads us, and with us the key, elsewhere: no redirects, no proxies from the environment.
        let http = Client::builder()
            .connect_timeout(patience.connect)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()?;
        let url = format!("{}/chat/completions", settings.base_url);
        Ok(Self { http, url, key: settings.api_key.clone(), patience })
    }

    /// Asks `model`. Tries again where nothing has been said yet and the failure may pass. Dropping the future closes
    /// the connection.
    ///
    /// # Errors
    /// [`Code::ModelFailed`], for all that can go wrong; what it was is in the source.
    pub async fn answer(&self, model: &str, prompt: &Prompt) -> Result<String> {
        let deadline = Instant::now() + self.patience.turn;
        let body = Request::new(model, prompt);
        let mut tries = 0;
        loop {
            let failure = match self.ask(&body).await {
                Ok(text) => return Ok(text),
                Err(failure) => failure,
            };
            let pause = failure.pause(self.patience.pause * 2_u32.pow(tries));
            match pause.filter(|pause| tries < RETRIES && Instant::now() + *pause < deadline) {
                Some(pause) => {
                    warn!(%failure, pause_ms = pause.as_millis(), "the model's provider failed; trying again");
                    sleep(pause).await;
                    tries += 1;
                }
                None => return Err(Error::new(Code::ModelFailed, Code::ModelFailed.failure()).because(failure)),
            }
        }
    }

    /// One try.
    async fn ask(&self, body: &Request<'_>) -> Result<String, Failure> {
        let first_token = Instant::now() + self.patience.first_token;
        let mut request = self.http.post(&self.url).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose());
        }
        let response = timeout_at(first_token, request.send())
            .await
            .map_err(|_| Failure::Silent("before an answer"))?
            .map_err(|error| Failure::Connection(lost(error)))?;
        let status = response.status();
        if !status.is_success() {
            // What it says about that stays unread: it may repeat the prompt, or parts of the key.
            return Err(Failure::Refused { status, retry_after: retry_after(response.headers()) });
        }
        let body = StreamReader::new(response.bytes_stream().map_err(lost));
        stream::read(body, first_token, self.patience.idle).await
    }
}

/// A failure below HTTP, for the log.
fn lost(error: reqwest::Error) -> io::Error {
    io::Error::other(error.without_url())
}

/// The body of a request.
#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    messages: Vec<Message<'a>>,
    stream: bool,
}

/// Something that was said.
#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: &'a str,
}

impl<'a> Request<'a> {
    fn new(model: &'a str, prompt: &'a Prompt) -> Self {
        let system = Some(("system", prompt.system.as_str())).filter(|(_, text)| !text.trim().is_empty());
        let said = prompt.said.iter().map(|said| match said {
            Said::User(text) => ("user", text.as_str()),
            Said::Agent { text, .. } => ("assistant", text.as_str()),
            Said::Tool { result, .. } => ("tool", result.as_str()),
        });
        let said = system.into_iter().chain(said);
        Self { model, messages: said.map(|(role, content)| Message { role, content }).collect(), stream: true }
    }
}
