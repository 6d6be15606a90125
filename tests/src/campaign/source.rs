//! The event source of the orchestrator and the dead-letter function: takes records from the real queues and delivers
//! them, as SQS may at any time, twice, late and out of order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use aws_lambda_events::sqs::{SqsBatchResponse, SqsMessage};
use aws_sdk_sqs::{Client, types::Message};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::pool::Pool;
use crate::{
    product::sqs_client,
    pump::{event, record},
};

/// How the deliveries go wrong.
#[derive(Debug, Default)]
pub struct Mischief {
    /// Of a hundred records, how many are delivered twice, late, or in another order, each.
    pub percent: AtomicU32,
    /// Deliveries that went wrong on purpose.
    pub done: AtomicUsize,
}

/// Longest delay of a late delivery, in milliseconds.
const LATE_MS: u64 = 2_500;

/// How long the source waits after a refusal of the queue.
const PAUSE: Duration = Duration::from_millis(200);

/// One event source: a queue, and the function that it wakes.
pub struct Source {
    /// Where the queue's server is reached.
    pub endpoint: String,
    /// The queue.
    pub url: String,
    /// The function.
    pub function: Arc<Pool>,
    /// What goes wrong on the way.
    pub mischief: Arc<Mischief>,
    /// Decides it.
    pub seed: u64,
}

impl Source {
    /// Runs until `stop`, then waits for the deliveries under way.
    #[expect(clippy::disallowed_methods, reason = "backs off as the event source does")]
    pub async fn run(self, stop: CancellationToken) {
        let client = sqs_client(&self.endpoint);
        let mut random = StdRng::seed_from_u64(self.seed);
        let mut deliveries = JoinSet::new();
        loop {
            while deliveries.try_join_next().is_some() {}
            let receive =
                client.receive_message().queue_url(&self.url).max_number_of_messages(10).wait_time_seconds(1).send();
            let messages = tokio::select! {
                () = stop.cancelled() => break,
                received = receive => received.ok().map(|received| received.messages.unwrap_or_default()),
            };
            let Some(messages) = messages else {
                sleep(PAUSE).await;
                continue;
            };
            for (delay, batch) in self.deliveries(&mut random, messages) {
                deliveries.spawn(deliver(client.clone(), self.url.clone(), Arc::clone(&self.function), delay, batch));
            }
        }
        while deliveries.join_next().await.is_some() {}
    }

    /// What was received, as it will be delivered: in batches, each after a delay.
    fn deliveries(&self, random: &mut StdRng, mut messages: Vec<Message>) -> Vec<(Duration, Vec<Message>)> {
        let percent = self.mischief.percent.load(Ordering::Relaxed);
        let mut wrong = || {
            let wrong = random.random_range(0..100) < percent;
            self.mischief.done.fetch_add(usize::from(wrong), Ordering::Relaxed);
            wrong
        };
        let mut batches = Vec::new();
        let mut late = Vec::new();
        let mut shuffles = false;
        messages.retain(|message| {
            shuffles |= wrong();
            if wrong() {
                // Once more: at once, so that two run side by side, or long after the first has ended.
                batches.push((wrong(), vec![message.clone()]));
            }
            let is_late = wrong();
            if is_late {
                late.push(message.clone());
            }
            !is_late
        });
        if shuffles {
            messages.shuffle(random);
        }
        let mut delay = |later: bool| Duration::from_millis(if later { random.random_range(50..LATE_MS) } else { 0 });
        let mut all: Vec<_> = batches.into_iter().map(|(later, batch)| (delay(later), batch)).collect();
        all.extend(late.into_iter().map(|message| (delay(true), vec![message])));
        if !messages.is_empty() {
            all.push((Duration::ZERO, messages));
        }
        all
    }
}

#[expect(clippy::disallowed_methods, reason = "a delivery comes late")]
async fn deliver(client: Client, url: String, function: Arc<Pool>, delay: Duration, messages: Vec<Message>) {
    sleep(delay).await;
    let records: Vec<SqsMessage> = messages
        .iter()
        .map(|message| record(message.message_id().unwrap_or_default(), message.body().unwrap_or_default()))
        .collect();
    // A function that fails has all its records delivered again, once they are visible.
    let Ok(failed) = failures(&function, records).await else { return };
    for message in messages {
        if !failed.iter().any(|failed| Some(failed.as_str()) == message.message_id()) {
            let delete = client.delete_message().queue_url(&url).set_receipt_handle(message.receipt_handle);
            // A record that was not deleted comes again, which changes nothing.
            let _ = delete.send().await;
        }
    }
}

async fn failures(function: &Pool, records: Vec<SqsMessage>) -> Result<Vec<String>> {
    let answer = function.invoke(&event(records)).await?;
    let response: SqsBatchResponse = serde_json::from_value(answer)?;
    Ok(response.batch_item_failures.into_iter().map(|failure| failure.item_identifier).collect())
}
