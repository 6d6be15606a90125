//! The models behind the agents.
//!
//! [`Models`] sends each prompt to whom the agent's model names: [`Builtin`], or the [`provider`], which speaks to a
//! service. [`stream`] reads what that service sends, [`failure`] says what went wrong and whether to try again.

mod failure;
pub mod prompt;
pub mod provider;
mod stream;

use chat_core::{Code, Error, Result, config};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self as streams, BoxStream},
};

pub use prompt::{Prompt, Said, ToolCall, ToolSpec};
use provider::{Patience, Provider};

/// Answers prompts, piece by piece.
pub trait Model: Send + Sync + 'static {
    /// Answers one. `purse` is asked before each call that costs money. The last piece is an [`End`](Piece::End) or an
    /// error; what came before an error is no answer. Dropping the stream gives the call up.
    ///
    /// # Errors
    /// [`Code::ModelFailed`] where no usable answer came; what the purse refused with.
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>>;
}

/// Pays for calls.
pub trait Purse: Send + Sync {
    /// Reserves what one call of `model` may cost, before it is made.
    ///
    /// # Errors
    /// If it may not be made; then nobody is asked.
    fn reserve<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<()>>;

    /// Hears what is about to be asked, to know what each call for it may cost.
    fn expect(&self, _prompt: &Prompt) {}

    /// Hears how the answer ended, and so what the last call took.
    fn settle(&self, _ended: &Ended) {}
}

/// Asks a model at the expense of a purse, which hears before and after what it pays for.
///
/// # Errors
/// Those of [`Model::speak`].
pub fn ask<'a>(model: &'a dyn Model, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
    purse.expect(prompt);
    let heard = |piece: &Result<Piece>| {
        if let Ok(Piece::End(ended)) = piece {
            purse.settle(ended);
        }
    };
    model.speak(prompt, purse).inspect(heard).boxed()
}

/// A purse that never ends.
pub struct Unlimited;

impl Purse for Unlimited {
    fn reserve<'a>(&'a self, _model: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// Words, in their order; never empty.
    Text(String),
    /// What came so far does not count: somebody else is asked, from the beginning.
    Anew,
    /// The model wants a tool.
    Call(ToolCall),
    /// The answer is complete.
    End(Ended),
}

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The model that gave it, as the agent names it.
    pub model: String,
    /// What it took, where the provider tells.
    pub usage: Option<Usage>,
}

/// What an answer took, in the model's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Read.
    pub input_tokens: u64,
    /// Written.
    pub output_tokens: u64,
}

/// The model that is built in.
const ECHO: &str = "echo";

/// Whether a model is built in: it costs nothing, and understands nothing.
#[must_use]
pub fn is_builtin(model: &str) -> bool {
    model == ECHO
}

/// The models that need nothing from outside. There is one, `echo`: it repeats what it is told, so that a machine
/// without a key has somebody to talk to.
pub struct Builtin;

impl Model for Builtin {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        builtin(prompt.models.first().map_or("", String::as_str), prompt)
    }
}

fn builtin<'a>(model: &'a str, prompt: &'a Prompt) -> BoxStream<'a, Result<Piece>> {
    at_once(model, async move {
        match model {
            ECHO => Ok(format!("Echo: {}", prompt.message())),
            other => Err(unavailable(format!("no provider for the model {other}"))),
        }
    })
}

/// An answer that comes in one piece, said by `model`.
pub fn at_once<'a>(
    model: &'a str,
    answer: impl Future<Output = Result<String>> + Send + 'a,
) -> BoxStream<'a, Result<Piece>> {
    let pieces = move |answer: Result<String>| match answer {
        Ok(text) => vec![Ok(Piece::Text(text)), Ok(Piece::End(Ended { model: model.to_owned(), usage: None }))],
        Err(error) => vec![Err(error)],
    };
    streams::once(answer).flat_map(move |answer| streams::iter(pieces(answer))).boxed()
}

/// Every model there is: `echo`, and behind a provider all others.
pub struct Models {
    provider: Option<Provider>,
    default: Option<String>,
}

impl Models {
    /// The models that the settings name.
    ///
    /// # Errors
    /// If this machine has no certificates to know a provider by.
    pub fn new(settings: &config::Model, patience: Patience) -> Result<Self, reqwest::Error> {
        let provider = settings.provider.as_ref().map(|provider| Provider::new(provider, patience)).transpose()?;
        Ok(Self { provider, default: settings.default.clone() })
    }
}

impl Model for Models {
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let named = prompt.models.first().map_or("", |model| model.trim());
        let model = match (named, self.default.as_deref()) {
            ("" | "default", Some(default)) => default,
            ("" | "default", None) => {
                return streams::iter([Err(unavailable("MODEL_DEFAULT is not set"))]).boxed();
            }
            (named, _) => named,
        };
        match &self.provider {
            Some(provider) if model != ECHO => at_once(model, async move {
                purse.reserve(model).await?;
                provider.answer(model, prompt).await
            }),
            _ => builtin(model, prompt),
        }
    }
}

fn unavailable(why: impl Into<String>) -> Error {
    Error::new(Code::ModelFailed, "This agent's model is not available.").because(why.into())
}
