//! Plays Lambda's event sources for SQS: receives, calls the handler, deletes what did not fail. What fails too often goes
//! to the dead-letter function.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_lambda_events::sqs::{SqsBatchResponse, SqsEvent, SqsMessage};
use aws_sdk_sqs::{Client, types::QueueAttributeName};
use chat_core::queue::{Delivery, Inbox};
use dead_letters::DeadLetters;
use orchestrator::Orchestrator;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::product::{SqsAddress, sqs_client};

/// Records of one call at most, as a standard queue gives without a batching window.
const BATCH: usize = 10;

/// Calls that run side by side at most: the template's `MaximumConcurrency` for one machine.
const CONCURRENCY: usize = 64;

/// Receives of one message before it would be a dead letter, as in the template.
const MAX_RECEIVES: u32 = 5;

/// How long a record that was received stays hidden, as in the template.
const VISIBILITY: Duration = Duration::from_secs(240);

/// How long a record that failed stays hidden in the in-process queue.
const HIDDEN: Duration = Duration::from_secs(1);

/// Where records come from.
pub enum Source {
    /// The in-process queue.
    Local(Inbox),
    /// An SQS-compatible server, and the queue on it.
    Sqs(Client, SqsAddress),
}

/// What the two queues wake.
#[derive(Clone)]
pub struct Functions {
    /// For hints.
    pub orchestrator: Orchestrator,
    /// For hints that failed too often.
    pub dead_letters: DeadLetters,
}

/// Runs until `stop`, then waits for the calls under way.
pub async fn run(source: Source, functions: Functions, stop: CancellationToken) {
    match source {
        Source::Local(inbox) => local(inbox, functions, stop).await,
        Source::Sqs(client, address) => {
            let Functions { orchestrator, dead_letters } = functions;
            let (dead_client, dead_url) = (client.clone(), address.dead_letters_url.clone());
            let hints = sqs(client, address.queue_url, stop.clone(), move |event| {
                let orchestrator = orchestrator.clone();
                async move { orchestrator.handle(event).await }
            });
            let dead = sqs(dead_client, dead_url, stop, move |event| {
                let dead_letters = dead_letters.clone();
                async move { dead_letters.handle(event).await }
            });
            tokio::join!(hints, dead);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "plays the visibility timeout")]
async fn local(mut inbox: Inbox, functions: Functions, stop: CancellationToken) {
    let mut calls = JoinSet::new();
    let (failed, mut failures) = mpsc::unbounded_channel::<Delivery>();
    loop {
        while calls.len() >= CONCURRENCY || calls.try_join_next().is_some() {
            if calls.len() >= CONCURRENCY {
                calls.join_next().await;
            }
        }
        let batch = tokio::select! {
            () = stop.cancelled() => break,
            Some(delivery) = failures.recv() => {
                inbox.put_back(delivery);
                continue;
            }
            batch = inbox.receive(BATCH) => match batch {
                Some(batch) => batch,
                None => break,
            },
        };
        let (functions, failed) = (functions.clone(), failed.clone());
        calls.spawn(async move {
            let records = batch.iter().map(|delivery| record(&delivery.id, &delivery.body)).collect();
            let response = functions.orchestrator.handle(event(records)).await;
            let back: Vec<_> = batch
                .into_iter()
                .filter(|delivery| response.batch_item_failures.iter().any(|f| f.item_identifier == delivery.id))
                .collect();
            if back.is_empty() {
                return;
            }
            sleep(HIDDEN).await;
            for delivery in back {
                if delivery.count >= MAX_RECEIVES {
                    let dead = event(vec![record(&delivery.id, &delivery.body)]);
                    if !functions.dead_letters.handle(dead).await.batch_item_failures.is_empty() {
                        warn!(message_id = delivery.id, "a dead letter was dropped; the sweep finds its turn");
                    }
                } else {
                    // The receiver lives as long as this loop.
                    let _ = failed.send(delivery);
                }
            }
        });
    }
    while calls.join_next().await.is_some() {}
}

#[expect(clippy::disallowed_methods, reason = "backs off as the event source does")]
async fn sqs<F: Future<Output = SqsBatchResponse> + Send + 'static>(
    client: Client,
    url: String,
    stop: CancellationToken,
    handle: impl Fn(SqsEvent) -> F,
) {
    let mut calls = JoinSet::new();
    loop {
        while calls.try_join_next().is_some() {}
        if calls.len() >= CONCURRENCY {
            calls.join_next().await;
        }
        let receive = client.receive_message().queue_url(&url).max_number_of_messages(10).wait_time_seconds(5).send();
        let received = tokio::select! {
            () = stop.cancelled() => break,
            received = receive => received,
        };
        let messages = match received {
            Ok(received) => received.messages.unwrap_or_default(),
            Err(error) => {
                warn!(?error, "no hints received; trying again");
                sleep(HIDDEN).await;
                continue;
            }
        };
        if messages.is_empty() {
            continue;
        }
        let records = messages
            .iter()
            .map(|message| record(message.message_id().unwrap_or_default(), message.body().unwrap_or_default()))
            .collect();
        let (client, url, call) = (client.clone(), url.clone(), handle(event(records)));
        calls.spawn(async move {
            let response = call.await;
            for message in messages {
                let failed = |id: &str| response.batch_item_failures.iter().any(|f| f.item_identifier == id);
                if failed(message.message_id().unwrap_or_default()) {
                    continue;
                }
                let delete = client.delete_message().queue_url(&url).set_receipt_handle(message.receipt_handle);
                if let Err(error) = delete.send().await {
                    warn!(?error, "a record was not deleted; it comes again, which changes nothing");
                }
            }
        });
    }
    while calls.join_next().await.is_some() {}
}

/// Creates a queue and its dead letters as the template has them, and returns its address.
///
/// # Errors
/// What the server refuses.
pub async fn create_queue(endpoint: &str, name: &str) -> Result<SqsAddress> {
    create_queue_hiding(endpoint, name, VISIBILITY).await
}

/// Does so, with another visibility timeout.
///
/// # Errors
/// What the server refuses.
pub async fn create_queue_hiding(endpoint: &str, name: &str, visibility: Duration) -> Result<SqsAddress> {
    let client = sqs_client(endpoint);
    let dead = client.create_queue().queue_name(format!("{name}-dead")).send().await?;
    let dead_url = dead.queue_url().context("the queue of dead letters has no URL")?;
    let arn = client.get_queue_attributes().queue_url(dead_url).attribute_names(QueueAttributeName::QueueArn);
    let arn = arn.send().await?.attributes.unwrap_or_default().remove(&QueueAttributeName::QueueArn);
    let redrive = json!({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES}).to_string();
    let queue = client
        .create_queue()
        .queue_name(name)
        .attributes(QueueAttributeName::VisibilityTimeout, visibility.as_secs().to_string())
        .attributes(QueueAttributeName::RedrivePolicy, redrive);
    let queue_url = queue.send().await?.queue_url.context("the queue has no URL")?;
    Ok(SqsAddress { endpoint: endpoint.to_owned(), queue_url, dead_letters_url: dead_url.to_owned() })
}

/// The event that Lambda would send.
#[must_use]
pub fn event(records: Vec<SqsMessage>) -> SqsEvent {
    let mut event = SqsEvent::default();
    event.records = records;
    event
}

/// One record of it.
#[must_use]
pub fn record(id: &str, body: &str) -> SqsMessage {
    let mut record = SqsMessage::default();
    record.message_id = Some(id.to_owned());
    record.body = Some(body.to_owned());
    record.event_source = Some("aws:sqs".to_owned());
    record
}
