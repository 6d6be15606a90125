//! A batch of queue records: each parsed and run on its own, so that one fails alone.
//!
//! This is the orchestrator's edge: it turns an error into *acknowledge* or *try again*.

use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use chat_core::{Error, Kind, Result, batch::side_by_side, job::Job, trace, trace_span};
use tracing::{Instrument, error, field::Empty, warn};

use crate::{Orchestrator, routes::Route};

impl Orchestrator {
    /// Runs the records side by side and names those that SQS shall deliver again.
    pub async fn handle(&self, event: SqsEvent) -> SqsBatchResponse {
        let response = side_by_side(&event, |record| self.record(record), report).await;
        self.figures.write();
        response
    }

    async fn record(&self, record: &SqsMessage) -> Result<()> {
        let job = Job::parse(record.body.as_deref().unwrap_or_default())?;
        let span = trace_span!("turn", otel.kind = "consumer", turn.id = Empty, attempt = Empty);
        let span = trace::under(span, job.traceparent.as_ref());
        let run = async {
            match Route::of(&job)? {
                Route::Web { tenant, conversation } => self.turn(tenant, conversation).await,
                Route::Channel(route) => self.channel_turn(&job, &route).await,
            }
        };
        run.instrument(span).await
    }
}

/// Says why SQS shall deliver the record again. What can never succeed goes the same way: after `maxReceiveCount` it is
/// in the dead-letter queue, where an operator finds it.
fn report(error: &Error, message_id: &str) {
    match error.kind() {
        Kind::Unavailable | Kind::Busy => warn!(message_id, ?error, "record comes back later"),
        Kind::Invalid => warn!(message_id, ?error, "record cannot be read or routed"),
        Kind::Unauthenticated | Kind::Forbidden | Kind::NotFound | Kind::Conflict | Kind::Internal => {
            error!(message_id, ?error, "record failed");
        }
    }
}
