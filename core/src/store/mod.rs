//! The only SQL of the house, and the only way to a row.
//!
//! All work is a [`script`]: a list of statements sent as one transaction in one network round trip, so no code
//! can hold a transaction open, and none can leak one by being cancelled. A script runs in one of these scopes:
//!
//! - through a [`door`]: on behalf of a person; the door's own statement, first in the same transaction, finds out
//!   whether they may enter and sets the tenant. Where it stays shut there is no tenant, hence no row;
//! - [`Scope::Tenant`]: on behalf of a turn, whose tenant the queue named;
//! - [`Scope::Sweep`]: to look for turns left lying, in all tenants, and nothing else;
//! - [`Scope::Retention`]: to delete what companies do not want to keep any longer, and nothing else;
//! - [`Scope::Nobody`]: to add what belongs to no tenant, or to find out whom a token names.

#[cfg(feature = "migrate")]
pub mod admin;
pub mod channel_turns;
pub mod claim;
pub mod connections;
pub mod conversations;
pub mod dead_letters;
pub mod door;
#[cfg(feature = "migrate")]
pub mod erasure;
pub mod escalations;
pub mod identities;
pub mod memory;
pub mod messages;
#[cfg(feature = "migrate")]
pub mod migrate;
pub mod model_keys;
pub mod notices;
pub mod owned;
#[cfg(feature = "migrate")]
pub mod owner;
pub mod portal;
pub mod retention;
mod role;
pub mod roll;
mod room;
mod sabotage;
mod script;
pub mod search;
pub mod spend;
pub mod sweep;
mod tls;
pub mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::Row;
use tracing::warn;

use crate::{
    config,
    error::{Error, Kind, Result},
    ids::{TenantId, UserId},
    waits::Waits,
};
pub use role::unpatched;
use room::Room;
use script::Step;

/// Longest wait for a connection, new or returned, before a caller is told that we are not available.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait for the answer to a script. Above the server's own `statement_timeout`, which ends what is merely slow.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// Postgres, through a bounded pool.
#[derive(Clone)]
pub struct Store {
    pool: Pool,
    room: Room,
    queue: Arc<Queue>,
}

/// Those who want a connection.
#[derive(Debug, Default)]
struct Queue {
    /// How long each waited, also who got none.
    waits: Arc<Waits>,
    /// Who got none.
    refused: AtomicU64,
    /// Who was not let into it.
    turned_away: AtomicU64,
}

/// How the pool stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// That there are.
    pub open: usize,
    /// Of these, that nobody has.
    pub idle: usize,
    /// That there may be.
    pub most: usize,
    /// Who waits for one.
    pub waiting: usize,
    /// How many got none in time, since the start.
    pub refused: u64,
    /// How many were told at once that they would wait too long, since the start.
    pub turned_away: u64,
}

/// Whose rows exist in a transaction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope {
    /// What is this person's own, until a door has set a tenant.
    Person(UserId),
    /// This tenant's.
    Tenant(TenantId),
    /// Every tenant's open turns.
    Sweep,
    /// What is due to be deleted, in every tenant that has a retention.
    Retention,
    /// No row at all, but for the one identity that a token names; for what can only be added.
    Nobody,
}

impl Scope {
    /// The first message of the transaction. What is formatted in are UUIDs by type: hex digits and dashes.
    fn begin(self) -> String {
        match self {
            Self::Person(user) => format!("begin; set local app.\"current_user\" = '{user}'"),
            Self::Tenant(tenant) => format!("begin; set local app.current_tenant = '{tenant}'"),
            Self::Sweep => "begin; set local role chat_sweep".to_owned(),
            Self::Retention => "begin; set local role chat_retention".to_owned(),
            Self::Nobody => "begin".to_owned(),
        }
    }
}

impl Store {
    /// Connects, and makes sure that policies hold for us.
    ///
    /// # Errors
    /// As [`Store::new`]; [`Kind::Unavailable`] if Postgres cannot be reached; [`Kind::Internal`] if the role could bypass
    /// row-level security.
    pub async fn connect(settings: &config::Database) -> Result<Self> {
        let store = Self::new(settings)?;
        store.conn().await.map(drop).map_err(named)?;
        Ok(store)
    }

    /// Connects to nothing yet: connections are made as they are asked for, and refused where policies do not hold for us.
    ///
    /// # Errors
    /// [`Kind::Internal`] if the URL is malformed or asks for less than `sslmode=verify-full` of another machine.
    pub fn new(settings: &config::Database) -> Result<Self> {
        let (mut target, tls) = tls::target(&settings.url)?;
        target.connect_timeout(CONNECTION_TIMEOUT);
        // A server that is gone without a word is noticed in seconds, not in the system's quarter of an hour.
        target.tcp_user_timeout(ANSWER_TIMEOUT);
        target.keepalives_idle(Duration::from_secs(15));
        target.keepalives_interval(Duration::from_secs(5));
        target.keepalives_retries(2);
        target.application_name("konstruct-chat");
        // Recycling may stay cheap: no script leaves anything behind on its connection.
        let manager = Manager::from_config(target, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(settings.pool_size)
            .timeouts(Timeouts {
                wait: Some(CONNECTION_TIMEOUT),
                create: Some(CONNECTION_TIMEOUT),
                recycle: Some(CONNECTION_TIMEOUT),
            })
            .runtime(Runtime::Tokio1)
            .post_create(role::look())
            .build()
            .map_err(Error::internal)?;
        Ok(Self { pool, room: Room::default(), queue: Arc::default() })
    }

    /// Begins to connect, for who will soon be asked: a function that has asked for its first event. Must run on the
    /// runtime of the process. Where it fails the log says so, and those who ask next are told.
    pub fn warm(&self) {
        let store = self.clone();
        tokio::spawn(async move {
            if let Err(error) = store.conn().await.map_err(named) {
                warn!(?error, "no connection yet");
            }
        });
    }

    /// Lets go of all connections; whoever still asks is told that we are not available.
    pub fn close(&self) {
        self.pool.close();
    }

    /// How the pool stands.
    #[must_use]
    pub fn connections(&self) -> Connections {
        let status = self.pool.status();
        Connections {
            open: status.size,
            idle: status.available,
            most: status.max_size,
            waiting: status.waiting,
            refused: self.queue.refused.load(Ordering::Relaxed),
            turned_away: self.queue.turned_away.load(Ordering::Relaxed),
        }
    }

    /// How long callers waited for a connection.
    #[must_use]
    pub fn waits(&self) -> Arc<Waits> {
        Arc::clone(&self.queue.waits)
    }

    /// Answers if Postgres does.
    ///
    /// # Errors
    /// [`Kind::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<()> {
        let conn = self.conn().await?;
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, conn.batch_execute("")).await;
        answer.map_err(Error::unavailable)?.map_err(Error::unavailable)
    }

    /// A connection. Only scripts run on it.
    #[expect(clippy::disallowed_methods, reason = "the one place that takes connections from the pool")]
    async fn conn(&self) -> Result<Object> {
        self.room.enter(&self.pool.status()).inspect_err(|_| {
            self.queue.turned_away.fetch_add(1, Ordering::Relaxed);
        })?;
        let asked = Instant::now();
        let conn = self.pool.get().await;
        self.queue.waits.note(asked.elapsed());
        conn.map_err(|error| {
            self.queue.refused.fetch_add(1, Ordering::Relaxed);
            if role::refused(&error) { Error::internal(error) } else { Error::unavailable(error) }
        })
    }

    /// Runs a script in a scope; see [`script::run`].
    pub(crate) async fn run(&self, scope: Scope, steps: &[Step<'_>]) -> Result<Vec<Vec<Row>>> {
        let conn = self.conn().await?;
        let since = Instant::now();
        let answers = script::run(conn, &scope.begin(), steps).await;
        self.room.held(since);
        answers
    }
}

/// Says which setting it is that leads nowhere. What the library says of a connection holds no password.
fn named(error: Error) -> Error {
    match error.kind() {
        Kind::Unavailable => Error::unavailable(format!("DATABASE_URL: {error:?}")),
        Kind::Unauthenticated
        | Kind::Forbidden
        | Kind::NotFound
        | Kind::Invalid
        | Kind::Conflict
        | Kind::Busy
        | Kind::Internal => error,
    }
}

/// Reads a column by name.
fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.try_get(name).map_err(Error::internal)
}

/// Reads a column that holds one of our words.
fn word<T: std::str::FromStr>(row: &Row, name: &str) -> Result<T> {
    parsed(name, column(row, name)?)
}

/// Reads a column that may hold one of our words.
fn optional_word<T: std::str::FromStr>(row: &Row, name: &str) -> Result<Option<T>> {
    column::<Option<&str>>(row, name)?.map(|text| parsed(name, text)).transpose()
}

/// One of our words, from a column of that name.
fn parsed<T: std::str::FromStr>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|_| Error::internal(format!("{name} holds {text}, which this version does not know")))
}

/// The code of a failed turn; one of a newer version reads as [`Code::Internal`](crate::Code::Internal).
fn optional_code(row: &Row) -> Result<Option<crate::Code>> {
    let code: Option<&str> = column(row, "code")?;
    Ok(code.map(|code| code.parse().unwrap_or(crate::Code::Internal)))
}

/// Reads a moment.
fn moment(row: &Row, name: &str) -> Result<crate::timestamp::Timestamp> {
    column::<time::OffsetDateTime>(row, name).map(Into::into)
}

/// Reads a moment that may be absent.
fn optional_moment(row: &Row, name: &str) -> Result<Option<crate::timestamp::Timestamp>> {
    Ok(column::<Option<time::OffsetDateTime>>(row, name)?.map(Into::into))
}

/// The conversation row's lock, a statement of its own before any that looks at more than the row it updates:
/// READ COMMITTED takes a snapshot when a statement starts, so the next statement sees all that happened before the lock.
const LOCK: &str = "select 1 from web_conversations where id = $1 and tenant_id = app_tenant() for no key update";
