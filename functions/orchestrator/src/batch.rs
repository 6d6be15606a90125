//! A batch of queue records: each parsed and run on its own, so that one fails alone.
//!
//! This is the orchestrator's edge: it turns an error into *acknowledge* or *try again*.

use std::panic::AssertUnwindSafe;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use chat_core::{Error, Kind, Result, job::Job};
use futures::{FutureExt, future::join_all};
use tracing::{error, warn};

use crate::{Orchestrator, routes::Route};

impl Orchestrator {
    /// Runs the records side by side and names those that SQS shall deliver again.
    pub async fn handle(&self, event: SqsEvent) -> SqsBatchResponse {
        let runs = event.records.iter().map(|record| async move {
            let run = AssertUnwindSafe(self.record(record)).catch_unwind();
            let outcome = run.await.unwrap_or_else(|_| Err(Error::internal("a record's run panicked")));
            let error = outcome.err()?;
            report(&error, record);
            Some(record.message_id.clone().unwrap_or_default())
        });
        let mut response = SqsBatchResponse::default();
        response.batch_item_failures = join_all(runs)
            .await
            .into_iter()
            .flatten()
            .map(|id| {
                let mut failure = BatchItemFailure::default();
                failure.item_identifier = id;
                failure
            })
            .collect();
        response
    }

    async fn record(&self, record: &SqsMessage) -> Result<()> {
        let job = Job::parse(record.body.as_deref().unwrap_or_default())?;
        match Route::of(&job)? {
            Route::Web { tenant, conversation } => self.turn(tenant, conversation).await,
        }
    }
}

/// Says why SQS shall deliver the record again. What can never succeed goes the same way: after `maxReceiveCount` it is
/// in the dead-letter queue, where an operator finds it.
fn report(error: &Error, record: &SqsMessage) {
    let message_id = record.message_id.as_deref().unwrap_or_default();
    match error.kind() {
        Kind::Unavailable | Kind::Busy => warn!(message_id, ?error, "record comes back later"),
        Kind::Invalid => warn!(message_id, ?error, "record cannot be read or routed"),
        Kind::Unauthenticated | Kind::Forbidden | Kind::NotFound | Kind::Conflict | Kind::Internal => {
            error!(message_id, ?error, "record failed");
        }
    }
}
