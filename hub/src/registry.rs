//! Who is connected to this hub: counted, so that nobody holds more sockets or sends faster than they may.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chat_core::{Code, Error, Result, config::Limits, ids::UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{Bucket, Rate};

/// The sockets of this hub.
pub struct Registry {
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
}

struct Shared {
    /// A plain mutex: held for a look-up, never across an await.
    users: Mutex<HashMap<UserId, Present>>,
    rate: Rate,
    user_sockets: usize,
}

/// A user on this hub. Stays after the last socket while the bucket is not full, or leaving and coming back would
/// refill it.
struct Present {
    sockets: usize,
    bucket: Bucket,
}

/// A place for a socket; given back when dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A user's socket; counted until dropped.
pub struct Presence {
    shared: Arc<Shared>,
    user: UserId,
}

/// Users that may be remembered without sockets before the ones with full buckets are forgotten.
const REMEMBERED: usize = 4_096;

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        let rate = Rate {
            per_second: f64::from(limits.user_messages_per_minute) / 60.0,
            burst: f64::from(limits.user_messages_burst),
        };
        Self {
            places: Arc::new(Semaphore::new(limits.hub_sockets)),
            shared: Arc::new(Shared { users: Mutex::default(), rate, user_sockets: limits.user_sockets }),
        }
    }

    /// A place for one more socket, if there is one.
    #[must_use]
    pub fn admit(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }

    /// Counts a socket of a user.
    ///
    /// # Errors
    /// [`Code::TooManySockets`] if they have as many as they may.
    pub fn enter(&self, user: UserId) -> Result<Presence> {
        let now = Instant::now();
        let rate = self.shared.rate;
        let mut users = self.shared.lock();
        if users.len() >= REMEMBERED && !users.contains_key(&user) {
            users.retain(|_, present| present.sockets > 0 || !present.bucket.is_full(rate, now));
        }
        let present = users.entry(user).or_insert_with(|| Present { sockets: 0, bucket: Bucket::full(rate, now) });
        if present.sockets >= self.shared.user_sockets {
            return Err(Error::new(Code::TooManySockets, "Too many connections; close one first."));
        }
        present.sockets += 1;
        Ok(Presence { shared: Arc::clone(&self.shared), user })
    }
}

impl Presence {
    /// Takes leave to send a message.
    ///
    /// # Errors
    /// The time until the next one may be sent.
    pub fn send(&self) -> Result<(), Duration> {
        let mut users = self.shared.lock();
        let Some(present) = users.get_mut(&self.user) else { return Ok(()) };
        present.bucket.take(self.shared.rate, Instant::now())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut users = self.shared.lock();
        let Some(present) = users.get_mut(&self.user) else { return };
        present.sockets -= 1;
        if present.sockets == 0 && present.bucket.is_full(self.shared.rate, Instant::now()) {
            users.remove(&self.user);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, Present>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
