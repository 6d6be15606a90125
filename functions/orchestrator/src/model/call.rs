//! A call of a model, watched from its beginning to its end.

use chat_core::config::Speaks;
use tokio::time::Instant;

use super::{Usage, failure::Failure, provider::Provider};
use crate::figures::Figures;

/// A call under way. One that is dropped was given up, by a stop or with its turn, and is in no figure.
pub(super) struct Watched {
    figures: Figures,
    provider: String,
    model: String,
    begun: Instant,
}

impl Watched {
    /// A call that is about to be made.
    pub(super) fn begin(figures: &Figures, provider: &Provider, model: &str) -> Self {
        Self {
            figures: figures.clone(),
            provider: known_as(provider.speaks(), &provider.name).to_owned(),
            model: model.to_owned(),
            begun: Instant::now(),
        }
    }

    /// It gave a whole answer.
    pub(super) fn ended(self, usage: Option<Usage>) {
        self.figures.called(&self.provider, &self.model, self.begun.elapsed(), usage);
    }

    /// It gave none.
    pub(super) fn failed(self, _why: &Failure) {
        self.figures.called(&self.provider, &self.model, self.begun.elapsed(), None);
    }
}

/// What OpenTelemetry calls a provider where it knows it; else as the settings do. The first provider has the name of its
/// protocol's inventor: <https://opentelemetry.io/docs/specs/semconv/registry/attributes/gen-ai/#gen-ai-provider-name>.
fn known_as(speaks: Speaks, name: &str) -> &str {
    match speaks {
        Speaks::Gemini if name == "gemini" => "gcp.gemini",
        Speaks::Gemini | Speaks::OpenAi | Speaks::Anthropic => name,
    }
}
