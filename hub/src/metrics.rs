//! What a hub counts, and `/metrics`, which shows it to whoever has the token.
//!
//! What happens often is one atomic add on a handle that is kept: no label is looked up, nothing is allocated, nobody is
//! waited for. What others count anyway (the pool, the two pipes) is read when somebody asks; how the turns stand is read
//! from the database by a task of its own, however often somebody asks.
//!
//! No label names a company, a person or a conversation, and none holds what a peer sent: the number of series is fixed.

use std::{
    array,
    fmt::Error as FmtError,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use chat_core::{
    Code,
    config::Secret,
    conversation::TurnState,
    event::ServerFrame,
    store::{Store, sweep::Standing},
    waits::{STEPS, Waits},
};
use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{MetricType, TypedMetric, counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::warn;

use crate::{Hub, close::Close};

/// Time between two looks at how the turns stand. Each reads the open ones, by their index.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The media type of OpenMetrics: <https://prometheus.io/docs/specs/om/open_metrics_spec/#protocol-negotiation>.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What came from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// `auth`.
    Auth,
    /// `message`.
    Message,
    /// `stop`.
    Stop,
    /// `read`.
    Read,
    /// A frame of no known type.
    Unknown,
    /// A frame that cannot be read.
    Unreadable,
    /// A ping, a pong, a close.
    Control,
}

const HEARD: [&str; 7] = ["auth", "message", "stop", "read", "unknown", "unreadable", "control"];

const TOLD: [&str; 14] = [
    "ready",
    "typing",
    "accepted",
    "message",
    "turn",
    "delta",
    "tool",
    "response",
    "status",
    "read",
    "conversation",
    "error",
    "reset",
    "reconnect",
];

/// Why a piece of a running reply was not written to a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// The socket had it already, or the attempt that wrote it is over.
    Known,
    /// Something before it is missing: the text so far is read instead.
    Gap,
    /// The socket does not wait for this turn, or no longer.
    Unwanted,
}

const PASSED: [&str; 3] = ["known", "gap", "unwanted"];

/// A stage of a message's life, as its socket sees it; each counts from the frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// `typing` is written.
    Typing,
    /// The commit is confirmed.
    Stored,
    /// `accepted` is written.
    Accepted,
    /// The first words of the reply are at hand.
    FirstDelta,
    /// The reply is at hand, or another end.
    Ended,
}

const STAGES: [&str; 5] = ["typing", "stored", "accepted", "first_delta", "ended"];

/// Counters that differ in one label, by number.
type Counters<const N: usize> = [Counter; N];

/// Times, as Prometheus wants to read them.
#[derive(Debug, Clone, Default)]
struct Times(Arc<Waits>);

impl TypedMetric for Times {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), FmtError> {
        let counted = self.0.counted();
        let ends = STEPS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = ends.zip(counted.counts).collect();
        encoder.encode_histogram::<NoLabelSet>(counted.seconds, counted.all(), &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

/// What a hub counts.
pub(crate) struct Metrics {
    registry: Registry,
    token: Option<Secret>,
    /// Sockets and streams that are in.
    pub(crate) sockets: Gauge,
    /// How long they took to come in.
    joins: Arc<Waits>,
    heard: Counters<{ HEARD.len() }>,
    told: Counters<{ TOLD.len() }>,
    passed: Counters<{ PASSED.len() }>,
    /// By code; a new one is entered when it first comes.
    closed: Family<[(&'static str, String); 1], Counter>,
    refused: Family<[(&'static str, String); 1], Counter>,
    stages: [Arc<Waits>; STAGES.len()],
    ends: Counters<{ TurnState::ENDS.len() }>,
    failed: Family<[(&'static str, &'static str); 1], Counter>,
    swept: Counters<2>,
    standing: Mutex<Option<(Instant, Standing)>>,
    looks_failed: AtomicU64,
    elsewhere: Elsewhere,
}

/// What is counted elsewhere, and brought here when somebody asks.
#[derive(Default)]
struct Elsewhere {
    connections: Gauge,
    held: Gauge,
    topics_heard: Counter,
    topics_dropped: Counter,
    let_go: Counter,
    redis_connected: Gauge,
    redis_silence: Gauge<f64, AtomicU64>,
    news_dropped: Counter,
    hints_sent: Counter,
    hints_left: Counter,
    hints_unsent: Gauge,
    pool: [Gauge; 2],
    pool_most: Gauge,
    pool_waiting: Gauge,
    pool_refused: Counter,
    pool_turned_away: Counter,
    open_turns: [Gauge; 2],
    lapsed: Gauge,
    oldest_queued: Gauge<f64, AtomicU64>,
    overdue: Gauge<f64, AtomicU64>,
    looked: Gauge<f64, AtomicU64>,
    looks_failed: Counter,
}

impl Metrics {
    /// Nothing yet. Without a token nobody may see it.
    pub(crate) fn new(store: &Store, token: Option<Secret>) -> Self {
        let mut all = Registry::with_prefix("chat");
        let sockets = Gauge::default();
        all.register("sockets", "Sockets and streams that are in", sockets.clone());
        let joins = Times::default();
        let what = "From the upgrade, or a stream's request, to ready";
        all.register_with_unit("join", what, Unit::Seconds, joins.clone());
        let (closed, refused, failed) = (Family::default(), Family::default(), Family::default());
        all.register("sockets_closed", "Sockets and streams that have ended, by close code", closed.clone());
        for close in Close::ALL.iter().chain([&Close::Gone]) {
            closed.get_or_create_owned(&[("code", code(*close))]);
        }
        all.register(
            "connections_refused",
            "Requests for one that were refused, by the code that says why",
            refused.clone(),
        );
        all.register("turns_failed", "Turns of messages of this hub's sockets that failed, by why", failed.clone());
        let metrics = Self {
            heard: by(&mut all, "frames_received", "Frames of clients", "type", HEARD),
            told: by(&mut all, "frames_sent", "Frames written to clients", "type", TOLD),
            passed: by(
                &mut all,
                "deltas_dropped",
                "Pieces of replies that were not written to a socket",
                "reason",
                PASSED,
            ),
            stages: stages(&mut all),
            ends: by(
                &mut all,
                "turns_ended",
                "Turns of messages of this hub's sockets, by how they were told to have ended",
                "end",
                TurnState::ENDS.map(TurnState::as_str),
            ),
            swept: by(&mut all, "swept_turns", "Turns that a sweep found lying", "outcome", ["hinted", "ended"]),
            elsewhere: Elsewhere::new(&mut all, store),
            token,
            sockets,
            joins: joins.0,
            closed,
            refused,
            failed,
            standing: Mutex::new(None),
            looks_failed: AtomicU64::new(0),
            registry: all,
        };
        for refusal in [Close::Forbidden, Close::Restart, Close::OverLimit, Close::Overloaded] {
            metrics.refused.get_or_create_owned(&[("code", code(refusal))]);
        }
        metrics
    }

    /// A frame came.
    pub(crate) fn heard(&self, frame: Heard) {
        self.heard[frame as usize].inc();
    }

    /// A frame was written.
    pub(crate) fn told(&self, frame: &ServerFrame) {
        let number = match frame {
            ServerFrame::Ready { .. } => 0,
            ServerFrame::Typing { .. } => 1,
            ServerFrame::Accepted { .. } => 2,
            ServerFrame::Message { .. } => 3,
            ServerFrame::Turn { .. } => 4,
            ServerFrame::Delta { .. } => 5,
            ServerFrame::Tool { .. } => 6,
            ServerFrame::Response { .. } => 7,
            ServerFrame::Status { .. } => 8,
            ServerFrame::Read { .. } => 9,
            ServerFrame::Conversation { .. } => 10,
            ServerFrame::Error { .. } => 11,
            ServerFrame::Reset { .. } => 12,
            ServerFrame::Reconnect { .. } => 13,
        };
        self.told[number].inc();
    }

    /// A piece of a reply was passed over.
    pub(crate) fn passed(&self, why: Passed) {
        self.passed[why as usize].inc();
    }

    /// A socket or a stream is in.
    pub(crate) fn joined(&self, since: Instant) {
        self.joins.note(since.elapsed());
    }

    /// A socket or a stream has ended.
    pub(crate) fn closed(&self, close: Close) {
        self.closed.get_or_create_owned(&[("code", code(close))]).inc();
    }

    /// A request for one was refused.
    pub(crate) fn refused(&self, close: Close) {
        self.refused.get_or_create_owned(&[("code", code(close))]).inc();
    }

    /// A message that came so long ago has reached a stage.
    pub(crate) fn reached(&self, stage: Stage, since: Instant) {
        self.stages[stage as usize].note(since.elapsed());
    }

    /// The turn of a message of ours has ended.
    pub(crate) fn ended(&self, state: TurnState, why: Option<Code>, since: Instant) {
        self.reached(Stage::Ended, since);
        let Some(end) = state.end() else { return };
        self.ends[end].inc();
        if let (TurnState::Failed, Some(why)) = (state, why) {
            self.failed.get_or_create_owned(&[("code", why.as_str())]).inc();
        }
    }

    /// A sweep found turns lying.
    pub(crate) fn swept(&self, hinted: usize, ended: usize) {
        self.swept[0].inc_by(hinted as u64);
        self.swept[1].inc_by(ended as u64);
    }

    /// Whether somebody may see it.
    fn lets_in(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(token), Some(value), None) = (&self.token, given.next(), given.next()) else { return false };
        let Some((scheme, given)) = value.as_bytes().split_at_checked("bearer ".len()) else { return false };
        // In constant time, so that nobody finds it byte by byte.
        scheme.eq_ignore_ascii_case(b"bearer ") && verify_slices_are_equal(given, token.expose().as_bytes()).is_ok()
    }
}

/// The code of a close as a label; `none` where the peer was gone and nobody was told any.
fn code(close: Close) -> String {
    close.frame().map_or_else(|| "none".to_owned(), |frame| frame.code.to_string())
}

/// Counters that differ in one label.
fn by<const N: usize>(
    registry: &mut Registry,
    name: &str,
    what: &str,
    label: &'static str,
    values: [&'static str; N],
) -> Counters<N> {
    let family = Family::<[(&'static str, &'static str); 1], Counter>::default();
    registry.register(name, what, family.clone());
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

fn stages(registry: &mut Registry) -> [Arc<Waits>; STAGES.len()] {
    let family = Family::<[(&'static str, &'static str); 1], Times>::default();
    let what = "From a message's frame to each stage of its life";
    registry.register_with_unit("message_stage", what, Unit::Seconds, family.clone());
    STAGES.map(|stage| family.get_or_create_owned(&[("stage", stage)]).0)
}

fn gauges<const N: usize>(
    registry: &mut Registry,
    name: &str,
    what: &str,
    label: &'static str,
    values: [&'static str; N],
) -> [Gauge; N] {
    let family = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    registry.register(name, what, family.clone());
    values.map(|value| family.get_or_create_owned(&[(label, value)]))
}

impl Elsewhere {
    fn new(all: &mut Registry, store: &Store) -> Self {
        let new = Self {
            pool: gauges(all, "pool_connections", "Connections to Postgres", "state", ["idle", "used"]),
            open_turns: gauges(
                all,
                "open_turns",
                "Turns of all companies that have not ended",
                "state",
                ["queued", "running"],
            ),
            ..Self::default()
        };
        all.register(
            "connections",
            "Places taken, by sockets and streams on their way in as well",
            new.connections.clone(),
        );
        all.register("conversations_held", "Conversations that sockets of this hub are in", new.held.clone());
        all.register("publications", "Publications that somebody here listened to", new.topics_heard.clone());
        let what = "Publications that cannot be read, or belong elsewhere";
        all.register("publications_dropped", what, new.topics_dropped.clone());
        all.register("listeners_let_go", "Sockets that were too slow for what was published", new.let_go.clone());
        all.register(
            "redis_connected",
            "Whether every connection to Redis stands that news come by",
            new.redis_connected.clone(),
        );
        let what = "Since Redis last answered a probe on that connection";
        all.register_with_unit("redis_probe_age", what, Unit::Seconds, new.redis_silence.clone());
        all.register("news_dropped", "News that were not published, since too much waited", new.news_dropped.clone());
        all.register("hints_sent", "Hints of work that the queue took", new.hints_sent.clone());
        all.register(
            "hints_dropped",
            "Hints that were left to the sweep, since too many waited",
            new.hints_left.clone(),
        );
        all.register("hints_unsent", "Hints given since the queue last took any", new.hints_unsent.clone());
        all.register_with_unit("pool_wait", "Waits for a connection to Postgres", Unit::Seconds, Times(store.waits()));
        all.register("pool_connections_max", "Connections to Postgres that there may be", new.pool_most.clone());
        all.register("pool_waiting", "Who waits for a connection to Postgres", new.pool_waiting.clone());
        all.register("pool_timeouts", "Waits for a connection to Postgres that were in vain", new.pool_refused.clone());
        let what = "Who was told at once that they would wait too long for a connection to Postgres";
        all.register("pool_turned_away", what, new.pool_turned_away.clone());
        all.register("leases_expired", "Running turns of all companies whose lease ran out", new.lapsed.clone());
        let what = "Since the oldest queued turn of all companies was accepted";
        all.register_with_unit("queued_turn_age", what, Unit::Seconds, new.oldest_queued.clone());
        let what = "Since the first lease of a running turn ran out";
        all.register_with_unit("expired_lease_age", what, Unit::Seconds, new.overdue.clone());
        let what = "Since it was last read how the turns stand; what says so is as old";
        all.register_with_unit("turns_look_age", what, Unit::Seconds, new.looked.clone());
        all.register("turns_looks_failed", "Looks at how the turns stand that failed", new.looks_failed.clone());
        new
    }

    fn bring(&self, hub: &Hub) {
        let (inner, counted) =
            (&hub.0, |counter: &Counter, value: u64| counter.inner().store(value, Ordering::Relaxed));
        let number = |gauge: &Gauge, value: usize| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        number(&self.connections, inner.registry.taken());
        number(&self.held, inner.held.len());
        counted(&self.topics_heard, inner.subscriber.heard());
        counted(&self.topics_dropped, inner.subscriber.dropped());
        counted(&self.let_go, inner.subscriber.let_go());
        self.redis_connected.set(inner.subscriber.connected().into());
        self.redis_silence.set(inner.subscriber.silence().as_secs_f64());
        counted(&self.news_dropped, inner.outbox.dropped());
        counted(&self.hints_sent, inner.dispatcher.sent());
        counted(&self.hints_left, inner.dispatcher.left());
        number(&self.hints_unsent, inner.dispatcher.unsent());
        let pool = inner.store.connections();
        for (gauge, value) in self.pool.iter().zip([pool.idle, pool.open.saturating_sub(pool.idle)]) {
            number(gauge, value);
        }
        number(&self.pool_most, pool.most);
        number(&self.pool_waiting, pool.waiting);
        counted(&self.pool_refused, pool.refused);
        counted(&self.pool_turned_away, pool.turned_away);
        counted(&self.looks_failed, inner.metrics.looks_failed.load(Ordering::Relaxed));
        let looked = *inner.metrics.standing.lock().unwrap_or_else(PoisonError::into_inner);
        // Until the first look there is nothing to say: no number is the honest one.
        let age = |known: Option<Duration>| known.map_or(f64::NAN, |age| age.as_secs_f64());
        let standing = looked.map(|(_, standing)| standing);
        let of = |standing: Standing| [standing.queued, standing.running];
        let open = standing.map_or([0; 2], of);
        array::from_fn::<_, 2, _>(|state| self.open_turns[state].set(open[state]));
        self.lapsed.set(standing.map_or(0, |standing| standing.lapsed));
        self.oldest_queued.set(age(standing.map(|standing| standing.oldest_queued)));
        self.overdue.set(age(standing.map(|standing| standing.overdue)));
        self.looked.set(age(looked.map(|(when, _)| when.elapsed())));
    }
}

impl Hub {
    /// Looks at how the turns stand, until the hub leaves; not at all where nobody may see it.
    pub(crate) async fn look_at_turns(self) {
        if self.0.metrics.token.is_none() {
            return;
        }
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.0.leaving.cancelled() => return,
                _ = tick.tick() => {}
            }
            let metrics = &self.0.metrics;
            match self.0.store.open_turns().await {
                Ok(standing) => {
                    let mut known = metrics.standing.lock().unwrap_or_else(PoisonError::into_inner);
                    *known = Some((Instant::now(), standing));
                }
                Err(error) => {
                    metrics.looks_failed.fetch_add(1, Ordering::Relaxed);
                    warn!(?error, "it was not read how the turns stand; the next look comes");
                }
            }
        }
    }
}

/// The route, where somebody may see it.
pub(crate) fn route(hub: &Hub) -> Router<Hub> {
    if hub.0.metrics.token.is_some() { Router::new().route("/metrics", get(show)) } else { Router::new() }
}

/// Everything, in the text of OpenMetrics.
async fn show(State(hub): State<Hub>, headers: HeaderMap) -> Response {
    let metrics = &hub.0.metrics;
    if !metrics.lets_in(&headers) {
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")]).into_response();
    }
    metrics.elsewhere.bring(&hub);
    let mut text = String::with_capacity(16 * 1024);
    if let Err(error) = encode(&mut text, &metrics.registry) {
        warn!(%error, "the figures cannot be written");
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    ([(header::CONTENT_TYPE, OPEN_METRICS), (header::CACHE_CONTROL, "no-store")], text).into_response()
}
