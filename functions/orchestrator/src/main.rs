//! The orchestrator as a Lambda function on an SQS event source with `ReportBatchItemFailures`.

use std::{io::Write, process::ExitCode};

use chat_core::{config, log, trace};
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use orchestrator::{Orchestrator, figures::Figures};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::run_traced("chat-orchestrator", std::io::stdout, Box::pin(serve())).await
}

async fn serve() -> Result<(), Error> {
    // Where there is no Lambda nobody reads metrics from lines.
    let figures = config::function_name().map(|name| Figures::of(&name, write)).unwrap_or_default();
    let orchestrator = Orchestrator::from_env(figures)?;
    run(service_fn(|event: LambdaEvent<_>| async {
        let response = orchestrator.handle(event.payload).await;
        // The environment is frozen once we have answered.
        trace::flush().await;
        Ok::<_, Error>(response)
    }))
    .await
}

/// Writes a line of its own among those of the log: both are JSON.
fn write(line: &str) {
    // One call, so that no other line comes in between. Where nobody listens there is nobody to tell.
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
