//! The sending end in a cluster: to each node what it holds, and nobody waits for another's node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use redis::{
    ProtocolVersion, RedisResult,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::time::{Instant, sleep_until, timeout};

use super::{
    ANSWER_TIMEOUT,
    cluster::{Cluster, Node, Slots},
};
use crate::{
    config,
    error::{Error, Result},
    keys::Topic,
};

/// Shortest time between two questions who holds what, while somebody is away.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A cluster to publish in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Shards(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    known: Mutex<Known>,
    /// Held by whoever asks the cluster who holds what, and when that was last.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Known {
    slots: Arc<Slots>,
    conns: HashMap<Node, ConnectionManager>,
}

/// Something to publish.
pub(super) type Piece<'a> = (&'a Topic, String);

impl Shards {
    /// The cluster of the settings, if they name one.
    pub(super) fn of(settings: &config::Redis) -> Result<Option<Self>> {
        let cluster = Cluster::of(settings, ProtocolVersion::RESP2)?;
        Ok(cluster
            .map(|cluster| Self(Arc::new(Inner { cluster, known: Mutex::default(), asking: Default::default() }))))
    }

    /// A number that is the same for topics that the same node holds: whatever is sent to one node may wait for it.
    pub(super) fn lane(&self, topic: &Topic) -> usize {
        self.known().slots.place(topic).unwrap_or(0)
    }

    /// Publishes, what belongs to one topic in its order. What a node did not take goes once more, to whoever holds it then.
    ///
    /// Boxed: futures of whoever publishes, with a cluster or without, are no deeper for it.
    pub(super) fn publish<'a>(&'a self, pieces: Vec<Piece<'a>>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let mut slots = Arc::clone(&self.known().slots);
            if slots.nodes().is_empty() {
                slots = self.newer_than(&slots).await?;
            }
            let (left, _) = self.send(&slots, pieces).await;
            if left.is_empty() {
                return Ok(());
            }
            let slots = self.newer_than(&slots).await?;
            let (_, refused) = self.send(&slots, left).await;
            refused.map_or(Ok(()), Err)
        })
    }

    /// Sends to all nodes at the same time; returns what was not taken, and why.
    async fn send<'a>(&self, slots: &Slots, pieces: Vec<Piece<'a>>) -> (Vec<Piece<'a>>, Option<Error>) {
        let mut by_node: HashMap<Option<usize>, Vec<Piece<'a>>> = HashMap::new();
        for piece in pieces {
            by_node.entry(slots.place(piece.0)).or_default().push(piece);
        }
        let sent = join_all(by_node.into_iter().map(async |(place, pieces)| {
            let Some(place) = place else {
                return (pieces, Some(Error::unavailable("no node of the cluster holds this topic")));
            };
            let node = &slots.nodes()[place];
            let answers = match timeout(ANSWER_TIMEOUT, self.send_to(node, &pieces)).await {
                Ok(Ok(answers)) => answers,
                Ok(Err(error)) => return (pieces, Some(error)),
                Err(late) => return (pieces, Some(Error::unavailable(late))),
            };
            let mut refused = None;
            let left = pieces.into_iter().zip(answers).filter_map(|(piece, answer)| {
                refused = Some(Error::unavailable(answer.err()?));
                Some(piece)
            });
            (left.collect(), refused)
        }));
        let (left, refused): (Vec<_>, Vec<_>) = sent.await.into_iter().unzip();
        (left.into_iter().flatten().collect(), refused.into_iter().flatten().next())
    }

    /// What a node answers to each piece.
    async fn send_to(&self, node: &Node, pieces: &[Piece<'_>]) -> Result<Vec<RedisResult<i64>>> {
        let mut pipeline = redis::pipe();
        for (topic, payload) in pieces {
            pipeline.spublish(topic.as_str(), payload);
        }
        pipeline.ignore_errors().query_async(&mut self.conn(node)?).await.map_err(Error::unavailable)
    }

    fn conn(&self, node: &Node) -> Result<ConnectionManager> {
        let mut known = self.known();
        if let Some(conn) = known.conns.get(node) {
            return Ok(conn.clone());
        }
        let conn = lazily(&self.0.cluster.client(node)?)?;
        known.conns.insert(node.clone(), conn.clone());
        Ok(conn)
    }

    /// Who holds what, as it was said after `slots`. However many want to know, the cluster is asked now and then.
    async fn newer_than(&self, slots: &Arc<Slots>) -> Result<Arc<Slots>> {
        let mut asked = self.0.asking.lock().await;
        let known = Arc::clone(&self.known().slots);
        if !Arc::ptr_eq(&known, slots) {
            return Ok(known);
        }
        if let Some(asked) = *asked {
            sleep_until(asked + ASK_AGAIN).await;
        }
        *asked = Some(Instant::now());
        let slots = Arc::new(self.0.cluster.slots(&known).await?);
        let mut known = self.known();
        known.slots = Arc::clone(&slots);
        known.conns.retain(|node, _| slots.nodes().contains(node));
        Ok(slots)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is made when first used, and again whenever it must.
pub(super) fn lazily(client: &redis::Client) -> Result<ConnectionManager> {
    let config = ConnectionManagerConfig::new()
        .set_response_timeout(Some(ANSWER_TIMEOUT))
        .set_connection_timeout(Some(ANSWER_TIMEOUT))
        .set_number_of_retries(1);
    client.get_connection_manager_lazy(config).map_err(Error::internal)
}
