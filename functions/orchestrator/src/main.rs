//! The orchestrator as a Lambda function on an SQS event source with `ReportBatchItemFailures`.

use std::process::ExitCode;

use chat_core::log;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use orchestrator::Orchestrator;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::run(std::io::stdout, Box::pin(serve())).await
}

async fn serve() -> Result<(), Error> {
    let orchestrator = Orchestrator::from_env().await?;
    run(service_fn(|event: LambdaEvent<_>| async { Ok::<_, Error>(orchestrator.handle(event.payload).await) })).await
}
