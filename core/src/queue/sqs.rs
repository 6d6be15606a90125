//! SQS: a standard queue, fair by tenant.

use std::{sync::Arc, time::Duration};

use aws_sdk_sqs::{
    Client,
    config::{BehaviorVersion, timeout::TimeoutConfig},
    types::SendMessageBatchRequestEntry,
};
use futures::{TryStreamExt, future::BoxFuture, stream};
use tokio::sync::OnceCell;

use super::Queue;
use crate::{
    config,
    error::{Error, Result},
    job::Job,
};

/// Entries of one call at most.
/// Source: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>.
const BATCH: usize = 10;

/// Calls of one sending under way at once: a sweep's hints are many, and each call is a round trip.
const SIDE_BY_SIDE: usize = 8;

/// Longest wait for one call, retries included. A hint that takes longer is no better than the sweep.
const TIMEOUT: Duration = Duration::from_secs(4);

/// An SQS queue.
#[derive(Clone)]
pub struct Sqs {
    client: Arc<OnceCell<Client>>,
    url: String,
}

impl Sqs {
    /// A queue reached with the SDK's own settings: `AWS_REGION`, credentials, `AWS_ENDPOINT_URL_SQS`. They are read, and
    /// this machine's certificates, when there is something to send: most that a function is started for sends nothing.
    #[must_use]
    pub fn from_settings(settings: &config::Queue) -> Self {
        Self { client: Arc::default(), url: settings.url.clone() }
    }

    /// The same, made at once: for who is here for long and shall have its first hint sent as fast as the others.
    pub async fn connect(settings: &config::Queue) -> Self {
        let sqs = Self::from_settings(settings);
        sqs.client.get_or_init(client).await;
        sqs
    }

    /// A queue reached through a client that is at hand.
    #[must_use]
    pub fn new(client: Client, url: String) -> Self {
        Self { client: Arc::new(OnceCell::new_with(Some(client))), url }
    }
}

impl Queue for Sqs {
    fn send<'a>(&'a self, jobs: &'a [Job]) -> BoxFuture<'a, Result<()>> {
        let calls = stream::iter(jobs.chunks(BATCH).map(Ok));
        Box::pin(calls.try_for_each_concurrent(SIDE_BY_SIDE, |batch| self.call(batch)))
    }
}

impl Sqs {
    async fn call(&self, batch: &[Job]) -> Result<()> {
        let client = self.client.get_or_init(client).await;
        let mut call = client.send_message_batch().queue_url(&self.url);
        for (number, job) in batch.iter().enumerate() {
            let entry = SendMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .message_body(job.body())
                // On a standard queue the group does not order: it keeps one tenant from delaying the others.
                .set_message_group_id(job.message.tenant_id.map(|tenant| tenant.to_string()))
                .build()
                .map_err(Error::internal)?;
            call = call.entries(entry);
        }
        let sent = call.send().await.map_err(Error::unavailable)?;
        if let Some(refused) = sent.failed().first() {
            return Err(Error::unavailable(format!(
                "{} of {} hints refused, the first with {}",
                sent.failed().len(),
                batch.len(),
                refused.code()
            )));
        }
        Ok(())
    }
}

async fn client() -> Client {
    let timeouts = TimeoutConfig::builder().operation_timeout(TIMEOUT).build();
    Client::new(&aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await)
}
