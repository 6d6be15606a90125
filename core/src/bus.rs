//! The bus: hints that a conversation has news. Redis pub-sub keeps nothing, so whatever comes over it is only the
//! quickest way to hear of a fact; who missed it reads Postgres.
//!
//! [`Publisher`] sends. [`Subscriber`] listens for a whole process on one connection: topics are counted by their
//! listeners, a subscription is confirmed before anybody relies on it, and when the connection was gone every listener
//! is told that it may have missed something.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};

use crate::{
    config,
    error::{Error, Result},
    event::ServerFrame,
    keys::{Key, Topic},
};

/// Longest wait for an answer of Redis. Past it the connection counts as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Time between two PINGs on the subscriber's connection, which otherwise would never notice a silent death:
/// with the answer's timeout, 8 s at most.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Topics in one SUBSCRIBE. Bounds the command, and the pause it makes for others.
const SUBSCRIBE_TOGETHER: usize = 500;

/// News that wait for one listener at most. A socket that falls this far behind is closed and catches up when it
/// comes back.
const MAILBOX: usize = 256;

/// News that wait to be published at most; beyond it they are dropped, as Redis itself might.
const OUTBOX: usize = 8_192;

/// Publishes.
#[derive(Clone)]
pub struct Publisher {
    conn: ConnectionManager,
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
        for (topic, frame) in news {
            pipeline.publish(topic.as_str(), frame.json()).ignore();
        }
        pipeline.query_async::<()>(&mut self.conn.clone()).await.map_err(Error::unavailable)
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        self.conn.clone().del::<_, ()>(key.as_str()).await.map_err(Error::unavailable)
    }

    /// Answers if Redis does.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if it does not.
    pub async fn ping(&self) -> Result<()> {
        self.conn.clone().ping::<()>().await.map_err(Error::unavailable)
    }

    /// Publishes in the background from now on, in order, those that are ready together. The task ends when the last
    /// clone of the outbox is gone.
    #[must_use]
    pub fn into_background(self) -> (Outbox, JoinHandle<()>) {
        let (waiting, mut ready) = mpsc::channel::<(Topic, ServerFrame)>(OUTBOX);
        let task = tokio::spawn(async move {
            let mut batch = Vec::new();
            while ready.recv_many(&mut batch, 64).await > 0 {
                if let Err(error) = self.publish_all(&batch).await {
                    warn!(news = batch.len(), ?error, "news not published; sockets will find the facts");
                }
                batch.clear();
            }
        });
        (Outbox { waiting }, task)
    }
}

/// Takes news to be published without waiting for Redis.
#[derive(Clone)]
pub struct Outbox {
    waiting: mpsc::Sender<(Topic, ServerFrame)>,
}

impl Outbox {
    /// Publishes soon. Never waits: when too much waits already, the news is dropped.
    pub fn publish(&self, topic: Topic, frame: ServerFrame) {
        if self.waiting.try_send((topic, frame)).is_err() {
            debug!("too much news waits; one dropped");
        }
    }
}

/// What a listener hears.
#[derive(Debug)]
pub enum News<T> {
    /// This was published.
    Event(Arc<T>),
    /// The connection was gone for a while: something may have been missed.
    Gap,
}

impl<T> Clone for News<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Event(event) => Self::Event(Arc::clone(event)),
            Self::Gap => Self::Gap,
        }
    }
}

/// Listens for a whole process on one connection. What is published is decoded once, for all listeners.
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    look: mpsc::Sender<Look>,
}

impl<T> Clone for Subscriber<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), look: self.look.clone() }
    }
}

struct Shared<T> {
    /// Who listens to what. The truth: the connection is brought into step with it. A plain mutex, since it is held
    /// for a look-up and a few sends that never wait.
    topics: Mutex<HashMap<Topic, Vec<Listener<T>>>>,
    decode: fn(&[u8]) -> Option<T>,
    next_listener: AtomicU64,
    connected: AtomicBool,
}

struct Listener<T> {
    id: u64,
    mailbox: mpsc::Sender<News<T>>,
}

/// Asks the connection's owner to bring one topic into step with who listens to it.
struct Look {
    topic: Topic,
    confirmed: Option<oneshot::Sender<()>>,
}

/// A confirmed subscription; ends when dropped.
pub struct Subscription<T> {
    news: mpsc::Receiver<News<T>>,
    listening: Listening<T>,
}

struct Listening<T> {
    shared: Arc<Shared<T>>,
    look: mpsc::Sender<Look>,
    topic: Topic,
    id: u64,
}

impl<T: Send + Sync + 'static> Subscriber<T> {
    /// Starts listening; `decode` reads a payload, or refuses it. The task ends when every clone is gone.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the URL is malformed.
    pub fn start(settings: &config::Redis, decode: fn(&[u8]) -> Option<T>) -> Result<(Self, JoinHandle<()>)> {
        let client = client(settings, ProtocolVersion::RESP3)?;
        let (look, looks) = mpsc::channel(1_024);
        let shared = Arc::new(Shared {
            topics: Mutex::default(),
            decode,
            next_listener: AtomicU64::new(0),
            connected: AtomicBool::new(false),
        });
        let owner = Owner { client, shared: Arc::clone(&shared), subscribed: HashSet::new(), unanswered: Vec::new() };
        let task = tokio::spawn(owner.run(looks));
        Ok((Self { shared, look }, task))
    }

    /// Listens to a topic. Once this returns, everything published from then on is in the mailbox, unless the
    /// connection breaks, which is told as a [`News::Gap`].
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not confirm within `patience`.
    pub async fn subscribe(&self, topic: Topic, patience: Duration) -> Result<Subscription<T>> {
        let (mailbox, news) = mpsc::channel(MAILBOX);
        let id = self.shared.next_listener.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().entry(topic.clone()).or_default().push(Listener { id, mailbox });
        // From here on a drop takes the listener out again.
        let listening = Listening { shared: Arc::clone(&self.shared), look: self.look.clone(), topic, id };
        let (confirmed, confirmation) = oneshot::channel();
        let look = Look { topic: listening.topic.clone(), confirmed: Some(confirmed) };
        tokio::time::timeout(patience, async {
            self.look.send(look).await.map_err(Error::unavailable)?;
            confirmation.await.map_err(Error::unavailable)
        })
        .await
        .map_err(Error::unavailable)??;
        Ok(Subscription { news, listening })
    }

    /// Whether the connection stands, as far as its last PING knew.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }
}

impl<T> Subscription<T> {
    /// The next news; `None` if this listener was too slow and was let go.
    ///
    /// Cancel-safe: dropped before it returns, nothing is taken.
    pub async fn next(&mut self) -> Option<News<T>> {
        self.news.recv().await
    }

    /// What it listens to.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.listening.topic
    }
}

impl<T> Drop for Listening<T> {
    fn drop(&mut self) {
        let mut topics = self.shared.lock();
        let Some(listeners) = topics.get_mut(&self.topic) else { return };
        listeners.retain(|listener| listener.id != self.id);
        if listeners.is_empty() {
            topics.remove(&self.topic);
            drop(topics);
            // A full channel leaves the topic subscribed without listeners, until the next look at it or the next
            // connection: a little traffic, nothing wrong.
            let _ = self.look.try_send(Look { topic: self.topic.clone(), confirmed: None });
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Topic, Vec<Listener<T>>>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a publication to those who listen. Runs on the connection's own task and never waits: a listener whose
    /// mailbox is full is let go.
    fn hand_out(&self, push: &PushInfo) {
        let [Value::BulkString(topic), Value::BulkString(payload)] = push.data.as_slice() else { return };
        let Ok(topic) = str::from_utf8(topic) else { return };
        let mut topics = self.lock();
        let Some(listeners) = topics.get_mut(topic) else { return };
        let Some(event) = (self.decode)(payload) else {
            warn!(topic, bytes = payload.len(), "a publication that cannot be read was dropped");
            return;
        };
        let event = Arc::new(event);
        listeners.retain(|listener| listener.mailbox.try_send(News::Event(Arc::clone(&event))).is_ok());
    }

    fn tell_gap(&self) {
        for listeners in self.lock().values_mut() {
            listeners.retain(|listener| listener.mailbox.try_send(News::Gap).is_ok());
        }
    }
}

/// Owns the connection, and keeps it in step with who listens.
struct Owner<T> {
    client: Client,
    shared: Arc<Shared<T>>,
    subscribed: HashSet<Topic>,
    /// Who waits for a confirmation that a broken connection still owes.
    unanswered: Vec<oneshot::Sender<()>>,
}

impl<T: Send + Sync + 'static> Owner<T> {
    async fn run(mut self, mut looks: mpsc::Receiver<Look>) {
        let (mut attempt, mut first) = (0, true);
        loop {
            let (gone, broken) = mpsc::channel(1);
            match self.connect(gone).await {
                Ok(conn) => {
                    if !first {
                        info!("subscriber is connected again");
                        self.shared.tell_gap();
                    }
                    self.answer();
                    (attempt, first) = (0, false);
                    self.shared.connected.store(true, Ordering::Relaxed);
                    let ended = self.serve(conn, &mut looks, broken).await;
                    self.shared.connected.store(false, Ordering::Relaxed);
                    match ended {
                        Ok(()) => return,
                        Err(error) => warn!(%error, "subscriber lost its connection"),
                    }
                }
                Err(error) => warn!(%error, attempt, "subscriber cannot connect"),
            }
            // Full jitter, so that hubs do not come back in step: 0 to 50 ms, doubling up to 2 s.
            let most = 50 << attempt.min(5);
            attempt += 1;
            sleep(Duration::from_millis(rand::random_range(0..=most))).await;
            if looks.is_closed() && looks.is_empty() {
                return;
            }
        }
    }

    /// Connects, and subscribes to everything that has listeners.
    async fn connect(&mut self, gone: mpsc::Sender<()>) -> redis::RedisResult<MultiplexedConnection> {
        let shared = Arc::clone(&self.shared);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_push_sender(move |push: PushInfo| {
                if push.kind == PushKind::Message {
                    shared.hand_out(&push);
                } else if push.kind == PushKind::Disconnection {
                    let _ = gone.try_send(());
                }
                Ok::<(), ()>(())
            });
        let mut conn = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.subscribed.clear();
        let topics: Vec<Topic> = self.shared.lock().keys().cloned().collect();
        self.bring_into_step(&mut conn, topics).await?;
        Ok(conn)
    }

    /// Serves until the connection breaks (an error), or nobody is left to serve.
    async fn serve(
        &mut self,
        mut conn: MultiplexedConnection,
        looks: &mut mpsc::Receiver<Look>,
        mut broken: mpsc::Receiver<()>,
    ) -> redis::RedisResult<()> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = broken.recv() => return Err((redis::ErrorKind::Io, "disconnected").into()),
                _ = ping.tick() => conn.ping::<()>().await?,
                ready = looks.recv_many(&mut batch, SUBSCRIBE_TOGETHER) => {
                    if ready == 0 {
                        return Ok(());
                    }
                    let mut topics = Vec::with_capacity(ready);
                    for Look { topic, confirmed } in batch.drain(..) {
                        topics.push(topic);
                        self.unanswered.extend(confirmed);
                    }
                    self.bring_into_step(&mut conn, topics).await?;
                    self.answer();
                }
            }
        }
    }

    /// Subscribes to those of `topics` that somebody listens to, and lets go of the others. Each command is confirmed
    /// before the next, so a topic that comes and goes quickly ends as it should.
    async fn bring_into_step(
        &mut self,
        conn: &mut MultiplexedConnection,
        topics: Vec<Topic>,
    ) -> redis::RedisResult<()> {
        let (mut come, mut go) = (HashSet::new(), HashSet::new());
        {
            let wanted = self.shared.lock();
            for topic in topics {
                match (wanted.contains_key(&topic), self.subscribed.contains(&topic)) {
                    (true, false) => drop(come.insert(topic)),
                    (false, true) => drop(go.insert(topic)),
                    (true, true) | (false, false) => {}
                }
            }
        }
        let names = |topics: &[Topic]| topics.iter().map(|topic| topic.as_str().to_owned()).collect::<Vec<_>>();
        for batch in Vec::from_iter(come).chunks(SUBSCRIBE_TOGETHER) {
            conn.subscribe(names(batch)).await?;
            self.subscribed.extend(batch.iter().cloned());
        }
        for batch in Vec::from_iter(go).chunks(SUBSCRIBE_TOGETHER) {
            conn.unsubscribe(names(batch)).await?;
            for topic in batch {
                self.subscribed.remove(topic);
            }
        }
        Ok(())
    }

    fn answer(&mut self) {
        for confirmed in self.unanswered.drain(..) {
            // Whoever gave up waiting has dropped the other end.
            let _ = confirmed.send(());
        }
    }
}

fn client(settings: &config::Redis, protocol: ProtocolVersion) -> Result<Client> {
    let info = settings.url.expose().into_connection_info();
    let info = info.map_err(|_| Error::internal("REDIS_URL is not a Redis URL"))?;
    let redis = info.redis_settings().clone().set_protocol(protocol);
    Client::open(info.set_redis_settings(redis)).map_err(Error::internal)
}
