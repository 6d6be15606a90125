//! An SQS event's records, side by side: each fails alone, and none takes the others along.

use std::{future::Future, panic::AssertUnwindSafe};

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use futures::{FutureExt, future::join_all};

use crate::error::{Error, Result};

/// Runs `run` for each record, and names those that SQS shall deliver again: where it failed, or panicked. `report` says
/// so in the log.
pub async fn side_by_side<'a, F: Future<Output = Result<()>>>(
    event: &'a SqsEvent,
    run: impl Fn(&'a SqsMessage) -> F,
    report: impl Fn(&Error, &str),
) -> SqsBatchResponse {
    let runs = event.records.iter().map(async |record| {
        let outcome = AssertUnwindSafe(run(record)).catch_unwind().await;
        let outcome = outcome.unwrap_or_else(|_| Err(Error::internal("a record's run panicked")));
        let id = record.message_id.clone().unwrap_or_default();
        report(outcome.as_ref().err()?, &id);
        let mut failure = BatchItemFailure::default();
        failure.item_identifier = id;
        Some(failure)
    });
    let mut response = SqsBatchResponse::default();
    response.batch_item_failures = join_all(runs).await.into_iter().flatten().collect();
    response
}
