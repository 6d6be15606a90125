//! The listening end: one connection for a whole process.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use redis::{
    AsyncCommands, AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use super::{ANSWER_TIMEOUT, LOOK_AGAIN, client};
use crate::{config, error::Result, keys::Topic};

/// Time between two PINGs on the subscriber's connection, which otherwise would never notice a silent death:
/// with the answer's timeout, 8 s at most.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Topics in one SUBSCRIBE. Bounds the command, and the pause it makes for others.
const SUBSCRIBE_TOGETHER: usize = 500;

/// News that wait for one listener at most. A socket that falls this far behind is closed and catches up when it
/// comes back.
const MAILBOX: usize = 1_024;

/// What a listener hears.
#[derive(Debug)]
pub enum News<T> {
    /// This was published.
    Event(Arc<T>),
    /// Something may have been missed, since the connection was gone for a while; or somebody asks to look again.
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

/// Reads the payload that was published under a name, or refuses it: one that cannot be read, or belongs elsewhere.
pub type Decode<T> = fn(&str, &[u8]) -> Option<T>;

/// Listens for a whole process on one connection. What is published is decoded once, for all listeners.
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    look: mpsc::UnboundedSender<Look>,
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
    decode: Decode<T>,
    next_listener: AtomicU64,
    connected: AtomicBool,
    /// Publications that somebody here listened to.
    heard: AtomicU64,
    /// Publications that were refused: forged, or of another version.
    dropped: AtomicU64,
    /// Listeners whose mailbox was full.
    let_go: AtomicU64,
    born: Instant,
    /// When Redis last answered on the connection, in milliseconds since then.
    answered_ms: AtomicU64,
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

/// A subscription; ends when dropped.
pub struct Subscription<T> {
    news: mpsc::Receiver<News<T>>,
    listening: Listening<T>,
}

struct Listening<T> {
    shared: Arc<Shared<T>>,
    look: mpsc::UnboundedSender<Look>,
    topic: Topic,
    id: u64,
}

impl<T: Send + Sync + 'static> Subscriber<T> {
    /// Starts listening; `decode` reads the payload of a topic, or refuses it. The task ends when every clone is gone.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the URL is malformed.
    pub fn start(settings: &config::Redis, decode: Decode<T>) -> Result<(Self, JoinHandle<()>)> {
        let client = client(settings, ProtocolVersion::RESP3)?;
        // Unbounded, since a lost look would leave a topic behind; one who listens sends two in a life, and none while there
        // is no connection to take them off.
        let (look, looks) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            topics: Mutex::default(),
            decode,
            next_listener: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            let_go: AtomicU64::new(0),
            born: Instant::now(),
            answered_ms: AtomicU64::new(0),
        });
        let owner = Owner { client, shared: Arc::clone(&shared), subscribed: HashSet::new(), unanswered: Vec::new() };
        let task = tokio::spawn(owner.run(looks));
        Ok((Self { shared, look }, task))
    }

    /// How many publications were refused so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// How many publications were heard so far that somebody listens to, refused ones among them.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.shared.heard.load(Ordering::Relaxed)
    }

    /// How many listeners were let go so far, since they were too slow.
    #[must_use]
    pub fn let_go(&self) -> u64 {
        self.shared.let_go.load(Ordering::Relaxed)
    }

    /// How long ago Redis last answered a PING on the connection; since the start, if it never did. More than 8 s of it
    /// mean that nothing is heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let answered = Duration::from_millis(self.shared.answered_ms.load(Ordering::Relaxed));
        self.shared.born.elapsed().saturating_sub(answered)
    }

    /// Listens to a topic. Once this returns, everything published from then on is in the mailbox, unless the connection
    /// is or gets lost; then a [`News::Gap`] comes as soon as it stands and the topic is confirmed. So whoever reads the
    /// store after this returns, and again at each gap, misses nothing.
    ///
    /// Waits for the confirmation at most as long as `patience`, and not at all while there is no connection.
    pub async fn subscribe(&self, topic: Topic, patience: Duration) -> Subscription<T> {
        let (mailbox, news) = mpsc::channel(MAILBOX);
        let id = self.shared.next_listener.fetch_add(1, Ordering::Relaxed);
        self.shared.lock().entry(topic.clone()).or_default().push(Listener { id, mailbox });
        // From here on a drop takes the listener out again.
        let listening = Listening { shared: Arc::clone(&self.shared), look: self.look.clone(), topic, id };
        // The owner says that it is connected before it looks at who listens, and we were entered before we ask: either
        // it saw us, or we see it connected.
        if self.connected() {
            let (confirmed, confirmation) = oneshot::channel();
            let look = Look { topic: listening.topic.clone(), confirmed: Some(confirmed) };
            // If the owner has ended, nobody is left to listen for.
            let _ = self.look.send(look);
            if tokio::time::timeout(patience, confirmation).await.is_err() {
                warn!(topic = listening.topic.as_str(), "subscription not confirmed yet");
            }
        }
        Subscription { news, listening }
    }

    /// Makes those who listen to a topic look at the store, as after a gap.
    pub fn nudge(&self, topic: &Topic) {
        self.shared.tell_gap(topic.as_str());
    }

    /// Whether the connection stands, as far as its last PING knew.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.shared.connected.load(Ordering::SeqCst)
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
            // Without a connection there is nothing to let go of; the next one begins with those who listen then.
            if self.shared.connected.load(Ordering::SeqCst) {
                let _ = self.look.send(Look { topic: self.topic.clone(), confirmed: None });
            }
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
        if payload == LOOK_AGAIN {
            return self.tell_gap(topic);
        }
        let mut topics = self.lock();
        let Some(listeners) = topics.get_mut(topic) else { return };
        self.heard.fetch_add(1, Ordering::Relaxed);
        let Some(event) = (self.decode)(topic, payload) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            warn!(topic, bytes = payload.len(), "a publication that cannot be read, or belongs elsewhere, was dropped");
            return;
        };
        let event = Arc::new(event);
        self.retain(listeners, &News::Event(event));
    }

    fn tell_gap(&self, topic: &str) {
        if let Some(listeners) = self.lock().get_mut(topic) {
            self.retain(listeners, &News::Gap);
        }
    }

    fn tell_everybody_of_a_gap(&self) {
        for listeners in self.lock().values_mut() {
            self.retain(listeners, &News::Gap);
        }
    }

    /// Tells those who listen, and lets go of whoever has no room for it.
    fn retain(&self, listeners: &mut Vec<Listener<T>>, news: &News<T>) {
        let before = listeners.len();
        listeners.retain(|listener| listener.mailbox.try_send(news.clone()).is_ok());
        let gone = before - listeners.len();
        if gone > 0 {
            self.let_go.fetch_add(gone as u64, Ordering::Relaxed);
        }
    }

    /// Redis has answered.
    fn answered(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.answered_ms.store(now, Ordering::Relaxed);
    }
}

/// Owns the connection, and keeps it in step with who listens.
struct Owner<T> {
    client: Client,
    shared: Arc<Shared<T>>,
    subscribed: HashSet<Topic>,
    /// Who waits for a confirmation that a broken connection still owes.
    unanswered: Vec<(Topic, oneshot::Sender<()>)>,
}

impl<T: Send + Sync + 'static> Owner<T> {
    async fn run(mut self, mut looks: mpsc::UnboundedReceiver<Look>) {
        let mut attempt = 0;
        loop {
            let (gone, broken) = mpsc::channel(1);
            match self.connect(gone).await {
                Ok(conn) => {
                    info!(topics = self.subscribed.len(), "subscriber is connected");
                    attempt = 0;
                    let ended = self.serve(conn, &mut looks, broken).await;
                    self.shared.connected.store(false, Ordering::SeqCst);
                    match ended {
                        Ok(()) => return,
                        Err(error) => warn!(%error, "subscriber lost its connection"),
                    }
                }
                Err(error) => {
                    self.shared.connected.store(false, Ordering::SeqCst);
                    warn!(%error, attempt, "subscriber cannot connect to what REDIS_URL names");
                }
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

    /// Connects, subscribes to everything that has listeners, and tells them that they may have missed something.
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
        self.shared.connected.store(true, Ordering::SeqCst);
        let topics: Vec<Topic> = self.shared.lock().keys().cloned().collect();
        self.bring_into_step(&mut conn, topics).await?;
        self.shared.tell_everybody_of_a_gap();
        self.answer();
        Ok(conn)
    }

    /// Serves until the connection breaks (an error), or nobody is left to serve.
    async fn serve(
        &mut self,
        mut conn: MultiplexedConnection,
        looks: &mut mpsc::UnboundedReceiver<Look>,
        mut broken: mpsc::Receiver<()>,
    ) -> redis::RedisResult<()> {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = broken.recv() => return Err((redis::ErrorKind::Io, "disconnected").into()),
                _ = ping.tick() => {
                    conn.ping::<()>().await?;
                    self.shared.answered();
                }
                ready = looks.recv_many(&mut batch, SUBSCRIBE_TOGETHER) => {
                    if ready == 0 {
                        return Ok(());
                    }
                    let mut topics = Vec::with_capacity(ready);
                    for Look { topic, confirmed } in batch.drain(..) {
                        self.unanswered.extend(confirmed.map(|confirmed| (topic.clone(), confirmed)));
                        topics.push(topic);
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
        for (topic, confirmed) in self.unanswered.drain(..) {
            if confirmed.send(()).is_err() {
                // Whoever lost their patience has read the store too early.
                self.shared.tell_gap(topic.as_str());
            }
        }
    }
}
