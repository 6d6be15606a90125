//! A queue in this process: bounded, forgets everything when the process ends. Safe, since it holds only hints.

use std::sync::Arc;

use futures::future::BoxFuture;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::sync::{Mutex, mpsc};

use super::Queue;
use crate::{
    error::{Error, Result},
    ids::RequestId,
    job::Job,
};

/// Largest body, in bytes, as SQS has it since 2025-08.
const MAX_BODY_BYTES: usize = 1_048_576;

/// The sending end.
#[derive(Clone)]
pub struct Local {
    sender: mpsc::Sender<Delivery>,
}

/// The receiving end, for whoever plays the event source.
pub struct Inbox {
    receiver: mpsc::Receiver<Delivery>,
    sender: mpsc::Sender<Delivery>,
    mischief: Option<Arc<Mutex<(Mischief, StdRng)>>>,
}

/// One hint on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Tells deliveries apart.
    pub id: String,
    /// The body, as it was sent.
    pub body: String,
    /// How often it was delivered, this time included.
    pub count: u32,
}

/// What a standard queue may do to its messages, by seed.
#[derive(Debug, Clone, Copy)]
pub struct Mischief {
    /// Makes a run repeatable.
    pub seed: u64,
    /// Share of messages that come twice, 0 to 1.
    pub repeat: f64,
    /// Share of batches that come in another order, 0 to 1.
    pub reorder: f64,
}

impl Local {
    /// A queue that holds at most `capacity` hints. When it is full further ones are refused, and the sweep finds
    /// their turns.
    #[must_use]
    pub fn new(capacity: usize, mischief: Option<Mischief>) -> (Self, Inbox) {
        let (sender, receiver) = mpsc::channel(capacity);
        let mischief = mischief.map(|mischief| Arc::new(Mutex::new((mischief, StdRng::seed_from_u64(mischief.seed)))));
        (Self { sender: sender.clone() }, Inbox { receiver, sender, mischief })
    }
}

impl Queue for Local {
    fn send<'a>(&'a self, jobs: &'a [Job]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for job in jobs {
                let body = job.body();
                if body.len() > MAX_BODY_BYTES || body.chars().any(refused) {
                    return Err(Error::internal("a body that SQS would refuse"));
                }
                let delivery = Delivery { id: RequestId::new().to_string(), body, count: 1 };
                self.sender.try_send(delivery).map_err(Error::unavailable)?;
            }
            Ok(())
        })
    }
}

impl Inbox {
    /// Waits for hints and takes up to `most`; `None` once every sender is gone.
    pub async fn receive(&mut self, most: usize) -> Option<Vec<Delivery>> {
        let mut batch = Vec::with_capacity(most);
        if self.receiver.recv_many(&mut batch, most).await == 0 {
            return None;
        }
        if let Some(mischief) = &self.mischief {
            let (mischief, rng) = &mut *mischief.lock().await;
            for delivery in &batch {
                if rng.random_bool(mischief.repeat) {
                    // A full queue may lose the repeat.
                    let _ = self.sender.try_send(delivery.clone());
                }
            }
            if rng.random_bool(mischief.reorder) {
                batch.shuffle(rng);
            }
        }
        Some(batch)
    }

    /// Puts back what failed, as the visibility timeout would.
    pub fn put_back(&self, mut delivery: Delivery) {
        delivery.count += 1;
        // A full queue loses the hint; the sweep finds its turn.
        let _ = self.sender.try_send(delivery);
    }
}

/// What SQS does not carry: anything but the characters of XML 1.0.
/// Source: <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>.
fn refused(c: char) -> bool {
    !matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ConversationId, TenantId, TurnId, UserId};

    fn job() -> Job {
        Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new())
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_keeps_what_it_has() {
        let (queue, mut inbox) = Local::new(2, None);
        let jobs = [job(), job(), job()];
        assert!(queue.send(&jobs).await.is_err());
        let batch = inbox.receive(10).await.unwrap();
        assert_eq!(batch.iter().map(|d| d.body.clone()).collect::<Vec<_>>(), [jobs[0].body(), jobs[1].body()]);
    }

    #[tokio::test]
    async fn what_sqs_refuses_is_refused() {
        let (queue, _inbox) = Local::new(2, None);
        let mut large = job();
        large.message.content.text = "a".repeat(MAX_BODY_BYTES);
        assert!(queue.send(&[large]).await.is_err());
        // JSON writes control characters as escapes; the two non-characters stand as they are.
        let mut strange = job();
        strange.message.content.text = "\u{ffff}".to_owned();
        assert!(queue.send(&[strange]).await.is_err());
    }

    #[tokio::test]
    async fn a_seed_repeats_its_mischief() {
        async fn run(seed: u64) -> Vec<usize> {
            let (queue, mut inbox) = Local::new(100, Some(Mischief { seed, repeat: 0.5, reorder: 0.5 }));
            let jobs: Vec<Job> = (0..20).map(|_| job()).collect();
            queue.send(&jobs).await.unwrap();
            let mut order = Vec::new();
            for _ in 0..3 {
                for delivery in inbox.receive(10).await.unwrap() {
                    order.push(jobs.iter().position(|job| job.body() == delivery.body).unwrap());
                }
            }
            order
        }
        let first = run(7).await;
        assert_eq!(first, run(7).await);
        assert_ne!(first, (0..first.len()).collect::<Vec<_>>(), "nothing was repeated or reordered");
    }
}
