//! The log of a deployed process: each line one JSON object, whatever stands in it.
//!
//! JSON escapes line breaks and the terminal's control characters, so nobody writes lines of their own into it. What
//! libraries would say at their most talkative is not for a log: statements with their parameters, bodies, headers. So
//! they are heard from `info` up only, whatever `RUST_LOG` says; our own crates say no secret and no text at any level.

use std::{
    error::Error,
    panic::{self, PanicHookInfo},
    process::ExitCode,
};

use tracing::{Level, Metadata, error, level_filters::LevelFilter};
#[cfg(feature = "otlp")]
use tracing_subscriber::filter::FilterExt;
use tracing_subscriber::{EnvFilter, filter::filter_fn, fmt::MakeWriter, prelude::*};

use crate::config;

/// The crates whose lines may be more talkative than `info`, as targets begin.
const OURS: &[&str] = &["chat_core", "conversations", "dead_letters", "hub", "orchestrator"];

/// Runs a deployed process to its end: starts the log, does `work`, and logs why that failed.
///
/// The level of the log is `RUST_LOG`; one that cannot be read stops the start.
pub async fn run<W>(writer: W, work: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>>) -> ExitCode
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let outcome = match start(writer) {
        Ok(()) => work.await,
        Err(fault) => Err(fault.into()),
    };
    told(outcome)
}

/// Does the same, with traces under this name where the settings want any.
#[cfg(feature = "otlp")]
pub async fn run_traced<W>(
    service: &str,
    writer: W,
    work: impl Future<Output = Result<(), Box<dyn Error + Send + Sync>>>,
) -> ExitCode
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let mut env = config::Env::new(&config::process);
    let traces = config::Traces::read(&mut env, service);
    let settings = match env.finish(traces) {
        Ok(None) => return run(writer, work).await,
        Ok(Some(settings)) => settings,
        Err(faults) => return run(writer, async { Err(faults.into()) }).await,
    };
    let (filter, fault) = filter();
    let (spans, collecting) = match crate::trace::layer(&settings) {
        Ok(collected) => collected,
        Err(error) => return run(writer, async { Err(error) }).await,
    };
    // Each layer by a filter of its own: what is collected is not for the log, and the other way round.
    let lines = tracing_subscriber::fmt::layer().json().with_writer(writer);
    let lines = lines.with_filter(filter.and(filter_fn(speakable)));
    tracing_subscriber::registry().with(spans).with(lines).init();
    panic::set_hook(Box::new(tell));
    let outcome = match fault {
        None => work.await,
        Some(fault) => Err(fault.into()),
    };
    collecting.end().await;
    told(outcome)
}

fn told(outcome: Result<(), Box<dyn Error + Send + Sync>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn start<W>(writer: W) -> Result<(), &'static str>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, fault) = filter();
    let lines = tracing_subscriber::fmt::layer().json().with_writer(writer);
    tracing_subscriber::registry().with(lines).with(filter).with(filter_fn(speakable)).init();
    panic::set_hook(Box::new(tell));
    fault.map_or(Ok(()), Err)
}

/// What `RUST_LOG` lets pass; where that cannot be read, what it is by default, and what is wrong.
fn filter() -> (EnvFilter, Option<&'static str>) {
    let wanted = config::log_filter().unwrap_or_else(|| "info".to_owned());
    match EnvFilter::try_new(wanted) {
        Ok(filter) => (filter, None),
        Err(_) => {
            let fault = "RUST_LOG must be levels in the notation of tracing";
            (EnvFilter::default().add_directive(LevelFilter::INFO.into()), Some(fault))
        }
    }
}

/// Tells of a panic: where, and in which words if they stand in the code. What is formatted into them may be what
/// somebody said.
fn tell(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let words = panic.payload().downcast_ref::<&'static str>();
    error!(place, words, "panic");
}

/// Whether a line may be written at all.
fn speakable(line: &Metadata<'_>) -> bool {
    let of =
        |name: &str| line.target().strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    *line.level() <= Level::INFO || OURS.iter().any(|name| of(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// What is written, for a look at it.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Runs `talk` with a log at its most talkative, and returns what was written.
    fn written(talk: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone());
        let log = tracing_subscriber::registry().with(lines).with(EnvFilter::new("trace")).with(filter_fn(speakable));
        tracing::subscriber::with_default(log, talk);
        let written = written.0.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    #[test]
    fn a_panic_tells_its_place_and_no_word_that_was_formatted_into_it() {
        let written = written(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(tell));
            let said = "hunter2 ü".to_owned();
            for end in [9, 8] {
                let _ = panic::catch_unwind(|| assert!(said[..end].len() > 100, "{said} is too short"));
            }
            let _ = panic::catch_unwind(|| panic!("words of our own"));
            panic::set_hook(before);
        });
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{written}");
        assert!(lines.iter().all(|line| line["fields"]["place"].as_str().unwrap().contains("log.rs:")), "{written}");
        assert_eq!(lines[2]["fields"]["words"], "words of our own");
        assert!(!written.contains("hunter2"), "{written}");
    }

    #[test]
    fn each_line_is_one_object_and_libraries_are_not_talkative() {
        let evil = format!("a\r\n{{\"level\":\"ERROR\"}}\n\u{1b}[2J\u{2028}\0\u{85}{}", "x".repeat(1 << 20));
        let written = written(|| {
            let span = tracing::info_span!(target: "hub", "socket", whose = evil);
            span.in_scope(|| {
                error!(target: "hub", name = evil, debug = ?evil, "{evil}");
                tracing::trace!(target: "chat_core::store", "ours");
                tracing::info!(target: "lambda_runtime", "theirs");
                tracing::debug!(target: "tokio_postgres::query", "hunter2");
                tracing::trace!(target: "hyper", "hunter2");
                tracing::trace!(target: "hubris", "hunter2");
            });
        });
        let lines: Vec<serde_json::Value> = written.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0]["fields"]["message"], evil);
        assert_eq!(lines[0]["span"]["whose"], evil);
        assert!(!written.contains('\u{1b}') && !written.contains("hunter2"));
    }
}
