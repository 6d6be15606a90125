//! The hub: holds the sockets, stores and dispatches each message, relays what is published.
//!
//! A socket on its way in: `server` (the connection) → [`lib`](self) (origin, upgrade) → [`handshake`] (who, where) →
//! [`session`] (the frames).
//! Nothing here must survive: a killed hub loses connections and typing dots, and its clients come back to another
//! one with the `seq` they have seen.

mod address;
pub mod admin;
pub mod close;
mod events;
pub mod fanout;
mod gate;
pub mod handshake;
pub mod held;
mod leaving;
mod line;
mod metrics;
pub mod notice_to_leave;
mod peer;
pub mod portal;
mod refusal;
pub mod registry;
mod retention;
pub mod seal;
mod server;
pub mod session;
pub mod sitting;

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::{Path, State, WebSocketUpgrade},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use chat_core::{
    Result,
    bus::{Buckets, Outbox, Publisher, Sockets, Subscriber},
    config::{self, Env, Limits, Times},
    dispatch::{self, Dispatcher},
    keys::webchat_response_key,
    queue::{Queue, Sqs},
    store::{
        Store,
        sweep::{Ended, Pace},
        turns::End,
    },
    token::Verifier,
};
use futures::future::join_all;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use address::Addresses;
use fanout::Event;
use held::Held;
use metrics::Metrics;
use refusal::Refusal;
use registry::{Place, Registry};
use server::Guest;

/// Connections to Postgres: more cost a 2-core server CPU and gain nothing.
pub const POOL_SIZE: usize = 8;

/// Longest time from being told to go to the end of the process. What runs it must leave it that long.
pub const DRAIN: Duration = leaving::SOCKETS.saturating_add(leaving::PIPES);

/// Bytes a socket reads at once, of which it has a buffer for its whole life; the library's default is 128 KiB. What people
/// say is shorter for the most part, and for a frame that is longer the library makes the room by itself.
const READ_BUFFER: usize = 512;

/// Sockets that look at the store after a gap at the same time: half of the pool.
const REPAIRS: usize = POOL_SIZE / 2;

/// What a hub is made of.
pub struct Parts {
    /// The facts.
    pub store: Store,
    /// Hints of work.
    pub queue: Arc<dyn Queue>,
    /// Hints of news, to be sent.
    pub publisher: Publisher,
    /// Hints of news, heard.
    pub redis: config::Redis,
    /// The one way in.
    pub token: config::Token,
    /// Whose pages may connect.
    pub edge: config::Edge,
    /// What the chat page is told.
    pub portal: config::Portal,
    /// Who may read the figures.
    pub metrics: config::Metrics,
    /// What a peer can grow.
    pub limits: Limits,
    /// The times of a turn's life.
    pub times: Times,
}

/// What every socket needs. Cheap to clone.
#[derive(Clone)]
pub struct Hub(Arc<Inner>);

struct Inner {
    store: Store,
    publisher: Publisher,
    buckets: Buckets,
    outbox: Outbox,
    dispatcher: Dispatcher,
    subscriber: Subscriber<Event>,
    verifier: Verifier,
    edge: config::Edge,
    portal: config::Portal,
    limits: Limits,
    pace: Pace,
    registry: Registry,
    addresses: Addresses,
    /// Those of all hubs, by user and tenant.
    counted: Sockets,
    held: Held,
    metrics: Arc<Metrics>,
    /// Looks at the store after a gap, of all sockets together: they leave most of the pool to messages.
    repairs: Semaphore,
    /// Says that this hub is going away.
    leaving: CancellationToken,
    /// The sockets. The web framework's own shutdown does not wait for them.
    sockets: TaskTracker,
    /// Ends the two background senders, once they have sent what waits.
    pipes_stop: CancellationToken,
    pipes: Mutex<Vec<JoinHandle<()>>>,
}

impl Hub {
    /// Publications that were refused: they could not be read, or named another conversation than that of their topic.
    #[must_use]
    pub fn dropped_publications(&self) -> u64 {
        self.0.subscriber.dropped()
    }

    /// Builds it from the environment and connects.
    ///
    /// # Errors
    /// The settings that are missing or malformed, by name; or why a backing service cannot be reached.
    pub async fn from_env() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut env = Env::new(&config::process);
        let database = config::Database::read(&mut env, POOL_SIZE);
        let redis = config::Redis::read(&mut env);
        let queue = config::Queue::read(&mut env);
        let token = config::Token::read(&mut env);
        let edge = config::Edge::read(&mut env);
        let portal = config::Portal::read(&mut env);
        let metrics = config::Metrics::read(&mut env);
        let limits = Limits::read(&mut env);
        let times = Times::read(&mut env);
        let (database, redis, queue, token, edge, portal, metrics, limits, times) =
            env.finish((database, redis, queue, token, edge, portal, metrics, limits, times))?;
        let store = Store::connect(&database).await?;
        let queue = Arc::new(Sqs::connect(&queue).await);
        let publisher = Publisher::new(&redis)?;
        Ok(Self::start(Parts { store, queue, publisher, redis, token, edge, portal, metrics, limits, times })?)
    }

    /// Starts what runs beside the sockets: the two pipes' background senders, the subscriber, the sweep.
    ///
    /// # Errors
    /// [`Kind::Internal`](chat_core::Kind::Internal) if the Redis URL is malformed.
    pub fn start(parts: Parts) -> Result<Self> {
        let Parts { store, queue, publisher, redis, token, edge, portal, metrics, limits, times } = parts;
        let pipes_stop = CancellationToken::new();
        let (outbox, publishing) = publisher.clone().into_background(pipes_stop.clone());
        let (dispatcher, dispatching) = Dispatcher::start(queue, pipes_stop.clone());
        let (counted, counting) = Sockets::start(&publisher, &limits, pipes_stop.clone());
        let (subscriber, _) = Subscriber::start(&redis, fanout::decode)?;
        let metrics = Arc::new(Metrics::new(&store, metrics.token));
        let hub = Self(Arc::new(Inner {
            store,
            buckets: Buckets::new(&publisher, &limits),
            publisher,
            outbox,
            dispatcher,
            subscriber,
            verifier: Verifier::new(&token)?,
            addresses: Addresses::new(limits.address_unauthenticated, edge.trusted_proxies),
            edge,
            portal,
            pace: Pace::new(&times),
            registry: Registry::new(&limits),
            counted,
            held: Held::default(),
            metrics,
            limits,
            repairs: Semaphore::new(REPAIRS),
            leaving: CancellationToken::new(),
            sockets: TaskTracker::new(),
            pipes_stop,
            pipes: Mutex::new(vec![publishing, dispatching, counting]),
        }));
        tokio::spawn(hub.clone().sweep());
        tokio::spawn(hub.clone().look_after(times.look, times.look_all));
        tokio::spawn(hub.clone().retain());
        tokio::spawn(hub.clone().look_at_turns());
        Ok(hub)
    }

    /// Serves until `shutdown` resolves, then lets go of the sockets one by one and sends what hints of theirs are left.
    ///
    /// # Errors
    /// None today: a connection that fails ends alone.
    pub async fn serve(
        self,
        listener: TcpListener,
        router: Router,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let leaver = self.clone();
        tokio::spawn(async move {
            shutdown.await;
            info!(sockets = leaver.0.sockets.len(), "going away");
            leaver.0.leaving.cancel();
        });
        let patience = Duration::from_millis(self.0.limits.header_ms);
        let served = server::serve(listener, router, self.0.addresses.clone(), patience, self.0.leaving.clone());
        let left = &self.0.leaving;
        let after = |patience| async move {
            left.cancelled().await;
            sleep(patience).await;
        };
        let drained = async {
            tokio::select! {
                () = served => {}
                () = after(leaving::REQUESTS) => warn!("not all requests ended in time"),
            }
            self.0.sockets.close();
            self.0.sockets.wait().await;
        };
        tokio::select! {
            () = drained => {}
            () = after(leaving::SOCKETS) => warn!(sockets = self.0.sockets.len(), "not all sockets ended in time"),
        }
        self.0.pipes_stop.cancel();
        let pipes = std::mem::take(&mut *self.0.pipes.lock().unwrap_or_else(PoisonError::into_inner));
        if timeout(leaving::PIPES, join_all(pipes)).await.is_err() {
            warn!("not all hints were sent in time; the sweep and the sockets find the facts");
        }
        Ok(())
    }

    /// Looks for turns left lying, now and again, and tells the sockets of those that had to be ended.
    async fn sweep(self) {
        let mut tick = interval(dispatch::sweep_every(&self.0.pace));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.leaving.cancelled() => return,
                _ = tick.tick() => {}
            }
            match self.0.dispatcher.sweep(&self.0.store, &self.0.pace).await {
                Ok(swept) => {
                    self.0.metrics.swept(swept.hinted, swept.ended.len());
                    swept.ended.iter().for_each(|ended| self.tell(ended));
                    if swept.more {
                        tick.reset_immediately();
                    }
                }
                Err(error) => warn!(?error, "sweep failed; the next one comes"),
            }
        }
    }

    fn tell(&self, ended: &Ended) {
        warn!(turn.id = %ended.turn, code = %ended.code, "a turn was given up");
        let topic = webchat_response_key(ended.tenant, ended.conversation);
        for frame in End::Failed(ended.code).frames(ended.turn) {
            self.0.outbox.publish(topic.clone(), frame);
        }
    }
}

/// The hub's routes: the socket, its twin, the chat page, the figures, and the two probes. Nothing here signs anybody in.
pub fn router(hub: Hub) -> Router {
    let events = events::route(&hub.0.edge.allowed_origins);
    let metrics = metrics::route(&hub);
    Router::new()
        .route("/chat/ws/{conversation_id}", get(connect))
        .route("/chat/sse/{conversation_id}", events)
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .merge(portal::routes(&hub.0.portal))
        .merge(metrics)
        .layer(middleware::map_response(one_answer))
        .with_state(hub)
}

/// A connection serves one socket, one stream or one answer. A balancer that kept it for the next client would send that one into the
/// moment in which we close what is idle.
async fn one_answer(mut response: Response) -> Response {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Upgrades a request to a socket, if the page it comes from may have one. Who is asking comes in the first frame.
async fn connect(
    State(hub): State<Hub>,
    Path(conversation): Path<String>,
    Extension(mut guest): Extension<Guest>,
    headers: HeaderMap,
    upgrade: WebSocketUpgrade,
) -> Result<Response, Refusal> {
    let place = hub.welcome(&headers, &mut guest)?;
    let limits = &hub.0.limits;
    // An id that cannot be one is answered like one that does not exist, after the token.
    let conversation = conversation.parse().ok();
    let tracked = hub.0.sockets.token();
    // What comes before the token is read by the gate's measure; and what comes with this request was read already.
    guest.gate.narrow(handshake::FIRST_FRAME_BYTES + READ_BUFFER);
    // Only until it is known who they are: it is no part of the task that a socket has for its whole life.
    let guest = Box::new(guest);
    let upgrade = upgrade
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(limits.unsent_bytes)
        .max_message_size(limits.frame_bytes)
        .max_frame_size(limits.frame_bytes)
        .on_upgrade(move |socket| async move {
            session::serve(hub, socket, conversation, place, guest).await;
            drop(tracked);
        });
    Ok(upgrade)
}

impl Hub {
    /// Gives a place to a request for a socket or a stream, before anybody knows who asks.
    fn welcome(&self, headers: &HeaderMap, guest: &mut Guest) -> Result<Place, Refusal> {
        self.place(headers, guest).inspect_err(|refusal| self.0.metrics.refused(refusal.close()))
    }

    fn place(&self, headers: &HeaderMap, guest: &mut Guest) -> Result<Place, Refusal> {
        if !self.allows(headers) {
            return Err(Refusal::foreign());
        }
        // A request on a connection that was open before; new ones find the port closed.
        if self.0.leaving.is_cancelled() {
            return Err(Refusal::leaving());
        }
        if guest.stranger.is_none() {
            guest.stranger = self.0.addresses.admit(self.0.addresses.of_client(headers, guest.peer));
        }
        if guest.stranger.is_none() {
            return Err(Refusal::strangers());
        }
        self.0.registry.admit().ok_or_else(Refusal::full)
    }

    /// A request without `Origin` comes from no browser; any other has one, and that must be on the list, to the letter.
    fn allows(&self, headers: &HeaderMap) -> bool {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return true };
        origins.next().is_none() && self.0.edge.allowed_origins.iter().any(|allowed| origin == allowed.as_str())
    }
}

/// The process is up.
async fn healthz() -> &'static str {
    "ok"
}

/// New sockets are welcome: we stay, and Postgres and Redis answer.
async fn readyz(State(hub): State<Hub>) -> Response {
    let inner = &hub.0;
    let fault = if inner.leaving.is_cancelled() {
        Some("going away")
    } else if inner.store.ping().await.is_err() {
        Some("postgres")
    } else if !inner.subscriber.connected() || inner.publisher.ping().await.is_err() {
        Some("redis")
    } else {
        None
    };
    match fault {
        None => "ok".into_response(),
        Some(fault) => (StatusCode::SERVICE_UNAVAILABLE, fault).into_response(),
    }
}
