//! The sending end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use redis::{AsyncCommands, ProtocolVersion, aio::ConnectionManager};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    LOOK_AGAIN, client,
    shards::{Shards, lazily},
};
use crate::{
    config,
    drain::Draining,
    error::{Error, Result},
    event::ServerFrame,
    keys::{Key, Topic},
    trace,
};

/// News that wait to be published at most; beyond it they are dropped, as Redis itself might.
const OUTBOX: usize = 8_192;

/// Queues of news to be published in a cluster: whoever waits for one node holds up nothing that goes to another. Where
/// there are more nodes than this, some share one.
const LANES: usize = 16;

/// Topics that are asked in one round trip to look again.
const TOGETHER: usize = 500;

/// How long a hint under a key stands. Whoever it is for looks several times a second; after this the fact must do.
const HINT_SECONDS: u64 = 60;

/// Publishes.
#[derive(Clone)]
pub struct Publisher {
    pub(super) conn: ConnectionManager,
    /// Where there is a cluster for what is published.
    pub(super) shards: Option<Shards>,
}

impl Publisher {
    /// A publisher that connects when first used, and again whenever it must.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the URL is malformed.
    pub fn new(settings: &config::Redis) -> Result<Self> {
        let (client, shards) = (client(settings, ProtocolVersion::RESP2)?, Shards::of(settings)?);
        Ok(Self { conn: lazily(&client)?, shards })
    }

    /// Tells whoever listens. Nobody may.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take it; the fact itself stands.
    pub async fn publish(&self, topic: &Topic, frame: &ServerFrame) -> Result<()> {
        self.send(vec![(topic, frame.json())]).await
    }

    /// Tells several things in their order, in one round trip.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take them all.
    pub async fn publish_all(&self, news: &[(Topic, ServerFrame)]) -> Result<()> {
        let parent = trace::current();
        let followed = |json| match &parent {
            Some(parent) => parent.put_on(json),
            None => json,
        };
        self.send(news.iter().map(|(topic, frame)| (topic, followed(frame.json()))).collect()).await
    }

    async fn send(&self, pieces: Vec<(&Topic, String)>) -> Result<()> {
        if let Some(shards) = &self.shards {
            return shards.publish(pieces).await;
        }
        let mut pipeline = redis::pipe();
        for (topic, payload) in pieces {
            pipeline.publish(topic.as_str(), payload).ignore();
        }
        pipeline.query_async::<()>(&mut self.conn.clone()).await.map_err(Error::unavailable)
    }

    /// Makes everybody who listens to these topics look at the store again: who may not be there any more is out at once
    /// then, and not only when their next message or ping finds out.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take it; then it is the next ping that finds out.
    pub async fn look_again(&self, topics: &[Topic]) -> Result<()> {
        for together in topics.chunks(TOGETHER) {
            self.send(together.iter().map(|topic| (topic, LOOK_AGAIN.to_owned())).collect()).await?;
        }
        Ok(())
    }

    /// Sets a key that expires.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take it.
    pub async fn set(&self, key: &Key, value: &str, expiry: Duration) -> Result<()> {
        let seconds = expiry.as_secs().max(1);
        self.conn.clone().set_ex::<_, _, ()>(key.as_str(), value, seconds).await.map_err(Error::unavailable)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        self.conn.clone().del::<_, ()>(key.as_str()).await.map_err(Error::unavailable)
    }

    /// Leaves a hint under a key, for a minute.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take it.
    pub async fn leave_hint(&self, key: &Key) -> Result<()> {
        self.conn.clone().set_ex::<_, _, ()>(key.as_str(), 1, HINT_SECONDS).await.map_err(Error::unavailable)
    }

    /// Whether there is a hint under a key.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn hinted(&self, key: &Key) -> Result<bool> {
        self.conn.clone().exists(key.as_str()).await.map_err(Error::unavailable)
    }

    /// Answers if Redis does.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.conn.clone().ping::<()>().await.map_err(Error::unavailable)
    }

    /// Publishes in the background from now on, in order, those that are ready together. The task ends after `stop`,
    /// once what waits then is published.
    #[must_use]
    pub fn into_background(self, stop: CancellationToken) -> (Outbox, JoinHandle<()>) {
        let shards = self.shards.clone();
        let lanes = if shards.is_some() { LANES } else { 1 };
        let (waiting, ready): (Vec<_>, Vec<_>) = (0..lanes).map(|_| mpsc::channel(OUTBOX)).unzip();
        let task = tokio::spawn(async move {
            join_all(ready.into_iter().map(|ready| self.publish_from(Draining::new(ready, stop.clone())))).await;
        });
        (Outbox { waiting, shards, dropped: Arc::default() }, task)
    }

    async fn publish_from(&self, mut ready: Draining<(Topic, ServerFrame)>) {
        let mut batch = Vec::new();
        while ready.take(&mut batch, 64).await > 0 {
            if let Err(error) = self.publish_all(&batch).await {
                warn!(news = batch.len(), ?error, "news not published; sockets will find the facts");
            }
            batch.clear();
        }
    }
}

/// Takes news to be published without waiting for Redis.
#[derive(Clone)]
pub struct Outbox {
    /// One; in a cluster [`LANES`].
    waiting: Vec<mpsc::Sender<(Topic, ServerFrame)>>,
    shards: Option<Shards>,
    dropped: Arc<AtomicU64>,
}

impl Outbox {
    /// Publishes soon. Never waits: when too much waits already, the news is dropped.
    pub fn publish(&self, topic: Topic, frame: ServerFrame) {
        let lane = self.shards.as_ref().map_or(0, |shards| shards.lane(&topic)) % self.waiting.len();
        if self.waiting[lane].try_send((topic, frame)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            debug!("too much news waits, or we are leaving; one dropped");
        }
    }

    /// How much was dropped so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
