//! A call of a model, watched from its beginning to its end: a figure, and a span as OpenTelemetry names it,
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/>. Neither has a word of prompt or answer.

use chat_core::{config::Speaks, trace_span};
use tokio::time::Instant;
use tracing::{Span, field::Empty};

use super::{Usage, failure::Failure, provider::Provider};
use crate::figures::Figures;

/// A call under way. One that is dropped was given up, by a stop or with its turn, and is in no figure.
pub(super) struct Watched {
    figures: Figures,
    provider: String,
    model: String,
    begun: Instant,
    span: Span,
}

impl Watched {
    /// A call that is about to be made.
    pub(super) fn begin(figures: &Figures, provider: &Provider, model: &str) -> Self {
        let name = known_as(provider.speaks(), &provider.name);
        let span = trace_span!(
            "chat",
            otel.name = Empty,
            otel.kind = "client",
            gen_ai.operation.name = "chat",
            gen_ai.provider.name = name,
            gen_ai.request.model = model,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            error.type = Empty,
            otel.status_code = Empty,
        );
        if !span.is_disabled() {
            span.record("otel.name", format!("chat {model}"));
        }
        Self {
            figures: figures.clone(),
            provider: name.to_owned(),
            model: model.to_owned(),
            begun: Instant::now(),
            span,
        }
    }

    /// It gave a whole answer.
    pub(super) fn ended(self, usage: Option<Usage>) {
        if let Some(Usage { input_tokens, output_tokens }) = usage {
            self.span.record("gen_ai.usage.input_tokens", input_tokens);
            self.span.record("gen_ai.usage.output_tokens", output_tokens);
        }
        self.figures.called(&self.provider, &self.model, self.begun.elapsed(), usage);
    }

    /// It gave none.
    pub(super) fn failed(self, why: &Failure) {
        self.span.record("otel.status_code", "ERROR");
        self.span.record("error.type", why.code().as_str());
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
