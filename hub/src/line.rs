//! What a connection counts as: a stranger's request, until it has become an event stream; then a socket's like.
//!
//! A socket is no longer its connection's: that ends with the upgrade. A stream is answered on its connection to the end,
//! so what is held for it is held here.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync::Notify, time::sleep};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{address::Stranger, peer::CLOSE_PATIENCE, registry::Place};

/// A connection, seen by whoever answers on it. Its task alone owns it.
pub(crate) struct Line {
    counts: Mutex<Counts>,
    ending: Notify,
}

enum Counts {
    /// As a request that has to end soon, of somebody unknown where connections are the clients' own.
    Request { stranger: Option<Stranger>, _tracked: TaskTrackerToken },
    /// As a stream.
    Stream { _kept: Arc<Kept> },
}

/// What a stream has until both its session and its connection have ended: a place in the hub, and a place among the
/// sockets that a hub waits for when it leaves.
pub(crate) struct Kept {
    _place: Place,
    _tracked: TaskTrackerToken,
}

impl Kept {
    /// Both.
    pub(crate) fn new(place: Place, tracked: TaskTrackerToken) -> Self {
        Self { _place: place, _tracked: tracked }
    }
}

impl Line {
    /// A connection that was just taken.
    pub(crate) fn new(stranger: Option<Stranger>, tracked: TaskTrackerToken) -> Self {
        Self { counts: Mutex::new(Counts::Request { stranger, _tracked: tracked }), ending: Notify::new() }
    }

    /// The count that it stands in; none where a proxy speaks for many, or once it is known whose it is.
    pub(crate) fn stranger(&self) -> Option<Stranger> {
        match &*self.counts.lock().unwrap_or_else(PoisonError::into_inner) {
            Counts::Request { stranger, .. } => stranger.clone(),
            Counts::Stream { .. } => None,
        }
    }

    /// From now on it carries a stream of somebody who is known.
    pub(crate) fn carries(&self, kept: Arc<Kept>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        drop(mem::replace(&mut *counts, Counts::Stream { _kept: kept }));
    }

    /// The stream has ended: whoever does not take the rest of it soon is cut.
    pub(crate) fn end(&self) {
        self.ending.notify_one();
    }

    /// Resolves when there was time enough to take it.
    pub(crate) async fn overdue(&self) {
        self.ending.notified().await;
        sleep(CLOSE_PATIENCE).await;
    }
}

#[cfg(test)]
mod tests {
    use chat_core::config::Limits;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::{address::Addresses, registry::Registry};

    #[test]
    fn a_stream_counts_as_a_socket_and_no_longer_as_a_strangers_request() {
        let (requests, sockets, addresses) = (TaskTracker::new(), TaskTracker::new(), Addresses::new(1, 0));
        let registry = Registry::new(&Limits { hub_sockets: 1, ..Limits::default() });
        let address = "192.0.2.1".parse().unwrap();
        let line = Line::new(addresses.admit(address), requests.token());
        assert!(line.stranger().is_some() && addresses.admit(address).is_none());
        assert_eq!((requests.len(), sockets.len()), (1, 0));

        let kept = Arc::new(Kept::new(registry.admit().unwrap(), sockets.token()));
        line.carries(Arc::clone(&kept));
        assert!(line.stranger().is_none() && addresses.admit(address).is_some());
        assert_eq!((requests.len(), sockets.len()), (0, 1));
        drop(kept);
        assert!(registry.admit().is_none() && sockets.len() == 1, "its session has ended, its connection has not");
        drop(line);
        assert!(registry.admit().is_some() && sockets.is_empty());
    }
}
