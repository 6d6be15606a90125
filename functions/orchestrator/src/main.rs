//! The orchestrator as a Lambda function on an SQS event source with `ReportBatchItemFailures`.

use lambda_runtime::{Error, LambdaEvent, run, service_fn, tracing};
use orchestrator::Orchestrator;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let orchestrator = Orchestrator::from_env().await?;
    run(service_fn(|event: LambdaEvent<_>| async { Ok::<_, Error>(orchestrator.handle(event.payload).await) })).await
}
