//! By which connection a topic is heard: by the one that there is, or, in a cluster, by the one to the node that holds it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use redis::Client;
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{
    cluster::{Cluster, Node, Slots},
    subscriber::Look,
};
use crate::{error::Result, keys::Topic};

/// Time between two questions who holds what, where nothing makes us ask sooner.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Shortest time between two such questions.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A connection that is kept standing, as those see it who listen.
#[derive(Clone)]
pub(super) struct Line(Arc<Ends>);

struct Ends {
    connected: AtomicBool,
    answered: Mutex<Instant>,
    looks: mpsc::UnboundedSender<Look>,
    /// Slots went from one node to another; who listens to what by this line is to be looked at anew.
    moved: Notify,
    /// The node has sent us elsewhere with a topic.
    refused: AtomicBool,
}

/// The other end of a line, of whoever keeps its connection.
pub(super) struct Keeper {
    pub(super) client: Client,
    pub(super) line: Line,
    pub(super) looks: mpsc::UnboundedReceiver<Look>,
    /// Whether the connection is to a node of a cluster, and whom to tell that a topic is not there.
    pub(super) stale: Option<Arc<Notify>>,
    pub(super) closed: CancellationToken,
}

/// All connections.
pub(super) struct Lines {
    born: Instant,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// In a cluster, who holds what; the lines are in the order of its nodes.
    slots: Option<Arc<Slots>>,
    lines: Vec<Line>,
}

impl Line {
    fn new(client: Client, stale: Option<Arc<Notify>>, closed: CancellationToken) -> (Self, Keeper) {
        // Unbounded, since a lost look would leave a topic behind; one who listens sends two in a life, and none while there
        // is no connection to take them off.
        let (sender, looks) = mpsc::unbounded_channel();
        let line = Self(Arc::new(Ends {
            connected: AtomicBool::new(false),
            answered: Mutex::new(Instant::now()),
            looks: sender,
            moved: Notify::new(),
            refused: AtomicBool::new(false),
        }));
        (line.clone(), Keeper { client, line, looks, stale, closed })
    }

    pub(super) fn connected(&self) -> bool {
        self.0.connected.load(Ordering::SeqCst)
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.0.connected.store(connected, Ordering::SeqCst);
    }

    /// Redis has answered.
    pub(super) fn answered(&self) {
        *self.0.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silence(&self) -> Duration {
        self.0.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Asks the keeper to look, if there is a connection to look at.
    pub(super) fn look(&self, look: Look) {
        if self.connected() {
            // If the keeper has ended, nobody is left to listen for.
            let _ = self.0.looks.send(look);
        }
    }

    /// The node has sent us elsewhere with a topic: it is looked at anew when it was asked where.
    pub(super) fn refuse(&self) {
        self.0.refused.store(true, Ordering::SeqCst);
    }

    pub(super) async fn moved(&self) {
        self.0.moved.notified().await;
    }
}

impl Lines {
    pub(super) fn new() -> Self {
        Self { born: Instant::now(), known: RwLock::default() }
    }

    /// One line, for all topics.
    pub(super) fn single(&self, client: Client, closed: CancellationToken) -> Keeper {
        let (line, keeper) = Line::new(client, None, closed);
        self.known.write().unwrap_or_else(PoisonError::into_inner).lines.push(line);
        keeper
    }

    /// The line by which a topic is heard, if its node is known.
    pub(super) fn of(&self, topic: &Topic) -> Option<Line> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let place = known.slots.as_ref().map_or(Some(0), |slots| slots.place(topic));
        known.lines.get(place?).cloned()
    }

    /// Whether a topic is heard by this line.
    pub(super) fn leads(&self, topic: &Topic, line: &Line) -> bool {
        self.of(topic).is_some_and(|of| Arc::ptr_eq(&of.0, &line.0))
    }

    /// Whether all connections stand.
    pub(super) fn connected(&self) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        !known.lines.is_empty() && known.lines.iter().all(Line::connected)
    }

    /// How long ago the one answered that is silent for longest; since the start, where there is none.
    pub(super) fn silence(&self) -> Duration {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.lines.iter().map(Line::silence).max().unwrap_or_else(|| self.born.elapsed())
    }

    /// Keeps a line to every node of a cluster that holds something, until `closed`; `keep` takes care of a new one.
    pub(super) async fn follow(&self, cluster: Cluster, closed: CancellationToken, keep: impl Fn(Keeper)) {
        let stale = Arc::new(Notify::new());
        let mut lines: HashMap<Node, (Line, DropGuard)> = HashMap::new();
        let mut slots = Arc::new(Slots::default());
        let following = async {
            loop {
                match self.step(&cluster, &slots, &mut lines, &stale, &closed, &keep).await {
                    Ok(now) => slots = now,
                    Err(error) => {
                        warn!(?error, "subscriber cannot connect to any node of the cluster");
                        stale.notify_one();
                    }
                }
                sleep(ASK_AGAIN).await;
                let _ = timeout(ASK_EVERY, stale.notified()).await;
            }
        };
        closed.run_until_cancelled(following).await;
    }

    async fn step(
        &self,
        cluster: &Cluster,
        known: &Slots,
        lines: &mut HashMap<Node, (Line, DropGuard)>,
        stale: &Arc<Notify>,
        closed: &CancellationToken,
        keep: &impl Fn(Keeper),
    ) -> Result<Arc<Slots>> {
        let slots = Arc::new(cluster.slots(known).await?);
        let changed = *slots != *known;
        if changed {
            info!(nodes = slots.nodes().len(), "topics are where the cluster now says");
        }
        lines.retain(|node, _| slots.nodes().contains(node));
        for node in slots.nodes() {
            if !lines.contains_key(node) {
                let closed = closed.child_token();
                let (line, keeper) = Line::new(cluster.client(node)?, Some(Arc::clone(stale)), closed.clone());
                lines.insert(node.clone(), (line, closed.drop_guard()));
                keep(keeper);
            }
        }
        let ordered: Vec<Line> = slots.nodes().iter().map(|node| lines[node].0.clone()).collect();
        *self.known.write().unwrap_or_else(PoisonError::into_inner) =
            Known { slots: Some(Arc::clone(&slots)), lines: ordered.clone() };
        for line in ordered {
            if line.0.refused.swap(false, Ordering::SeqCst) || changed {
                line.0.moved.notify_one();
            }
        }
        Ok(slots)
    }
}
