//! Hints that a conversation has work: right after the commit, and again by the sweep while nobody took them.
//!
//! Neither tells anybody when it fails: the turn is in Postgres, and the next sweep looks there.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    drain::Draining,
    error::Result,
    job::Job,
    queue::Queue,
    store::{Store, sweep::Ended, sweep::Pace},
};

/// Hints that wait to be sent at most. Beyond it a hint is left to the sweep.
const WAITING: usize = 4_096;

/// Hints sent in one call: as many as SQS takes.
const TOGETHER: usize = 10;

/// Sends hints in the background, those that are ready together.
#[derive(Clone)]
pub struct Dispatcher {
    waiting: mpsc::Sender<Job>,
}

impl Dispatcher {
    /// Starts it; it ends after `stop`, once what waits then is sent.
    pub fn start(queue: Arc<dyn Queue>, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (waiting, ready) = mpsc::channel(WAITING);
        let mut ready = Draining::new(ready, stop);
        let task = tokio::spawn(async move {
            let mut batch = Vec::with_capacity(TOGETHER);
            while ready.take(&mut batch, TOGETHER).await > 0 {
                if let Err(error) = queue.send(&batch).await {
                    warn!(hints = batch.len(), ?error, "hints not sent; the sweep will find their turns");
                }
                batch.clear();
            }
        });
        (Self { waiting }, task)
    }

    /// Sends a hint soon, without waiting for it.
    pub fn hint(&self, job: Job) {
        if self.waiting.try_send(job).is_err() {
            debug!("too many hints wait, or we are leaving; the sweep will find this turn");
        }
    }
}

/// Looks once for turns left lying, sends a hint for each that can still run, ends the others, and returns those,
/// for somebody to tell.
///
/// # Errors
/// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer. A queue that is away is no error
/// here: the turns' next sweep comes later each time.
pub async fn sweep(store: &Store, queue: &dyn Queue, pace: &Pace) -> Result<Vec<Ended>> {
    let found = store.sweep(pace).await?;
    let mut hints: Vec<Job> = found.waiting.into_iter().collect();
    let mut ended = Vec::new();
    for spent in found.spent {
        match store.bury(spent, pace).await {
            Ok((end, next)) => {
                ended.extend(end);
                hints.extend(next);
            }
            Err(error) => warn!(?error, "a spent turn was not ended; the next sweep will find it"),
        }
    }
    if !hints.is_empty() {
        debug!(hints = hints.len(), "turns were left lying");
        if let Err(error) = queue.send(&hints).await {
            warn!(hints = hints.len(), ?error, "hints not sent; the next sweep will find their turns");
        }
    }
    Ok(ended)
}

/// Longest time between two sweeps of a hub. A sweep that finds nothing reads a few pages of one small index.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often a hub sweeps: often enough for a turn's second hint to come when it should.
#[must_use]
pub fn sweep_every(pace: &Pace) -> Duration {
    SWEEP_EVERY.min(pace.first)
}
