//! Plays a provider of models: a real HTTP server on loopback that speaks OpenAI's chat completions, Anthropic's messages
//! and the Gemini API, and does with each call what a script says. It answers, calls tools, refuses, hangs, breaks off.
//!
//! It is as strict as the real services are: what they refuse, it refuses, in [`openai`], [`anthropic`] and [`gemini`].

mod anthropic;
mod calls;
mod gemini;
mod openai;
mod speech;

use std::time::Duration;

use anyhow::Result;
use chat_core::config::Speaks;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use calls::Log;
pub use calls::{Call, Outcome};

/// A provider that does what a script says. Dropping it frees its port and ends the calls under way: those that hang
/// with 503, those that pause by closing the connection.
pub struct ScriptedModel {
    origin: String,
    base_url: String,
    log: Log,
    _stop: DropGuard,
}

/// What was asked in one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The protocol it came in.
    pub speaks: Speaks,
    /// The model's name.
    pub model: String,
    /// The system prompt.
    pub system: Option<String>,
    /// Every message after the system prompt, as role and words, oldest first; the last one, too. Roles are `user`,
    /// `assistant` and `tool`; one that only calls tools has no words. Where a protocol has several texts in one message,
    /// they are several here.
    pub said: Vec<(String, String)>,
    /// The last words with the role `user`, which are the ones to answer.
    pub message: String,
    /// How often a call with exactly this last message came, from 1.
    pub nth: usize,
    /// The header that holds the key: `Authorization`, `x-api-key` or `x-goog-api-key`.
    pub authorization: Option<String>,
    /// The names of the tools it may call.
    pub tools: Vec<String>,
    /// What the model called before: id, where the protocol has one, name and arguments.
    pub called: Vec<(String, String, Value)>,
    /// The temperature.
    pub temperature: Option<f64>,
    /// The longest answer, in tokens.
    pub max_tokens: Option<u64>,
    /// Whether the caller wants to know what the answer took: OpenAI's `stream_options`; the others always tell.
    pub wants_usage: bool,
}

/// What to do with a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Stream the text, and end properly. The last event says what it took: [`words`] of the prompt and of the answer.
    Answer {
        /// The whole text.
        text: String,
        /// Events that it comes in, at most; each has a character at least.
        pieces: usize,
        /// Time before the first piece and between two.
        pause: Duration,
    },
    /// Answer with one JSON document instead of a stream.
    Whole {
        /// The whole text.
        text: String,
    },
    /// Say the text, then call tools, and end properly.
    Call {
        /// Words before the calls; may be empty.
        text: String,
        /// Names and arguments.
        calls: Vec<(String, Value)>,
    },
    /// End as the protocol does where a filter has held the answer back.
    Withhold,
    /// Say in the stream that something went wrong, after some words.
    Fail {
        /// What is streamed until then.
        text: String,
    },
    /// Answer with an HTTP status and a JSON error.
    Refuse {
        /// The status, from 400 to 599.
        status: u16,
        /// The header `Retry-After`, as it stands.
        retry_after: Option<String>,
    },
    /// Refuse a prompt because it is too long, in the protocol's words.
    TooLong,
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
    /// Stream that much, then end the body properly, but without the protocol's end.
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
        let origin = format!("http://{}", listener.local_addr()?);
        let base_url = format!("{origin}/v1");
        let stop = CancellationToken::new();
        let log = Log::default();
        let router = speech::router(script, log.clone(), stop.clone());
        // Not aborted: connections outlive the listener, so it is the token that ends them.
        tokio::spawn(
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future(),
        );
        Ok(Self { origin, base_url, log, _stop: stop.drop_guard() })
    }

    /// What stands before `/chat/completions` and `/messages`: for `MODEL_BASE_URL`.
    #[must_use]
    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// What stands before a protocol's own path.
    #[must_use]
    pub fn base_url_for(&self, speaks: Speaks) -> String {
        match speaks {
            Speaks::OpenAi | Speaks::Anthropic => self.base_url.clone(),
            Speaks::Gemini => format!("{}/v1beta", self.origin),
        }
    }

    /// The calls until now, oldest first; the 100,000 last ones.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.log.calls()
    }
}

/// What a text takes, in the tokens of this provider: its words.
#[must_use]
pub fn words(text: &str) -> u64 {
    u64::try_from(text.split_whitespace().count()).expect("no text has so many words")
}

impl Asked {
    /// What the prompt takes, in the tokens of this provider.
    #[must_use]
    pub fn input_tokens(&self) -> u64 {
        words(self.system.as_deref().unwrap_or_default()) + self.said.iter().map(|(_, text)| words(text)).sum::<u64>()
    }
}
