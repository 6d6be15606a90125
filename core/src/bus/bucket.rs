//! How fast one person may write: a token bucket for each user of a tenant, shared by all hubs and functions.
//!
//! It lives in Redis and is filled by Redis's clock. While Redis is away or slow each process goes on with a bucket of
//! its own, so that a limit stands, if a looser one. A flushed Redis has forgotten who was fast, nothing else.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use redis::{Script, aio::ConnectionManager};
use tokio::time::timeout;
use tracing::warn;

use super::Publisher;
use crate::{
    config::Limits,
    ids::{TenantId, UserId},
    keys::{Key, ratelimit_key},
};

/// How long Redis is not asked after it did not answer.
const REST: Duration = Duration::from_secs(1);

/// Users below which nobody is forgotten.
const REMEMBERED: usize = 4_096;

/// Takes a token. `KEYS[1]` bucket, `ARGV[1]` microseconds for a token, `ARGV[2]` tokens it holds. Answers 0, or the microseconds
/// until there is one.
///
/// The bucket is kept as the moment at which it is full again (the generic cell rate algorithm: the one number holds
/// both level and time). With `TIME` the clock is the server's; a key whose bucket is full is as good as none.
static TAKE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local token, most = tonumber(ARGV[1]), ARGV[1] * ARGV[2]
        local full = tonumber(redis.call('GET', KEYS[1]) or now)
        full = math.min(math.max(full, now), now + most) + token
        local wait = full - now - most
        if wait > 0 then return math.ceil(wait) end
        local expiry = math.max(1, math.ceil((full - now) / 1000))
        redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', expiry)
        return 0",
    )
});

/// How fast a bucket fills, and how far.
#[derive(Debug, Clone, Copy)]
struct Rate {
    /// Tokens a second.
    per_second: f64,
    /// Tokens it holds.
    burst: f64,
}

/// The buckets of everybody. Cheap to clone.
#[derive(Clone)]
pub struct Buckets {
    conn: ConnectionManager,
    rate: Rate,
    /// Longest wait for Redis to say whether somebody may go on.
    patience: Duration,
    local: Arc<Mutex<Local>>,
}

/// What this process knows by itself.
struct Local {
    users: HashMap<(TenantId, UserId), Bucket>,
    /// How many there are when those without need to be remembered are forgotten.
    forget_at: usize,
    /// Redis did not answer: it is not asked before this.
    away_until: Option<Instant>,
}

/// One person's bucket, for while Redis is away.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: f64,
    filled: Instant,
    /// Redis said that there is no token before this: until then nobody needs to ask again.
    empty_until: Option<Instant>,
}

impl Buckets {
    /// Buckets that fill as the limits say, on the connection of `publisher`.
    #[must_use]
    pub fn new(publisher: &Publisher, limits: &Limits) -> Self {
        let rate = Rate {
            per_second: f64::from(limits.user_messages_per_minute) / 60.0,
            burst: f64::from(limits.user_messages_burst),
        };
        let local = Local { users: HashMap::new(), forget_at: REMEMBERED, away_until: None };
        let patience = Duration::from_millis(limits.user_messages_wait_ms);
        Self { conn: publisher.conn.clone(), rate, patience, local: Arc::new(Mutex::new(local)) }
    }

    /// Takes leave for `user` to write something in `tenant`: to send, to stop, to reset. Never fails and never waits
    /// longer than `LIMIT_USER_MESSAGES_WAIT_MS`: without Redis the decision is this process's own.
    ///
    /// # Errors
    /// The time until there is a token.
    pub async fn take(&self, tenant: TenantId, user: UserId) -> Result<(), Duration> {
        let (now, who) = (Instant::now(), (tenant, user));
        let ask = {
            let local = self.local();
            if let Some(until) =
                local.users.get(&who).and_then(|bucket| bucket.empty_until).filter(|until| *until > now)
            {
                return Err(until - now);
            }
            local.away_until.is_none_or(|until| until <= now)
        };
        if ask {
            match timeout(self.patience, self.ask(&ratelimit_key(tenant, user))).await {
                Ok(Ok(Duration::ZERO)) => return Ok(()),
                Ok(Ok(wait)) => {
                    let now = Instant::now();
                    self.local().bucket(who, self.rate, now).empty_until = Some(now + wait);
                    return Err(wait);
                }
                Ok(Err(error)) => warn!(%error, "Redis keeps no buckets; we keep our own"),
                Err(_) => warn!("Redis is too slow to keep buckets; we keep our own"),
            }
        }
        let now = Instant::now();
        let mut local = self.local();
        if ask {
            local.away_until = Some(now + REST);
        }
        local.bucket(who, self.rate, now).take(self.rate, now)
    }

    async fn ask(&self, key: &Key) -> redis::RedisResult<Duration> {
        let token_us = 1_000_000.0 / self.rate.per_second;
        let mut take = TAKE.key(key.as_str());
        let take = take.arg(token_us).arg(self.rate.burst);
        take.invoke_async(&mut self.conn.clone()).await.map(Duration::from_micros)
    }

    fn local(&self) -> MutexGuard<'_, Local> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    /// Somebody's bucket; those that are as good as new make room.
    fn bucket(&mut self, who: (TenantId, UserId), rate: Rate, now: Instant) -> &mut Bucket {
        if self.users.len() >= self.forget_at {
            self.users.retain(|_, bucket| !bucket.is_new(rate, now));
            // Twice what is left, so that the next time is as far away as this one took.
            self.forget_at = (self.users.len() * 2).max(REMEMBERED);
        }
        self.users.entry(who).or_insert_with(|| Bucket::full(rate, now))
    }
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled: now, empty_until: None }
    }

    /// Takes a token, or tells how long until there is one.
    fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate.per_second))
    }

    /// Whether nothing would be lost with it.
    fn is_new(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.burst && self.empty_until.is_none_or(|until| until <= now)
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * rate.per_second).min(rate.burst);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let rate = Rate { per_second: 0.5, burst: 3.0 };
        let start = Instant::now();
        let mut bucket = Bucket::full(rate, start);
        assert!((0..3).all(|_| bucket.take(rate, start).is_ok()));
        assert_eq!(bucket.take(rate, start), Err(Duration::from_secs(2)));
        assert_eq!(bucket.take(rate, start + Duration::from_secs(1)), Err(Duration::from_secs(1)));
        assert!(bucket.take(rate, start + Duration::from_secs(2)).is_ok());
        assert!(!bucket.is_new(rate, start + Duration::from_secs(7)));
        assert!(bucket.is_new(rate, start + Duration::from_secs(8)));
    }

    #[test]
    fn those_who_were_fast_are_remembered_and_the_others_make_room() {
        let rate = Rate { per_second: 1.0, burst: 1.0 };
        let (start, tenant) = (Instant::now(), TenantId::new());
        let mut local = Local { users: HashMap::new(), forget_at: REMEMBERED, away_until: None };
        let fast = (tenant, UserId::new());
        for _ in 0..REMEMBERED - 1 {
            assert!(local.bucket((tenant, UserId::new()), rate, start).take(rate, start).is_ok());
        }
        let later = start + Duration::from_secs(1);
        assert!(local.bucket(fast, rate, later).take(rate, later).is_ok());
        assert_eq!(local.users.len(), REMEMBERED);
        local.bucket((tenant, UserId::new()), rate, later);
        assert_eq!(local.users.len(), 2);
        assert!(local.bucket(fast, rate, later).take(rate, later).is_err());
    }
}
