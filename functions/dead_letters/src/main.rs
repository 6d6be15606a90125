//! The dead-letter function on Lambda, on the dead-letter queue's event source with `ReportBatchItemFailures`.

use std::process::ExitCode;

use chat_core::log;
use dead_letters::DeadLetters;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::run(std::io::stdout, Box::pin(serve())).await
}

async fn serve() -> Result<(), Error> {
    let dead_letters = DeadLetters::from_env()?;
    run(service_fn(|event: LambdaEvent<_>| async { Ok::<_, Error>(dead_letters.handle(event.payload).await) })).await
}
