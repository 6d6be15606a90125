//! The dead-letter function on Lambda, on the dead-letter queue's event source with `ReportBatchItemFailures`.

use dead_letters::DeadLetters;
use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let dead_letters = DeadLetters::from_env().await?;
    run(service_fn(|event: LambdaEvent<_>| async { Ok::<_, Error>(dead_letters.handle(event.payload).await) })).await
}
