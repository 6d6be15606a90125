//! How many sockets a user and a tenant hold, on all hubs together.
//!
//! Redis has a hash for each user and for each tenant, with a field for each hub: how many it has there, and until when
//! that counts. Each hub writes its own field alone and as a whole number, so a lost write, a flushed Redis and a killed
//! hub all mend by themselves: those who live tell theirs again, and what the dead one had runs out.
//! While Redis is away or slow each hub goes on by what it holds itself, so that a limit stands, if a looser one.
//!
//! One task asks for all sockets of a hub, those that come at the same time in one round trip: what a field says is in
//! the order in which it was true, and ten thousand who come back at once wait for tens of round trips, not thousands.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
    time::Duration,
};

use redis::{Script, aio::ConnectionManager};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, Interval, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::Publisher;
use crate::{
    config::Limits,
    error::{Code, Error, Result},
    ids::{SocketId, TenantId, UserId},
    keys::{Key, tenant_sockets_key, user_sockets_key},
    timestamp::Timestamp,
};

/// How long Redis is not asked after it did not answer.
const REST: Duration = Duration::from_secs(1);

/// Sockets that come or go in one round trip, and fields told again in one.
const TOGETHER: usize = 512;

/// Tells what a hub holds, and takes more. `KEYS[1]` hash, `ARGV`: 1 hub, 2 limit, 3 held, 4 wanted, 5 lease in
/// milliseconds. Answers how many of those wanted it gets.
///
/// With `TIME` the clock is the server's. The hash itself goes with the last of its fields.
const TELL: &str = "local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local others, fields = 0, redis.call('HGETALL', KEYS[1])
    for i = 1, #fields, 2 do
        local count, until_ms = string.match(fields[i + 1], '^(%d+) (%d+)$')
        if not count or tonumber(until_ms) <= now then redis.call('HDEL', KEYS[1], fields[i])
        elseif fields[i] ~= ARGV[1] then others = others + count end
    end
    local granted = math.max(0, math.min(tonumber(ARGV[4]), ARGV[2] - others - ARGV[3]))
    local held = ARGV[3] + granted
    if held == 0 then redis.call('HDEL', KEYS[1], ARGV[1])
    else
        redis.call('HSET', KEYS[1], ARGV[1], string.format('%d %.0f', held, now + ARGV[5]))
        redis.call('PEXPIRE', KEYS[1], ARGV[5])
    end
    return granted";

/// The name under which Redis knows [`TELL`].
static TELL_HASH: LazyLock<String> = LazyLock::new(|| Script::new(TELL).get_hash().to_owned());

/// The sockets of this hub, counted with those of all others. Cheap to clone.
#[derive(Clone)]
pub struct Sockets {
    /// Unbounded, since a lost leave would count for ever; a hub's own limit bounds how many can come and go.
    asks: mpsc::UnboundedSender<Ask>,
}

/// Somebody's socket; counted until dropped.
pub struct Presence {
    asks: mpsc::UnboundedSender<Ask>,
    who: Who,
    counted: bool,
}

type Who = (TenantId, UserId);

enum Ask {
    /// One more; the presence comes back if it may be.
    Enter(Presence, oneshot::Sender<Presence>),
    Leave(Who),
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    User(Who),
    Tenant(TenantId),
}

/// What Redis is told and asked about one name.
struct Question {
    name: Name,
    held: usize,
    wanted: usize,
}

impl Sockets {
    /// Starts counting, on the connection of `publisher`. The task ends after `stop`, once what waits then is told.
    #[must_use]
    pub fn start(publisher: &Publisher, limits: &Limits, stop: CancellationToken) -> (Self, JoinHandle<()>) {
        let (asks, asked) = mpsc::unbounded_channel();
        let lease = Duration::from_millis(limits.sockets_lease_ms);
        // Twice may go wrong before the lease runs out.
        let mut tick = interval(lease / 3);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let owner = Owner {
            conn: publisher.conn.clone(),
            hub: SocketId::new().uuid(),
            lease,
            patience: Duration::from_millis(limits.sockets_wait_ms),
            user_limit: limits.user_sockets,
            tenant_limit: limits.tenant_sockets,
            held: HashMap::new(),
            tell: HashSet::new(),
            away_until: None,
        };
        (Self { asks }, tokio::spawn(owner.run(asked, tick, stop)))
    }

    /// Counts one more socket of a user in a tenant. Waits for Redis no longer than `LIMIT_SOCKETS_WAIT_MS` for each of
    /// the two counts.
    ///
    /// # Errors
    /// [`Code::TooManySockets`] if the user or the tenant has as many as they may.
    pub async fn enter(&self, tenant: TenantId, user: UserId) -> Result<Presence> {
        let presence = Presence { asks: self.asks.clone(), who: (tenant, user), counted: false };
        let (answer, answered) = oneshot::channel();
        let asked = self.asks.send(Ask::Enter(presence, answer));
        asked.map_err(|_| Error::unavailable("sockets are not counted any more: this hub is going away"))?;
        let refused = |_| Error::new(Code::TooManySockets, "Too many connections; close one first.");
        answered.await.map_err(refused)
    }
}

impl Publisher {
    /// How many sockets count under each of these keys, on all hubs together. What a dead hub had counts until its lease
    /// runs out, by this machine's clock.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Redis did not answer.
    pub async fn held(&self, keys: &[Key]) -> Result<Vec<u64>> {
        let mut counts = Vec::with_capacity(keys.len());
        for together in keys.chunks(TOGETHER) {
            let mut pipeline = redis::pipe();
            for key in together {
                pipeline.cmd("HGETALL").arg(key.as_str());
            }
            let fields: Vec<HashMap<String, String>> =
                pipeline.query_async(&mut self.conn.clone()).await.map_err(Error::unavailable)?;
            let now_ms = Timestamp::now().unix_micros() / 1_000;
            let count = |field: &String| {
                let (count, until_ms) = field.split_once(' ')?;
                (until_ms.parse::<i64>().ok()? > now_ms).then(|| count.parse::<u64>().ok()).flatten()
            };
            counts.extend(fields.iter().map(|hubs| hubs.values().filter_map(count).sum::<u64>()));
        }
        Ok(counts)
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if self.counted {
            // Where nobody counts any more this hub is leaving, and what it told runs out.
            let _ = self.asks.send(Ask::Leave(self.who));
        }
    }
}

/// Owns what this hub knows, and asks.
struct Owner {
    conn: ConnectionManager,
    /// This hub's field.
    hub: Uuid,
    lease: Duration,
    patience: Duration,
    user_limit: usize,
    tenant_limit: usize,
    /// How many this hub has of each, of whom it has any.
    held: HashMap<Name, usize>,
    /// What Redis shall be told as soon as there is time.
    tell: HashSet<Name>,
    /// Redis did not answer: it is not asked before this.
    away_until: Option<Instant>,
}

impl Owner {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>, mut tick: Interval, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(TOGETHER);
        loop {
            if self.tell.is_empty() {
                tokio::select! {
                    // Cancel-safe: nothing is taken unless it is returned.
                    taken = asked.recv_many(&mut batch, TOGETHER) => if taken == 0 { return },
                    _ = tick.tick() => self.tell.extend(self.held.keys()),
                    () = stop.cancelled(), if !asked.is_closed() => asked.close(),
                }
            } else {
                while batch.len() < TOGETHER
                    && let Ok(ask) = asked.try_recv()
                {
                    batch.push(ask);
                }
            }
            self.answer(&mut batch).await;
        }
    }

    /// Takes notice of who left, and lets in who may come: those for whom the user's count has room, and then the tenant's.
    async fn answer(&mut self, batch: &mut Vec<Ask>) {
        let mut entering: HashMap<Who, Vec<(Presence, oneshot::Sender<Presence>)>> = HashMap::new();
        for ask in batch.drain(..) {
            match ask {
                Ask::Leave(who) => [Name::User(who), Name::Tenant(who.0)].into_iter().for_each(|name| self.gone(name)),
                Ask::Enter(presence, answer) => entering.entry(presence.who).or_default().push((presence, answer)),
            }
        }
        let wanted = entering.iter().map(|(who, waiting)| (Name::User(*who), waiting.len())).collect();
        let granted = self.take(wanted).await;
        let mut welcome: HashMap<TenantId, Vec<(Presence, oneshot::Sender<Presence>)>> = HashMap::new();
        for (who, mut waiting) in entering {
            waiting.truncate(granted.get(&Name::User(who)).copied().unwrap_or(0));
            welcome.entry(who.0).or_default().extend(waiting);
        }
        let wanted = welcome.iter().map(|(tenant, waiting)| (Name::Tenant(*tenant), waiting.len())).collect();
        let granted = self.take(wanted).await;
        for (tenant, waiting) in welcome {
            let room = granted.get(&Name::Tenant(tenant)).copied().unwrap_or(0);
            for (place, (mut presence, answer)) in waiting.into_iter().enumerate() {
                if place < room {
                    presence.counted = true;
                    // Whoever has gone meanwhile leaves it in our hands, and it says so as it is dropped.
                    let _ = answer.send(presence);
                } else {
                    self.gone(Name::User(presence.who));
                }
            }
        }
    }

    /// One fewer of these.
    fn gone(&mut self, name: Name) {
        if let Some(held) = self.held.get_mut(&name) {
            *held -= 1;
            if *held == 0 {
                self.held.remove(&name);
            }
            self.tell.insert(name);
        }
    }

    /// Takes as many as there is room for, and tells of those of the same kind that wait to be told.
    async fn take(&mut self, mut wanted: HashMap<Name, usize>) -> HashMap<Name, usize> {
        let to_tell: Vec<Name> = self.tell.iter().take(TOGETHER).copied().collect();
        for name in to_tell {
            self.tell.remove(&name);
            wanted.entry(name).or_default();
        }
        let held = |name: &Name| self.held.get(name).copied().unwrap_or(0);
        let questions: Vec<Question> =
            wanted.into_iter().map(|(name, wanted)| Question { name, held: held(&name), wanted }).collect();
        if questions.is_empty() {
            return HashMap::new();
        }
        let granted = match self.ask(&questions).await {
            Some(granted) => granted,
            None => questions.iter().map(|question| self.room(question)).collect(),
        };
        let granted = questions.into_iter().zip(granted).filter(|(_, granted)| *granted > 0);
        let granted: HashMap<Name, usize> = granted.map(|(question, granted)| (question.name, granted)).collect();
        for (name, granted) in &granted {
            *self.held.entry(*name).or_default() += granted;
        }
        granted
    }

    fn limit(&self, name: &Name) -> usize {
        match name {
            Name::User(_) => self.user_limit,
            Name::Tenant(_) => self.tenant_limit,
        }
    }

    /// How many of those wanted there is room for, by what this hub knows itself.
    fn room(&self, question: &Question) -> usize {
        question.wanted.min(self.limit(&question.name).saturating_sub(question.held))
    }

    /// Asks Redis, which answers in the order of the questions; `None` while it does not.
    async fn ask(&mut self, questions: &[Question]) -> Option<Vec<usize>> {
        if self.away_until.is_some_and(|until| until > Instant::now()) {
            return None;
        }
        let mut pipeline = redis::pipe();
        // Each time, since Redis may have forgotten it; it is short.
        pipeline.cmd("SCRIPT").arg("LOAD").arg(TELL).ignore();
        for Question { name, held, wanted } in questions {
            let ask = pipeline.cmd("EVALSHA").arg(TELL_HASH.as_str()).arg(1).arg(name.key().as_str());
            let ask = ask.arg(self.hub.to_string()).arg(self.limit(name)).arg(*held).arg(*wanted);
            ask.arg(u64::try_from(self.lease.as_millis()).unwrap_or(u64::MAX));
        }
        match timeout(self.patience, pipeline.query_async(&mut self.conn)).await {
            Ok(Ok(granted)) => {
                self.away_until = None;
                return Some(granted);
            }
            Ok(Err(error)) => warn!(%error, "Redis counts no sockets; we count our own"),
            Err(_) => warn!("Redis is too slow to count sockets; we count our own"),
        }
        self.away_until = Some(Instant::now() + REST);
        None
    }
}

impl Name {
    fn key(self) -> Key {
        match self {
            Self::User((tenant, user)) => user_sockets_key(tenant, user),
            Self::Tenant(tenant) => tenant_sockets_key(tenant),
        }
    }
}
