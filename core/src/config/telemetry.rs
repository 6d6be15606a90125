//! What operators watch: who may read the figures, and where traces go.

use super::{Env, Secret};

/// Shortest token that guards the figures, in bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// Who may read a hub's figures.
#[derive(Clone, Default)]
pub struct Metrics {
    /// What `Authorization: Bearer` must hold. None: there is no such route.
    pub token: Option<Secret>,
}

impl Metrics {
    /// Reads `METRICS_TOKEN`: at least 16 random bytes, written in a way that fits into a header.
    pub fn read(env: &mut Env<'_>) -> Self {
        let token = env.optional("METRICS_TOKEN");
        if let Some(token) = &token {
            let faults = env.faults.len();
            if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let what = format!("has at least {MIN_TOKEN_BYTES} visible characters of ASCII and no space");
                env.faults.push(format!("METRICS_TOKEN {what}"));
            }
            if env.faults.len() == faults {
                env.refuse_placeholder_key("METRICS_TOKEN", token.as_bytes());
            }
        }
        Self { token: token.map(Secret::from) }
    }
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// The collector's address, without what the signal adds to it: `http://127.0.0.1:4318`.
    pub endpoint: String,
    /// What this deployable is called there.
    pub service: String,
    /// The share of messages that are followed, from 0 to 1, where nobody before us has decided it.
    pub share: f64,
}

impl Traces {
    /// Reads `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME` and `OTEL_TRACES_SAMPLER_ARG`, as OpenTelemetry has them;
    /// none where there is no endpoint. `OTEL_EXPORTER_OTLP_HEADERS` the library reads itself, and passes over what it cannot
    /// read: here it is held to its form, so that nobody waits for traces that a collector refuses.
    pub fn read(env: &mut Env<'_>, service: &str) -> Option<Self> {
        let endpoint = env.optional("OTEL_EXPORTER_OTLP_ENDPOINT");
        let service = env.optional("OTEL_SERVICE_NAME").unwrap_or_else(|| service.to_owned());
        let share = env.optional("OTEL_TRACES_SAMPLER_ARG").map_or(Some(1.0), |share| share.parse().ok());
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            env.faults.push("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1".to_owned());
        }
        let pair = |pair: &str| pair.split_once('=').is_some_and(|(name, value)| !name.is_empty() && !value.is_empty());
        let headers = env.optional("OTEL_EXPORTER_OTLP_HEADERS");
        if headers.is_some_and(|headers| !headers.split(',').all(pair)) {
            env.faults.push("OTEL_EXPORTER_OTLP_HEADERS must be name=value, several separated by commas".to_owned());
        }
        let good = |url: &str| url.starts_with("http://") || url.starts_with("https://");
        if endpoint.as_deref().is_some_and(|url| !good(url)) {
            env.faults.push("OTEL_EXPORTER_OTLP_ENDPOINT must be the URL of a collector that speaks HTTP".to_owned());
        }
        let endpoint = endpoint?.trim_end_matches('/').to_owned();
        Some(Self { endpoint, service, share: share.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_secret_of_ones_own_or_absent() {
        let faults = |token: &str| {
            let lookup = |name: &str| (name == "METRICS_TOKEN").then(|| token.to_owned());
            let mut env = Env::new(&lookup);
            let metrics = Metrics::read(&mut env);
            (metrics.token.is_some(), env.faults)
        };
        assert_eq!(faults(""), (false, Vec::new()), "empty is absent");
        assert_eq!(faults("k3J9-vq2L_x8Zr0Tn5Wm7Yb1"), (true, Vec::new()));
        for bad in
            ["k3J9vq2L", "k3J9 vq2L x8Zr0Tn5Wm7Yb1", "k3J9-vq2L_x8Zr0Tn5Wm7Yb\u{e4}", "changeme-changeme-changeme"]
        {
            let (_, faults) = faults(bad);
            assert!(faults.len() == 1 && faults[0].contains("METRICS_TOKEN") && !faults[0].contains(bad), "{faults:?}");
        }
    }

    fn read(settings: &[(&str, &str)]) -> (Option<Traces>, Vec<String>) {
        let lookup =
            |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut env = Env::new(&lookup);
        let traces = Traces::read(&mut env, "chat-hub");
        (traces, env.faults)
    }

    #[test]
    fn traces_go_nowhere_by_default_and_where_they_are_told_to() {
        assert_eq!(read(&[]), (None, Vec::new()));
        let to = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318/");
        let traces = |service: &str, share| {
            let (endpoint, service) = ("http://127.0.0.1:4318".to_owned(), service.to_owned());
            (Some(Traces { endpoint, service, share }), Vec::new())
        };
        assert_eq!(read(&[to]), traces("chat-hub", 1.0));
        let more = [to, ("OTEL_SERVICE_NAME", "chat-eu"), ("OTEL_TRACES_SAMPLER_ARG", "0.05")];
        assert_eq!(read(&more), traces("chat-eu", 0.05));
        assert_eq!(read(&[to, ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,c=d==")]), traces("chat-hub", 1.0));
        for (name, bad) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "127.0.0.1:4318"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.01"),
            ("OTEL_TRACES_SAMPLER_ARG", "NaN"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2,"),
        ] {
            let (_, faults) = read(&[(name, bad)]);
            assert!(faults.len() == 1 && faults[0].contains(name) && !faults[0].contains(bad), "{faults:?}");
        }
    }
}
