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
    users: Mutex<Users>,
    rate: Rate,
    user_sockets: usize,
}

/// Those who are here, or were and are remembered.
struct Users {
    present: HashMap<UserId, Present>,
    /// How many there are when those without need to be remembered are forgotten.
    forget_at: usize,
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

/// Users below which nobody is forgotten.
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
            shared: Arc::new(Shared {
                users: Mutex::new(Users { present: HashMap::new(), forget_at: REMEMBERED }),
                rate,
                user_sockets: limits.user_sockets,
            }),
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
        if users.present.len() >= users.forget_at {
            users.present.retain(|_, present| present.sockets > 0 || !present.bucket.is_full(rate, now));
            // Twice what is left, so that the next time is as far away as this one took.
            users.forget_at = (users.present.len() * 2).max(REMEMBERED);
        }
        let present =
            users.present.entry(user).or_insert_with(|| Present { sockets: 0, bucket: Bucket::full(rate, now) });
        if present.sockets >= self.shared.user_sockets {
            return Err(Error::new(Code::TooManySockets, "Too many connections; close one first."));
        }
        present.sockets += 1;
        Ok(Presence { shared: Arc::clone(&self.shared), user })
    }
}

impl Presence {
    /// Takes leave to send a message, or anything else that costs a transaction.
    ///
    /// # Errors
    /// The time until the next one may be sent.
    pub fn send(&self) -> Result<(), Duration> {
        let mut users = self.shared.lock();
        let Some(present) = users.present.get_mut(&self.user) else { return Ok(()) };
        present.bucket.take(self.shared.rate, Instant::now())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut users = self.shared.lock();
        let Some(present) = users.present.get_mut(&self.user) else { return };
        present.sockets -= 1;
        if present.sockets == 0 && present.bucket.is_full(self.shared.rate, Instant::now()) {
            users.present.remove(&self.user);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
