//! The models behind the agents.
//!
//! [`Models`] sends each prompt to whom the agent's model names: [`Builtin`], or the [`provider`], which speaks to a
//! service. [`stream`] reads what that service sends, [`failure`] says what went wrong and whether to try again.

mod failure;
pub mod provider;
mod stream;

use chat_core::{Code, Error, Result, config};
use futures::future::BoxFuture;

use crate::agent::Prompt;
use provider::{Patience, Provider};

/// Answers prompts.
pub trait Model: Send + Sync + 'static {
    /// Answers one. Dropping the future gives the call up.
    ///
    /// # Errors
    /// [`Code::ModelFailed`] where no usable answer came.
    fn answer<'a>(&'a self, prompt: &'a Prompt) -> BoxFuture<'a, Result<Answer>>;
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The words.
    pub text: String,
}

/// The model that is built in.
const ECHO: &str = "echo";

/// The models that need nothing from outside. There is one, `echo`: it repeats what it is told, so that a machine
/// without a key has somebody to talk to.
pub struct Builtin;

impl Model for Builtin {
    fn answer<'a>(&'a self, prompt: &'a Prompt) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move { builtin(&prompt.model, prompt) })
    }
}

fn builtin(model: &str, prompt: &Prompt) -> Result<Answer> {
    match model {
        ECHO => Ok(Answer { text: format!("Echo: {}", prompt.message) }),
        other => Err(unavailable(format!("no provider for the model {other}"))),
    }
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
    fn answer<'a>(&'a self, prompt: &'a Prompt) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let model = match (prompt.model.trim(), &self.default) {
                ("" | "default", Some(default)) => default,
                ("" | "default", None) => return Err(unavailable("MODEL_DEFAULT is not set")),
                (named, _) => named,
            };
            match &self.provider {
                Some(provider) if model != ECHO => provider.answer(model, prompt).await,
                _ => builtin(model, prompt),
            }
        })
    }
}

fn unavailable(why: impl Into<String>) -> Error {
    Error::new(Code::ModelFailed, "This agent's model is not available.").because(why.into())
}
