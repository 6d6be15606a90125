//! Who is connected to this hub: counted, so that nobody holds more sockets than they may.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chat_core::{Code, Error, Result, config::Limits, ids::UserId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The sockets of this hub.
pub struct Registry {
    places: Arc<Semaphore>,
    shared: Arc<Shared>,
}

struct Shared {
    /// How many sockets each user has who has one. A plain mutex: held for a look-up, never across an await.
    users: Mutex<HashMap<UserId, usize>>,
    user_sockets: usize,
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

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits.hub_sockets)),
            shared: Arc::new(Shared { users: Mutex::default(), user_sockets: limits.user_sockets }),
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
        let mut users = self.shared.lock();
        let sockets = users.entry(user).or_default();
        if *sockets >= self.shared.user_sockets {
            return Err(Error::new(Code::TooManySockets, "Too many connections; close one first."));
        }
        *sockets += 1;
        Ok(Presence { shared: Arc::clone(&self.shared), user })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut users = self.shared.lock();
        let Some(sockets) = users.get_mut(&self.user) else { return };
        *sockets -= 1;
        if *sockets == 0 {
            users.remove(&self.user);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
