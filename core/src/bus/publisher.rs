//! The sending end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncCommands, ProtocolVersion,
    aio::{ConnectionManager, ConnectionManagerConfig},
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{ANSWER_TIMEOUT, LOOK_AGAIN, client};
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

/// Topics that are asked in one round trip to look again.
const TOGETHER: usize = 500;

/// How long a hint under a key stands. Whoever it is for looks several times a second; after this the fact must do.
const HINT_SECONDS: u64 = 60;

/// Publishes.
#[derive(Clone)]
pub struct Publisher {
    pub(super) conn: ConnectionManager,
}

impl Publisher {
    /// A publisher that connects when first used, and again whenever it must.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the URL is malformed.
    pub fn new(settings: &config::Redis) -> Result<Self> {
        let client = client(settings, ProtocolVersion::RESP2)?;
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_number_of_retries(1);
        let conn = client.get_connection_manager_lazy(config).map_err(Error::internal)?;
        Ok(Self { conn })
    }

    /// Tells whoever listens. Nobody may.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take it; the fact itself stands.
    pub async fn publish(&self, topic: &Topic, frame: &ServerFrame) -> Result<()> {
        let mut conn = self.conn.clone();
        conn.publish::<_, _, ()>(topic.as_str(), frame.json()).await.map_err(Error::unavailable)
    }

    /// Tells several things in their order, in one round trip.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not take them all.
    pub async fn publish_all(&self, news: &[(Topic, ServerFrame)]) -> Result<()> {
        let mut pipeline = redis::pipe();
        let parent = trace::current();
        for (topic, frame) in news {
            let json = frame.json();
            let followed = match &parent {
                Some(parent) => parent.put_on(json),
                None => json,
            };
            pipeline.publish(topic.as_str(), followed).ignore();
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
            let mut pipeline = redis::pipe();
            for topic in together {
                pipeline.publish(topic.as_str(), LOOK_AGAIN).ignore();
            }
            pipeline.query_async::<()>(&mut self.conn.clone()).await.map_err(Error::unavailable)?;
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
        let (waiting, ready) = mpsc::channel::<(Topic, ServerFrame)>(OUTBOX);
        let mut ready = Draining::new(ready, stop);
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while ready.take(&mut batch, 64).await > 0 {
                if let Err(error) = self.publish_all(&batch).await {
                    warn!(news = batch.len(), ?error, "news not published; sockets will find the facts");
                }
                batch.clear();
            }
        });
        (Outbox { waiting, dropped: Arc::default() }, task)
    }
}

/// Takes news to be published without waiting for Redis.
#[derive(Clone)]
pub struct Outbox {
    waiting: mpsc::Sender<(Topic, ServerFrame)>,
    dropped: Arc<AtomicU64>,
}

impl Outbox {
    /// Publishes soon. Never waits: when too much waits already, the news is dropped.
    pub fn publish(&self, topic: Topic, frame: ServerFrame) {
        if self.waiting.try_send((topic, frame)).is_err() {
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
