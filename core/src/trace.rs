//! One message, followed through the house: which span comes from which, also where a pipe lies in between.
//!
//! Spans for traces have a target of their own and the lowest level, so no log has them, and where nobody collects them
//! they are not made: one look at a number that stands beside the code. What they are sent with is behind the feature
//! `otlp`; without it, and where no collector is set, everything here does nothing.

use std::fmt;

use serde::Serialize;

/// The target of spans for traces.
pub const TARGET: &str = "trace";

/// A span for traces, if anybody collects them: `trace_span!("turn", turn.id = Empty)`.
#[macro_export]
macro_rules! trace_span {
    ($name:literal $(, $($fields:tt)*)?) => {
        ::tracing::span!(target: "trace", ::tracing::Level::TRACE, $name $(, $($fields)*)?)
    };
}

/// Which span comes before, as it travels: W3C Trace Context, <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Traceparent(String);

/// How long one is: `00-`, 32 digits, `-`, 16 digits, `-`, two digits.
const LENGTH: usize = 55;

impl Traceparent {
    /// Reads one. What is none is nothing: nobody is refused for it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let set = |part: &str| part.bytes().any(|byte| byte != b'0');
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let good =
            version == "00" && digits(trace, 32) && digits(span, 16) && digits(flags, 2) && parts.next().is_none();
        (good && set(trace) && set(span)).then(|| Self(text.to_owned()))
    }

    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Puts it behind the last field of what is published; whoever hears it takes it off again, so no client sees it.
    #[must_use]
    pub fn put_on(&self, mut json: String) -> String {
        if json.pop() == Some('}') {
            json.push_str(MARK);
            json.push_str(&self.0);
            json.push('"');
        }
        json.push('}');
        json
    }

    /// Reads it where [`put_on`](Self::put_on) has put it.
    #[must_use]
    pub fn taken_off(json: &[u8]) -> Option<Self> {
        let rest = json.strip_suffix(b"\"}")?;
        let (rest, parent) = rest.split_at_checked(rest.len().checked_sub(LENGTH)?)?;
        rest.ends_with(MARK.as_bytes()).then(|| std::str::from_utf8(parent).ok().and_then(Self::parse)).flatten()
    }
}

const MARK: &str = ",\"traceparent\":\"";

impl fmt::Debug for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "otlp")]
pub(crate) use otlp::layer;
#[cfg(feature = "otlp")]
pub use otlp::{current, flush, of, under};

/// The span that this code runs in, if anybody collects it.
#[cfg(not(feature = "otlp"))]
#[must_use]
pub fn current() -> Option<Traceparent> {
    None
}

/// A span, if anybody collects it.
#[cfg(all(not(feature = "otlp"), any(feature = "log", feature = "queue")))]
#[must_use]
pub fn of(_span: &tracing::Span) -> Option<Traceparent> {
    None
}

/// The same span, as one that comes from `parent`.
#[cfg(all(not(feature = "otlp"), any(feature = "log", feature = "queue")))]
#[must_use]
pub fn under(span: tracing::Span, _parent: Option<&Traceparent>) -> tracing::Span {
    span
}

/// Sends what has not been sent.
#[cfg(not(feature = "otlp"))]
pub async fn flush() {}

#[cfg(feature = "otlp")]
mod otlp {
    use std::{error::Error, sync::OnceLock, time::Duration};

    use opentelemetry::{
        Context,
        trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider},
    };
    use opentelemetry_http::{Bytes, HttpClient, HttpError};
    use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
    use opentelemetry_sdk::{
        Resource,
        trace::{Sampler, SdkTracerProvider},
    };
    use tokio::{runtime::Handle, task::spawn_blocking};
    use tracing::{Span, Subscriber, warn};
    use tracing_opentelemetry::{OpenTelemetryLayer, OpenTelemetrySpanExt};
    use tracing_subscriber::registry::LookupSpan;

    use super::{TARGET, Traceparent};
    use crate::config;

    /// Longest wait for a collector to take what it is sent. Whoever waits for a flush waits no longer, either.
    const PATIENCE: Duration = Duration::from_secs(2);

    /// Who sends spans, where anybody collects them.
    static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

    /// Sends by the HTTP client that is in every build, on the runtime of the process: the library's batches are sent from
    /// a thread of its own, where there is none.
    #[derive(Debug)]
    struct Http {
        client: reqwest::Client,
        runtime: Handle,
    }

    impl HttpClient for Http {
        fn send_bytes<'a, 'f>(
            &'a self,
            request: http::Request<Bytes>,
        ) -> std::pin::Pin<Box<dyn Future<Output = Result<http::Response<Bytes>, HttpError>> + Send + 'f>>
        where
            'a: 'f,
            Self: 'f,
        {
            Box::pin(async move {
                let (client, request) = (self.client.clone(), request.try_into()?);
                // All of it there: the client sets its timer as soon as it is called.
                let answered = self.runtime.spawn(async move {
                    let mut answer = client.execute(request).await?.error_for_status()?;
                    let mut response = http::Response::new(Bytes::new());
                    *response.status_mut() = answer.status();
                    std::mem::swap(response.headers_mut(), answer.headers_mut());
                    *response.body_mut() = answer.bytes().await?;
                    Ok::<_, reqwest::Error>(response)
                });
                Ok(answered.await??)
            })
        }
    }

    /// Spans are collected as long as it lives, and what is left is sent in its end.
    pub(crate) struct Collecting;

    impl Collecting {
        pub(crate) async fn end(self) {
            let Some(provider) = PROVIDER.get() else { return };
            let ended = spawn_blocking(|| provider.shutdown_with_timeout(PATIENCE)).await;
            if !matches!(ended, Ok(Ok(()))) {
                warn!("not all spans were sent");
            }
        }
    }

    /// Begins to collect. Must run on the runtime of the process.
    pub(crate) fn layer<S>(
        settings: &config::Traces,
    ) -> Result<(impl tracing_subscriber::Layer<S> + use<S>, Collecting), Box<dyn Error + Send + Sync>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let client = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Http { client, runtime: Handle::current() })
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", settings.endpoint))
            .with_timeout(PATIENCE)
            .build()?;
        let resource = Resource::builder_empty().with_service_name(settings.service.clone()).build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.share))))
            .build();
        let tracer = provider.tracer("konstruct-chat");
        let _ = PROVIDER.set(provider);
        let layer = OpenTelemetryLayer::new(tracer)
            .with_location(false)
            .with_tracked_inactivity(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false);
        let ours = tracing_subscriber::filter::filter_fn(|span| span.target() == TARGET);
        Ok((tracing_subscriber::Layer::with_filter(layer, ours), Collecting))
    }

    /// The span that this code runs in, if anybody collects it.
    #[must_use]
    pub fn current() -> Option<Traceparent> {
        // By what was entered last: a span of the log may lie in between.
        PROVIDER.get()?;
        written(Context::current().span().span_context())
    }

    /// A span, if anybody collects it.
    #[must_use]
    pub fn of(span: &Span) -> Option<Traceparent> {
        PROVIDER.get()?;
        written(span.context().span().span_context())
    }

    /// The same span, as one that comes from `parent`.
    #[must_use]
    pub fn under(span: Span, parent: Option<&Traceparent>) -> Span {
        if let Some(parent) = parent.filter(|_| PROVIDER.get().is_some()).and_then(read) {
            let _ = span.set_parent(Context::new().with_remote_span_context(parent));
        }
        span
    }

    /// Sends what has not been sent, within a time.
    pub async fn flush() {
        let Some(provider) = PROVIDER.get() else { return };
        let flushed = spawn_blocking(|| provider.force_flush());
        if !matches!(tokio::time::timeout(PATIENCE, flushed).await, Ok(Ok(Ok(())))) {
            warn!("not all spans were sent in time");
        }
    }

    fn written(context: &SpanContext) -> Option<Traceparent> {
        let (trace, span, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        context.is_valid().then(|| Traceparent(format!("00-{trace}-{span}-{flags:02x}")))
    }

    fn read(parent: &Traceparent) -> Option<SpanContext> {
        let mut parts = parent.as_str().split('-').skip(1);
        let trace = TraceId::from_hex(parts.next()?).ok()?;
        let span = SpanId::from_hex(parts.next()?).ok()?;
        let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
        Some(SpanContext::new(trace, span, flags, true, TraceState::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_is_no_parent_is_none() {
        assert_eq!(Traceparent::parse(GOOD).unwrap().as_str(), GOOD);
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-00"),
            &GOOD.replace("00-", "ff-"),
            &GOOD.to_uppercase(),
            &GOOD.replace('b', "g"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        ] {
            assert_eq!(Traceparent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_was_put_on_is_taken_off_and_text_is_not_taken_for_it() {
        let parent = Traceparent::parse(GOOD).unwrap();
        let frame = r#"{"type":"reset","epoch":1}"#;
        let published = parent.put_on(frame.to_owned());
        assert_eq!(Traceparent::taken_off(published.as_bytes()), Some(parent));
        let value: serde_json::Value = serde_json::from_str(&published).unwrap();
        assert_eq!((&value["epoch"], &value["traceparent"]), (&1.into(), &GOOD.into()));
        let said = serde_json::json!({"type": "delta", "text": format!(",\"traceparent\":\"{GOOD}")}).to_string();
        for none in [frame, "", "\"}", &said] {
            assert_eq!(Traceparent::taken_off(none.as_bytes()), None, "{none}");
        }
    }
}
