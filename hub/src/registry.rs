//! How many sockets this hub has room for. How many a user and a tenant may hold, all hubs count together
//! ([`Sockets`](chat_core::bus::Sockets)).

use std::sync::Arc;

use chat_core::config::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places of this hub.
pub struct Registry {
    places: Arc<Semaphore>,
    all: usize,
}

/// A place for a socket; given back when dropped.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

impl Registry {
    /// An empty one.
    #[must_use]
    pub fn new(limits: &Limits) -> Self {
        Self { places: Arc::new(Semaphore::new(limits.hub_sockets)), all: limits.hub_sockets }
    }

    /// How many places are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.all.saturating_sub(self.places.available_permits())
    }

    /// A place for one more socket, if there is one.
    #[must_use]
    pub fn admit(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok().map(|permit| Place { _permit: permit })
    }
}
