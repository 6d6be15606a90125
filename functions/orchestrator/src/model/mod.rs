//! The models behind the agents.
//!
//! [`Models`] sends each prompt to whom the agent's models name: `echo`, which is built in, or a [`provider`], which
//! speaks to a service in one of the [`dialect`]s. [`speaking`] leads a prompt through tries and models to the first
//! whole answer, [`stream`] reads what comes, [`failure`] says what went wrong and what that means, [`breaker`] leaves
//! alone who fails again and again, and [`keys`] finds the keys that tenants brought themselves.
//!
//! The services are spoken to by hand, not through the crate `genai`: version 0.7 logs the body of a refusal, which may
//! repeat prompt or key; holds an event without end in memory; and takes an answer without `[DONE]` for one that was cut.

mod breaker;
mod call;
mod dialect;
mod failure;
pub mod keys;
pub mod prompt;
pub mod provider;
mod speaking;
mod stream;

use chat_core::{Code, Error, Result, config};
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self as streams, BoxStream},
};

use crate::figures::Figures;

pub use breaker::Habits;
use keys::TenantKeys;
pub use prompt::{Prompt, Said, ToolCall, ToolSpec};
use provider::{Patience, Provider};
use speaking::Speaking;

/// Answers prompts, piece by piece.
pub trait Model: Send + Sync + 'static {
    /// Answers one. `purse` is asked before each call that costs money. The last piece is an [`End`](Piece::End) or an
    /// error; what came before an error is no answer. Dropping the stream gives the call up.
    ///
    /// # Errors
    /// [`Code::ModelFailed`] where no usable answer came, or one of its more telling sisters: [`Code::ModelUnavailable`],
    /// [`Code::ModelRefused`], [`Code::PromptTooLong`], [`Code::ModelKeyRefused`]; [`Code::DeadlineExceeded`]; what the
    /// purse refused with.
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>>;
}

/// Pays for calls.
pub trait Purse: Send + Sync {
    /// Reserves what one call of `model` may cost, before it is made; each try is a call of its own. `model` is as in
    /// [`Ended::model`].
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
    /// The model that gave it, as the agent names it, with `default` resolved.
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
            ECHO => Ok(echo(prompt)),
            other => Err(Error::new(Code::ModelFailed, "This agent's model is not available.")
                .because(format!("no provider for the model {other}"))),
        }
    })
}

fn echo(prompt: &Prompt) -> String {
    format!("Echo: {}", prompt.message())
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

/// Every model there is: `echo`, and behind providers all others.
pub struct Models {
    /// The default one first, if there is one.
    providers: Vec<Provider>,
    has_default: bool,
    default: Option<String>,
    keys: Option<TenantKeys>,
    figures: Figures,
    patience: Patience,
}

/// Who answers for a model.
enum Route<'a> {
    Echo,
    /// This provider, which knows it by this name.
    Provider(&'a Provider, &'a str),
    /// Nobody, for this reason.
    Nobody(&'static str),
}

impl Models {
    /// The models that the settings name. Connects to nothing yet.
    #[must_use]
    pub fn new(settings: &config::Model, patience: Patience) -> Self {
        let http = provider::client(patience);
        let listed = settings.provider.iter().chain(&settings.others);
        let providers = listed.map(|listed| Provider::new(listed, http.clone(), patience)).collect();
        let has_default = settings.provider.is_some();
        Self {
            providers,
            has_default,
            default: settings.default.clone(),
            keys: None,
            figures: Figures::default(),
            patience,
        }
    }

    /// Makes ready in the background what a call of a provider needs, if there is one; see [`Store::warm`].
    ///
    /// [`Store::warm`]: chat_core::store::Store::warm
    pub fn warm(&self) {
        if let Some(provider) = self.providers.first() {
            provider.warm();
        }
    }

    /// Where tenants have keys of their own, these are used.
    #[must_use]
    pub fn with_keys(self, keys: TenantKeys) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// Calls are counted there.
    #[must_use]
    pub fn with_figures(self, figures: Figures) -> Self {
        Self { figures, ..self }
    }

    /// Who answers for what an agent calls its model, and that name once `default` is resolved. What stands before the
    /// first colon is a provider's name if there is such a provider, and else a part of the model's, as in `llama3:8b`.
    fn route<'a>(&'a self, named: &'a str) -> (&'a str, Route<'a>) {
        let name = match (named.trim(), self.default.as_deref()) {
            ("" | "default", Some(default)) => default,
            ("" | "default", None) => return (named, Route::Nobody("MODEL_DEFAULT is not set")),
            (name, _) => name,
        };
        let provider = |wanted: &str| self.providers.iter().find(|provider| provider.name == wanted);
        let prefixed = name.split_once(':').and_then(|(before, model)| Some((provider(before)?, model)));
        let default = self.providers.first().filter(|_| self.has_default);
        let route = match (name, prefixed, default) {
            (ECHO, ..) => Route::Echo,
            (_, Some((provider, model)), _) => Route::Provider(provider, model),
            (_, None, Some(provider)) => Route::Provider(provider, name),
            (_, None, None) => Route::Nobody("no provider for such a model"),
        };
        (name, route)
    }
}

impl Model for Models {
    fn speak<'a>(&'a self, prompt: &'a Prompt, purse: &'a dyn Purse) -> BoxStream<'a, Result<Piece>> {
        let next = |mut speaking: Speaking<'a>| async move { Some((speaking.next().await?, speaking)) };
        streams::unfold(Speaking::new(self, prompt, purse), next).boxed()
    }
}

#[cfg(test)]
mod tests {
    use chat_core::config::{Secret, Speaks};

    use super::*;

    #[test]
    fn a_colon_names_a_provider_only_where_there_is_one() {
        let provider = |name: &str| config::Provider {
            name: name.to_owned(),
            speaks: Speaks::OpenAi,
            base_url: "http://127.0.0.1:1".to_owned(),
            api_key: Some(Secret::from("k".to_owned())),
        };
        let settings = |default: &str, main: Option<&str>| config::Model {
            provider: main.map(provider),
            others: vec![provider("groq")],
            default: Some(default.to_owned()),
        };
        let patience = Patience::within(std::time::Duration::from_secs(1));
        let both = Models::new(&settings("llama3:8b", Some("openai")), patience);
        let others = Models::new(&settings("groq:a", None), patience);
        for (models, named, name, route) in [
            (&both, "default", "llama3:8b", Some(("openai", "llama3:8b"))),
            (&both, " ", "llama3:8b", Some(("openai", "llama3:8b"))),
            (&both, "llama3:8b", "llama3:8b", Some(("openai", "llama3:8b"))),
            (&both, "openai:llama3:8b", "openai:llama3:8b", Some(("openai", "llama3:8b"))),
            (&both, "groq:a:b", "groq:a:b", Some(("groq", "a:b"))),
            (&both, "gemini:a", "gemini:a", Some(("openai", "gemini:a"))),
            (&both, "echo", "echo", None),
            (&others, "default", "groq:a", Some(("groq", "a"))),
            (&others, "llama3:8b", "llama3:8b", None),
        ] {
            let (resolved, way) = models.route(named);
            let way = match way {
                Route::Provider(provider, model) => Some((provider.name.as_str(), model)),
                Route::Echo | Route::Nobody(_) => None,
            };
            assert_eq!((resolved, way), (name, route), "{named}");
        }
    }
}
