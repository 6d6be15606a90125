//! Every setting, read once at the start from the environment, here and nowhere else.
//!
//! A missing or malformed one stops the start with its name, never its value. `.env.example` lists them all.

mod channels;
mod container;
mod model;
mod notices;
mod numbers;
mod placeholder;
mod portal;
mod sealing;
mod telemetry;
mod token;

use std::{fmt, str::FromStr};

pub use channels::Channels;
pub use container::Container;
pub use model::{Model, Provider, Speaks};
pub use notices::Notices;
pub use numbers::{Limits, Memory, RawTimes, Times, Titles};
pub use portal::Portal;
pub use sealing::Sealing;
pub use telemetry::{Metrics, Traces};
pub use token::{Keys, MIN_SECRET_BYTES, Pace, Published, Token};

pub use crate::secret::Secret;

/// Which settings are missing or malformed, by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "settings: {}", self.0.join("; "))
    }
}

impl std::error::Error for Faults {}

/// The environment, being read: collects what is wrong, so that one start tells everything.
pub struct Env<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<String>,
}

impl<'a> Env<'a> {
    /// Reads from `lookup`, which is the process's environment but in tests.
    #[must_use]
    pub fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, faults: Vec::new() }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The names of all settings that were missing or malformed since the beginning.
    pub fn finish<T>(self, settings: T) -> Result<T, Faults> {
        if self.faults.is_empty() { Ok(settings) } else { Err(Faults(self.faults)) }
    }

    fn optional(&mut self, name: &'static str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    fn required(&mut self, name: &'static str) -> String {
        self.optional(name).unwrap_or_else(|| {
            self.faults.push(format!("{name} is missing"));
            String::new()
        })
    }

    fn number<T: FromStr + PartialOrd + fmt::Display + Copy>(
        &mut self,
        name: &'static str,
        default: T,
        (least, most): (T, T),
    ) -> T {
        let Some(text) = self.optional(name) else { return default };
        match text.parse() {
            Ok(value) if value >= least && value <= most => value,
            _ => {
                self.faults.push(format!("{name} must be a whole number from {least} to {most}"));
                default
            }
        }
    }
}

/// The process's environment.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
#[must_use]
pub fn process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Where the facts are.
#[derive(Clone)]
pub struct Database {
    /// `postgres://chat_app:…@host/db`; holds a password.
    pub url: Secret,
    /// Connections held at most. 8 serve a hub on 2 cores (`research`: more cost the server CPU and gain nothing);
    /// a function environment runs one request at a time and a batch of turns, and needs 2.
    pub pool_size: usize,
}

impl Database {
    /// Reads `DATABASE_URL` and `DATABASE_POOL_SIZE`.
    pub fn read(env: &mut Env<'_>, default_pool_size: usize) -> Self {
        let url = env.required("DATABASE_URL");
        env.refuse_placeholder_password("DATABASE_URL", &url);
        Self { url: url.into(), pool_size: env.number("DATABASE_POOL_SIZE", default_pool_size, (1, 1_000)) }
    }
}

/// Where hints of news are published.
#[derive(Clone)]
pub struct Redis {
    /// `rediss://…`, or `redis://…` for plain TCP; may hold a password.
    pub url: Secret,
    /// Nodes of a Redis Cluster, separated by commas, each as in `url`: what is published goes there, all else to `url`.
    pub bus_url: Option<Secret>,
    /// The file of the authorities to trust instead of the machine's own.
    pub ca_file: Option<String>,
}

impl Redis {
    /// What is at this URL, and trusted if this machine does.
    #[must_use]
    pub fn at(url: impl Into<Secret>) -> Self {
        Self { url: url.into(), bus_url: None, ca_file: None }
    }

    /// Reads `REDIS_URL`, `REDIS_BUS_URL` and `REDIS_CA_FILE`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let url = env.required("REDIS_URL");
        env.refuse_placeholder_password("REDIS_URL", &url);
        let bus_url = env.optional("REDIS_BUS_URL");
        for url in bus_url.iter().flat_map(|urls| urls.split(',')) {
            env.refuse_placeholder_password("REDIS_BUS_URL", url.trim());
        }
        Self { url: url.into(), bus_url: bus_url.map(Secret::from), ca_file: env.optional("REDIS_CA_FILE") }
    }
}

/// Where hints of work are sent.
#[derive(Debug, Clone)]
pub struct Queue {
    /// The SQS queue's URL.
    pub url: String,
}

impl Queue {
    /// Reads `QUEUE_URL`; the SDK reads its own `AWS_*`.
    pub fn read(env: &mut Env<'_>) -> Self {
        Self { url: env.required("QUEUE_URL") }
    }
}

/// Where the hub listens, and whose pages may call us.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Address and port to listen on.
    pub listen: String,
    /// Origins of pages that may open sockets and call REST, exactly as browsers send them: `https://portal.example`.
    pub allowed_origins: Vec<String>,
    /// Proxies in front that each append the address of whoever came to them to `X-Forwarded-For`. With 0 the header is
    /// whatever its sender likes, and is not read.
    pub trusted_proxies: usize,
}

impl Edge {
    /// Reads `LISTEN`, `ALLOWED_ORIGINS` (separated by commas) and `TRUSTED_PROXIES`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let allowed_origins: Vec<String> = env
            .optional("ALLOWED_ORIGINS")
            .unwrap_or_default()
            .split(',')
            .map(|origin| origin.trim().to_owned())
            .filter(|origin| !origin.is_empty())
            .collect();
        let exact = |origin: &String| {
            let host = origin.split_once("://").map_or("", |(_, host)| host);
            !host.is_empty() && !host.contains('/') && host.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !allowed_origins.iter().all(exact) {
            env.faults.push("ALLOWED_ORIGINS must be scheme://host[:port] without a path, separated by commas".into());
        }
        Self {
            listen: env.optional("LISTEN").unwrap_or_else(|| "0.0.0.0:8080".to_owned()),
            allowed_origins,
            trusted_proxies: env.number("TRUSTED_PROXIES", 0, (0, 16)),
        }
    }
}

/// What AWS calls this function, where it is one.
#[must_use]
pub fn function_name() -> Option<String> {
    process("AWS_LAMBDA_FUNCTION_NAME").filter(|name| !name.is_empty())
}

/// The level of the log, if set: `RUST_LOG`, in the notation of `tracing`.
#[must_use]
pub fn log_filter() -> Option<String> {
    process("RUST_LOG").filter(|filter| !filter.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: &[(&str, &str)]) -> Vec<String> {
        let lookup =
            |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut env = Env::new(&lookup);
        Database::read(&mut env, 8);
        Token::read(&mut env);
        Edge::read(&mut env);
        Portal::read(&mut env);
        Container::read(&mut env);
        Limits::read(&mut env);
        Times::read(&mut env);
        Sealing::read(&mut env);
        Notices::read(&mut env);
        Metrics::read(&mut env);
        Traces::read(&mut env, "chat");
        env.faults
    }

    const GOOD: &[(&str, &str)] =
        &[("DATABASE_URL", "postgres://x"), ("JWT_SECRET", "k3J9-vq2L_x8Zr0Tn5Wm7Yb1Hc4Gd6Fs")];

    #[test]
    fn a_missing_setting_is_told_by_its_name() {
        assert_eq!(faults(&[]), ["DATABASE_URL is missing", "JWT_SECRET or JWT_JWKS_URL is missing"]);
        assert!(faults(GOOD).is_empty());
    }

    #[test]
    fn a_malformed_setting_is_told_by_its_name_and_never_its_value() {
        for (name, value) in [
            ("JWT_SECRET", "hunter2"),
            ("LIMIT_TEXT_CHARS", "hunter2"),
            ("LIMIT_TEXT_CHARS", "0"),
            // Whoever was put out is gone within 30 s, however seldom we ping.
            ("LIMIT_PING_MS", "30001"),
            ("SECRETS_KEY", "hunter2"),
            ("SECRETS_KEY", "00"),
            ("METRICS_TOKEN", "hunter2"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_TRACES_SAMPLER_ARG", "1.5"),
            ("OTEL_TRACES_SAMPLER_ARG", "hunter2"),
            ("LIMIT_PING_MS", "30001"),
            ("NOTICE_ALLOW_PRIVATE", "hunter2"),
            ("NOTICE_REMIND_MS", "1"),
            ("NOTICE_REMINDERS", "-1"),
            ("SLACK_BASE_URL", "hunter2"),
            ("ALLOWED_ORIGINS", "hunter2"),
            ("ALLOWED_ORIGINS", "*"),
            ("ALLOWED_ORIGINS", "null"),
            ("ALLOWED_ORIGINS", "https://hunter2/"),
            ("ALLOWED_ORIGINS", "https://hunter2/chat"),
            ("TRUSTED_PROXIES", "hunter2"),
            ("PORTAL_REST_URL", "hunter2"),
            ("ECS_CONTAINER_METADATA_URI_V4", "hunter2"),
            ("PORTAL_HOSTS", "https://portal.example, hunter2"),
            ("LIMIT_HEADER_MS", "60001"),
            ("LIMIT_UNSENT_BYTES", "65536"),
            ("LIMIT_UNSENT_BYTES", "200000"),
            ("TURN_LEASE_MS", "9000"),
            ("TURN_DEADLINE_MS", "300000"),
            ("TURN_QUEUE_AGE_MS", "180000"),
            ("SWEEP_FIRST_MS", "60001"),
            ("SWEEP_LONGEST_MS", "900000"),
            ("SWEEP_BATCH", "0"),
            ("HUB_LOOK_MS", "25001"),
            ("HUB_LOOK_ALL_MS", "1999"),
        ] {
            let mut settings = vec![(name, value)];
            settings.extend_from_slice(GOOD);
            let faults = faults(&settings);
            assert_eq!(faults.len(), 1, "{name}={value}: {faults:?}");
            assert!(faults[0].contains(name) && !faults[0].contains("hunter2"), "{faults:?}");
        }
    }

    #[test]
    fn a_test_may_hurry_everything_or_keep_a_hub_from_looking() {
        let hurried = [
            ("TURN_LEASE_MS", "1000"),
            ("TURN_RENEW_MS", "300"),
            ("TURN_DEADLINE_MS", "15000"),
            ("TURN_QUEUE_AGE_MS", "20000"),
            ("FUNCTION_TIMEOUT_MS", "16000"),
            ("QUEUE_VISIBILITY_MS", "17000"),
            ("SWEEP_FIRST_MS", "300"),
            ("SWEEP_LONGEST_MS", "2000"),
            ("HUB_LOOK_MS", "3600000"),
            ("HUB_LOOK_ALL_MS", "3600000"),
        ];
        assert!(faults(&[GOOD, &hurried].concat()).is_empty());
    }

    #[test]
    fn the_example_lists_every_setting_and_no_other() {
        let example = include_str!("../../../.env.example");
        let listed: Vec<&str> = example
            .lines()
            .filter_map(|line| line.trim_start_matches("# ").split_once('='))
            .map(|(name, _)| name)
            .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .collect();
        let read = std::cell::RefCell::new(Vec::new());
        let lookup = |name: &str| {
            read.borrow_mut().push(name.to_owned());
            None
        };
        let mut env = Env::new(&lookup);
        Database::read(&mut env, 8);
        Redis::read(&mut env);
        Queue::read(&mut env);
        Token::read(&mut env);
        Edge::read(&mut env);
        Portal::read(&mut env);
        Container::read(&mut env);
        Limits::read(&mut env);
        Times::read(&mut env);
        Model::read(&mut env);
        Channels::read(&mut env);
        Sealing::read(&mut env);
        Memory::read(&mut env);
        Titles::read(&mut env);
        Notices::read(&mut env);
        Metrics::read(&mut env);
        Traces::read(&mut env, "chat");
        for name in read.borrow().iter() {
            assert!(listed.contains(&name.as_str()), "{name} is not in .env.example");
        }
        for name in listed.iter().filter(|name| **name != "RUST_LOG" && !name.starts_with("AWS_")) {
            assert!(read.borrow().iter().any(|known| known == name), ".env.example has {name}, which nothing reads");
        }
    }
}
