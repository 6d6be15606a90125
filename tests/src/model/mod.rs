//! Plays a provider of models: a real HTTP server on loopback that speaks OpenAI's chat completions, and does with each
//! call what a script says. It answers, refuses, hangs, breaks off.

mod calls;
mod speech;

use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use calls::Log;
pub use calls::{Call, Outcome};

/// A provider that does what a script says. Dropping it frees its port and ends the calls under way: those that hang
/// with 503, those that pause by closing the connection.
pub struct ScriptedModel {
    base_url: String,
    log: Log,
    _stop: DropGuard,
}

/// What was asked in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The model's name.
    pub model: String,
    /// The system prompt: the content of a first message whose role is `system`.
    pub system: Option<String>,
    /// Every message after the system prompt, as role and content, oldest first; the last one, too.
    pub said: Vec<(String, String)>,
    /// The last message with the role `user`, which is the one to answer.
    pub message: String,
    /// How often a call with exactly this last message came, from 1.
    pub nth: usize,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// What to do with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Stream the text, and end properly.
    Answer {
        /// The whole text.
        text: String,
        /// Events that it comes in, at most; each has a character at least.
        pieces: usize,
        /// Time before the first piece and between two.
        pause: Duration,
    },
    /// Answer with an HTTP status and a JSON error.
    Refuse {
        /// The status, from 400 to 599.
        status: u16,
        /// The header `Retry-After`, as it stands.
        retry_after: Option<String>,
    },
    /// Take the call and never answer, until the caller leaves.
    Hang,
    /// Stream that much, then close the TCP connection: the body's last chunk never comes.
    CutAfter {
        /// What is streamed until then; nothing but the head if it is empty.
        text: String,
        /// Events that it comes in, at most.
        pieces: usize,
        /// Time before the first piece and between two.
        pause: Duration,
    },
    /// Stream that much, then end the body properly, but without `finish_reason` and `[DONE]`.
    EndEarly {
        /// What is streamed until then.
        text: String,
    },
    /// Status 200, and events that are no JSON.
    Garbage,
}

impl Act {
    /// Answers with this text at once, in three pieces.
    #[must_use]
    pub fn answer(text: impl Into<String>) -> Self {
        Self::Answer { text: text.into(), pieces: 3, pause: Duration::ZERO }
    }
}

impl ScriptedModel {
    /// Starts one on a free port. The script is asked once for each call, in the order in which they come; it may look
    /// at all that was asked, and keeps what it wants to know of it.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let base_url = format!("http://{}/v1", listener.local_addr()?);
        let stop = CancellationToken::new();
        let log = Log::default();
        let router = speech::router(script, log.clone(), stop.clone());
        // Not aborted: connections outlive the listener, so it is the token that ends them.
        tokio::spawn(
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future(),
        );
        Ok(Self { base_url, log, _stop: stop.drop_guard() })
    }

    /// What stands before `/chat/completions`: for `MODEL_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The calls until now, oldest first; the 100,000 last ones.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.log.calls()
    }
}
