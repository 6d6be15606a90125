//! The listening end: one connection for a whole process, or one to each node of a cluster.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncCommands, AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisResult, ServerErrorKind,
    Value, aio::MultiplexedConnection,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::{
    ANSWER_TIMEOUT, LOOK_AGAIN, client,
    cluster::Cluster,
    lines::{Keeper, Lines},
};
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

/// Listens for a whole process. What is published is decoded once, for all listeners.
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    /// Ends all connections when the last one who listens, or may, is gone.
    open: Arc<DropGuard>,
}

impl<T> Clone for Subscriber<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), open: Arc::clone(&self.open) }
    }
}

struct Shared<T> {
    /// Who listens to what. The truth: the connection is brought into step with it. A plain mutex, since it is held
    /// for a look-up and a few sends that never wait.
    topics: Mutex<HashMap<Topic, Vec<Listener<T>>>>,
    decode: Decode<T>,
    next_listener: AtomicU64,
    lines: Lines,
    /// Publications that somebody here listened to.
    heard: AtomicU64,
    /// Publications that were refused: forged, or of another version.
    dropped: AtomicU64,
    /// Listeners whose mailbox was full.
    let_go: AtomicU64,
}

struct Listener<T> {
    id: u64,
    mailbox: mpsc::Sender<News<T>>,
}

/// Asks the connection's owner to bring one topic into step with who listens to it.
pub(super) struct Look {
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
    _open: Arc<DropGuard>,
    topic: Topic,
    id: u64,
}

impl<T: Send + Sync + 'static> Subscriber<T> {
    /// Starts listening; `decode` reads the payload of a topic, or refuses it. The task ends when every clone is gone.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if the URL is malformed.
    pub fn start(settings: &config::Redis, decode: Decode<T>) -> Result<(Self, JoinHandle<()>)> {
        let cluster = Cluster::of(settings, ProtocolVersion::RESP3)?;
        let client = client(settings, ProtocolVersion::RESP3)?;
        let shared = Arc::new(Shared {
            topics: Mutex::default(),
            decode,
            next_listener: AtomicU64::new(0),
            lines: Lines::new(),
            heard: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            let_go: AtomicU64::new(0),
        });
        let closed = CancellationToken::new();
        let open = Arc::new(closed.clone().drop_guard());
        let subscriber = Self { shared: Arc::clone(&shared), open };
        let Some(cluster) = cluster else {
            let owner = Owner::of(shared.lines.single(client, closed), &shared);
            return Ok((subscriber, tokio::spawn(owner.run())));
        };
        let task = tokio::spawn(async move {
            let keep = |keeper| drop(tokio::spawn(Owner::of(keeper, &shared).run()));
            shared.lines.follow(cluster, closed, keep).await;
        });
        Ok((subscriber, task))
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

    /// How long ago Redis last answered a PING on the connection, in a cluster on the one that is silent for longest; since
    /// the start, if it never did. More than 8 s of it mean that nothing is heard.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.shared.lines.silence()
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
        let listening = Listening { shared: Arc::clone(&self.shared), _open: Arc::clone(&self.open), topic, id };
        // The owner says that it is connected before it looks at who listens, and we were entered before we ask: either
        // it saw us, or we see it connected.
        if let Some(line) = self.shared.lines.of(&listening.topic)
            && line.connected()
        {
            let (confirmed, confirmation) = oneshot::channel();
            line.look(Look { topic: listening.topic.clone(), confirmed: Some(confirmed) });
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

    /// Whether the connection stands, as far as its last PING knew; in a cluster, all of them.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.shared.lines.connected()
    }

    /// Whether the connection stands by which this topic is heard, as far as its last PING knew.
    #[must_use]
    pub fn hears(&self, topic: &Topic) -> bool {
        self.shared.lines.of(topic).is_some_and(|line| line.connected())
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
            if let Some(line) = self.shared.lines.of(&self.topic) {
                line.look(Look { topic: self.topic.clone(), confirmed: None });
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
        if payload == LOOK_AGAIN.as_bytes() {
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

    fn tell_of_a_gap<'a>(&self, topics: impl IntoIterator<Item = &'a Topic>) {
        topics.into_iter().for_each(|topic| self.tell_gap(topic.as_str()));
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
}

/// Owns a connection, and keeps it in step with who listens.
struct Owner<T> {
    keeper: Keeper,
    shared: Arc<Shared<T>>,
    subscribed: HashSet<Topic>,
    /// Who waits for a confirmation that a broken connection still owes.
    unanswered: Vec<(Topic, oneshot::Sender<()>)>,
    /// Topics of a node that we are letting go of and that it has not confirmed.
    leaving: Arc<AtomicUsize>,
}

impl<T: Send + Sync + 'static> Owner<T> {
    fn of(keeper: Keeper, shared: &Arc<Shared<T>>) -> Self {
        Self {
            keeper,
            shared: Arc::clone(shared),
            subscribed: HashSet::new(),
            unanswered: Vec::new(),
            leaving: Arc::default(),
        }
    }

    async fn run(mut self) {
        let closed = self.keeper.closed.clone();
        closed.run_until_cancelled(self.keep()).await;
        self.keeper.line.set_connected(false);
    }

    async fn keep(&mut self) {
        let mut attempt = 0;
        loop {
            let (gone, broken) = mpsc::channel(1);
            match self.connect(gone).await {
                Ok(conn) => {
                    info!(topics = self.subscribed.len(), "subscriber is connected");
                    attempt = 0;
                    let error = self.serve(conn, broken).await;
                    self.keeper.line.set_connected(false);
                    warn!(%error, "subscriber lost its connection");
                }
                Err(error) => {
                    self.keeper.line.set_connected(false);
                    let redis = self.keeper.client.get_connection_info().addr();
                    warn!(%error, attempt, %redis, "subscriber cannot connect to Redis");
                }
            }
            self.look_for_others();
            // Full jitter, so that hubs do not come back in step: 0 to 50 ms, doubling up to 2 s.
            let most = 50 << attempt.min(5);
            attempt += 1;
            sleep(Duration::from_millis(rand::random_range(0..=most))).await;
        }
    }

    /// In a cluster it may be another node by now that holds what this one did.
    fn look_for_others(&self) {
        if let Some(stale) = &self.keeper.stale {
            stale.notify_one();
        }
    }

    /// Connects, subscribes to everything that has listeners here, and tells them that they may have missed something.
    async fn connect(&mut self, gone: mpsc::Sender<()>) -> RedisResult<MultiplexedConnection> {
        let shared = Arc::clone(&self.shared);
        self.leaving = Arc::default();
        let leaving = Arc::clone(&self.leaving);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(ANSWER_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_push_sender(move |push: PushInfo| {
                if matches!(push.kind, PushKind::Message | PushKind::SMessage) {
                    shared.hand_out(&push);
                } else if push.kind == PushKind::Disconnection
                    || (push.kind == PushKind::SUnsubscribe && !less(&leaving))
                {
                    let _ = gone.try_send(());
                }
                Ok::<(), ()>(())
            });
        let mut conn = self.keeper.client.get_multiplexed_async_connection_with_config(&config).await?;
        self.subscribed.clear();
        self.keeper.line.set_connected(true);
        let topics: Vec<Topic> = self.shared.lock().keys().cloned().collect();
        self.bring_into_step(&mut conn, topics).await?;
        self.shared.tell_of_a_gap(&self.subscribed);
        self.answer();
        Ok(conn)
    }

    /// Serves until the connection breaks.
    async fn serve(&mut self, mut conn: MultiplexedConnection, mut broken: mpsc::Receiver<()>) -> redis::RedisError {
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let line = self.keeper.line.clone();
        let mut batch = Vec::new();
        loop {
            let done = tokio::select! {
                _ = broken.recv() => Err((ErrorKind::Io, "disconnected").into()),
                _ = ping.tick() => conn.ping::<()>().await.map(|()| line.answered()),
                () = line.moved() => self.follow(&mut conn).await,
                _ = self.keeper.looks.recv_many(&mut batch, SUBSCRIBE_TOGETHER) => self.look(&mut conn, &mut batch).await,
            };
            if let Err(error) = done {
                return error;
            }
        }
    }

    async fn look(&mut self, conn: &mut MultiplexedConnection, batch: &mut Vec<Look>) -> RedisResult<()> {
        let mut topics = Vec::with_capacity(batch.len());
        for Look { topic, confirmed } in batch.drain(..) {
            self.unanswered.extend(confirmed.map(|confirmed| (topic.clone(), confirmed)));
            topics.push(topic);
        }
        self.bring_into_step(conn, topics).await?;
        self.answer();
        Ok(())
    }

    /// Slots went from node to node: what came to this one was heard by nobody meanwhile.
    async fn follow(&mut self, conn: &mut MultiplexedConnection) -> RedisResult<()> {
        let mut topics: Vec<Topic> = self.shared.lock().keys().cloned().collect();
        topics.extend(self.subscribed.iter().cloned());
        let come = self.bring_into_step(conn, topics).await?;
        self.shared.tell_of_a_gap(&come);
        Ok(())
    }

    /// Subscribes to those of `topics` that somebody listens to here, and lets go of the others; returns those that came.
    /// Each command is confirmed before the next, so a topic that comes and goes quickly ends as it should.
    async fn bring_into_step(
        &mut self,
        conn: &mut MultiplexedConnection,
        topics: Vec<Topic>,
    ) -> RedisResult<Vec<Topic>> {
        let (mut come, mut go) = (HashSet::new(), HashSet::new());
        {
            let wanted = self.shared.lock();
            for topic in topics {
                let here = wanted.contains_key(&topic) && self.shared.lines.leads(&topic, &self.keeper.line);
                match (here, self.subscribed.contains(&topic)) {
                    (true, false) => drop(come.insert(topic)),
                    (false, true) => drop(go.insert(topic)),
                    (true, true) | (false, false) => {}
                }
            }
        }
        let mut came = Vec::new();
        for batch in Vec::from_iter(come).chunks(SUBSCRIBE_TOGETHER) {
            let heard = self.subscribe(conn, batch).await?;
            self.subscribed.extend(heard.iter().cloned());
            came.extend(heard);
        }
        for batch in Vec::from_iter(go).chunks(SUBSCRIBE_TOGETHER) {
            self.unsubscribe(conn, batch).await?;
            for topic in batch {
                self.subscribed.remove(topic);
            }
        }
        Ok(came)
    }

    /// Returns the topics that are heard from now on: all of them, but those that another node of a cluster holds.
    async fn subscribe(&self, conn: &mut MultiplexedConnection, topics: &[Topic]) -> RedisResult<Vec<Topic>> {
        if self.keeper.stale.is_none() {
            conn.subscribe(names(topics)).await?;
            return Ok(topics.to_vec());
        }
        let mut heard = Vec::with_capacity(topics.len());
        for (topic, answer) in topics.iter().zip(each(conn, "SSUBSCRIBE", topics).await?) {
            match answer {
                Ok(_) => heard.push(topic.clone()),
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Moved) => {
                    self.keeper.line.refuse();
                    self.look_for_others();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(heard)
    }

    async fn unsubscribe(&self, conn: &mut MultiplexedConnection, topics: &[Topic]) -> RedisResult<()> {
        if self.keeper.stale.is_none() {
            return conn.unsubscribe(names(topics)).await;
        }
        self.leaving.fetch_add(topics.len(), Ordering::SeqCst);
        each(conn, "SUNSUBSCRIBE", topics).await?.into_iter().try_for_each(|answer| answer.map(drop))
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

fn names(topics: &[Topic]) -> Vec<&str> {
    topics.iter().map(Topic::as_str).collect()
}

/// One command for each topic, since a node takes no two slots in one; in one round trip.
async fn each(
    conn: &mut MultiplexedConnection,
    command: &str,
    topics: &[Topic],
) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut pipeline = redis::pipe();
    for topic in topics {
        pipeline.cmd(command).arg(topic.as_str());
    }
    pipeline.ignore_errors().query_async(conn).await
}

/// Whether a confirmation that a topic was let go of is one that we wait for. Any other comes since the slot went elsewhere,
/// and the client library takes it for the answer to whatever was asked: what is answered then cannot be believed.
fn less(leaving: &AtomicUsize) -> bool {
    leaving.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}
