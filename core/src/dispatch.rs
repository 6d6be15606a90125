//! Hints that a conversation has work: right after the commit, and again by the sweep while nobody took them.
//!
//! Neither tells anybody when it fails: the turn is in Postgres, and the next sweep looks there. But it is counted how
//! many hints were given since the queue last took any, so that a hub can stop accepting what nobody would answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Span, debug, warn};

use crate::{
    drain::Draining,
    error::Result,
    job::Job,
    queue::Queue,
    store::{Store, sweep::Ended, sweep::Pace},
    trace, trace_span,
};

/// Hints that wait to be sent at most. Beyond it a hint is left to the sweep.
const WAITING: usize = 4_096;

/// Hints sent in one call: as many as SQS takes.
const TOGETHER: usize = 10;

/// Hints of a sweep that stand or fall together: as many as are on their way side by side.
const PART: usize = 80;

/// Time between two tries while the queue takes nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// Longest time between two sweeps of a hub. A sweep that finds nothing reads a few pages of one small index.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Sends hints: those of what was just stored in the background, the ready ones together, and those of a sweep.
#[derive(Clone)]
pub struct Dispatcher {
    waiting: mpsc::Sender<Job>,
    outlet: Arc<Outlet>,
}

/// The queue, and how many hints were given since it last took any.
struct Outlet {
    queue: Arc<dyn Queue>,
    unsent: AtomicUsize,
    sent: AtomicU64,
    left: AtomicU64,
}

impl Outlet {
    async fn send(&self, hints: &[Job]) -> Result<()> {
        self.queue.send(hints).await?;
        self.unsent.store(0, Ordering::Relaxed);
        self.sent.fetch_add(hints.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// How many hints were given.
    pub hinted: usize,
    /// The turns that were ended, for somebody to tell.
    pub ended: Vec<Ended>,
    /// There is more to find, and a queue that takes it: sweep again at once.
    pub more: bool,
}

impl Dispatcher {
    /// Starts it; it ends after `stop`, once what waits then was tried.
    pub fn start(queue: Arc<dyn Queue>, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (waiting, ready) = mpsc::channel(WAITING);
        let outlet =
            Arc::new(Outlet { queue, unsent: AtomicUsize::new(0), sent: AtomicU64::new(0), left: AtomicU64::new(0) });
        let task = tokio::spawn(send(Arc::clone(&outlet), Draining::new(ready, stop.clone()), stop));
        (Self { waiting, outlet }, task)
    }

    /// Sends a hint soon, without waiting for it.
    pub fn hint(&self, mut job: Job) {
        job.traceparent = trace::current();
        self.outlet.unsent.fetch_add(1, Ordering::Relaxed);
        if self.waiting.try_send(job).is_err() {
            self.outlet.left.fetch_add(1, Ordering::Relaxed);
            debug!("too many hints wait, or we are leaving; the sweep will find this turn");
        }
    }

    /// How many hints were given since the queue last took any, here or from a sweep.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outlet.unsent.load(Ordering::Relaxed)
    }

    /// How many hints the queue took so far, here or from a sweep.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.outlet.sent.load(Ordering::Relaxed)
    }

    /// How many hints were left to the sweep so far, since too many waited.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.outlet.left.load(Ordering::Relaxed)
    }

    /// Looks once for turns left lying, sends a hint for each that can still run, and ends the others.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer. A queue that is away is no error
    /// here: the turns are found again after the shortest time, however often that was.
    pub async fn sweep(&self, store: &Store, pace: &Pace) -> Result<Swept> {
        let found = store.sweep(pace).await?;
        let full = found.waiting.len() + found.spent.len() >= usize::try_from(pace.batch).unwrap_or(usize::MAX);
        let (mut ended, mut nexts) = (Vec::new(), Vec::new());
        for spent in found.spent {
            match store.bury(spent, pace).await {
                Ok((end, next)) => {
                    ended.extend(end);
                    nexts.extend(next);
                }
                Err(error) => warn!(?error, "a spent turn was not ended; the next sweep will find it"),
            }
        }
        if !found.waiting.is_empty() {
            debug!(hints = found.waiting.len(), "turns were left lying");
        }
        let taken = self.send_parts(&found.waiting).await;
        if taken < found.waiting.len()
            && let Err(error) = store.not_hinted(&found.hinted[taken..]).await
        {
            warn!(?error, "turns whose hints were not sent are found again a little later");
        }
        // Those behind the turns that were ended; they have waited for no hint of their own yet.
        self.send_parts(&nexts).await;
        self.send_parts(&found.notices).await;
        Ok(Swept { hinted: taken, ended, more: full && taken == found.waiting.len() })
    }

    /// Sends hints until the queue refuses some; returns how many it had taken by then.
    async fn send_parts(&self, hints: &[Job]) -> usize {
        let mut taken = 0;
        for part in hints.chunks(PART) {
            if let Err(error) = self.outlet.send(part).await {
                warn!(hints = hints.len() - taken, ?error, "hints not sent; the next sweeps will find their turns");
                break;
            }
            taken += part.len();
        }
        taken
    }
}

/// Sends what is ready until told to stop. While the queue takes nothing some hint is always being tried: that is what
/// finds out that it is back, even where no sweep has anything to send.
async fn send(outlet: Arc<Outlet>, mut ready: Draining<Job>, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(TOGETHER);
    while ready.take(&mut batch, TOGETHER).await > 0 {
        let _followed = follow(&mut batch);
        while let Err(error) = outlet.send(&batch).await {
            warn!(hints = batch.len(), ?error, "hints not sent; the sweep will find their turns");
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(AGAIN) => {}
            }
            // Newer ones find it out just as well, and may not be to blame.
            if !ready.is_empty() {
                break;
            }
        }
        batch.clear();
    }
}

/// Makes a span of each hint whose message is followed; they end when these are dropped.
fn follow(batch: &mut [Job]) -> Vec<Span> {
    let followed = batch.iter_mut().filter(|job| job.traceparent.is_some());
    let span = |job: &mut Job| {
        let span = trace::under(trace_span!("dispatch", otel.kind = "producer"), job.traceparent.as_ref());
        job.traceparent = trace::of(&span);
        span
    };
    followed.map(span).collect()
}

/// How often a hub sweeps: often enough for a turn's second hint to come when it should.
#[must_use]
pub fn sweep_every(pace: &Pace) -> Duration {
    SWEEP_EVERY.min(pace.first)
}
