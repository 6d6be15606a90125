//! The models behind the agents.

use chat_core::{Code, Error, Result};
use futures::future::BoxFuture;

use crate::agent::Prompt;

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

/// The models that need nothing from outside. There is one, `echo`: it repeats what it is told, so that a machine
/// without a key has somebody to talk to.
pub struct Builtin;

impl Model for Builtin {
    fn answer<'a>(&'a self, prompt: &'a Prompt) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            match prompt.model.as_str() {
                "echo" => Ok(Answer { text: format!("Echo: {}", prompt.message) }),
                other => Err(Error::new(Code::ModelFailed, "This agent's model is not available.")
                    .because(format!("no provider for the model {other}"))),
            }
        })
    }
}
