//! Overload, answered early: who would wait too long for a connection is told at once, not at the end of the wait.
//!
//! The wait is foreseen by Little's law: those who stand before us, times how long each holds a connection, over their
//! number. How long that is, a moving mean knows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_postgres::Status;

use crate::error::{Error, Result};

/// Longest wait for a connection that anybody is let into. Clients come again within seconds, and what has to wait this long
/// is better served by those seconds than by a longer queue.
const LONGEST: Duration = Duration::from_secs(2);

/// Each new time counts so much of the mean, as a power of two: a sixteenth.
const SHARE: u32 = 4;

/// How long transactions hold a connection, in microseconds, on average.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<AtomicU64>);

impl Room {
    /// Lets in whoever will not have to wait too long, as the pool stands.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) for anybody else.
    pub(super) fn enter(&self, pool: &Status) -> Result<()> {
        if self.wait(pool.waiting, pool.max_size) > LONGEST {
            return Err(Error::unavailable("too many wait for a connection"));
        }
        Ok(())
    }

    fn wait(&self, before: usize, connections: usize) -> Duration {
        let (before, connections) = (before as u64, connections.max(1) as u64);
        Duration::from_micros(self.0.load(Ordering::Relaxed).saturating_mul(before) / connections)
    }

    /// Notes how long a connection was held. Of two at the same moment one may be lost, which a mean does not mind.
    pub(super) fn held(&self, since: Instant) {
        let held = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mean = self.0.load(Ordering::Relaxed);
        self.0.store(mean - (mean >> SHARE) + (held >> SHARE), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn who_would_wait_too_long_is_not_let_in() {
        let room = Room(Arc::new(AtomicU64::new(10_000)));
        let pool = |waiting| Status { max_size: 8, size: 8, available: 0, waiting };
        assert!(room.enter(&pool(1_600)).is_ok(), "two seconds");
        assert_eq!(room.enter(&pool(1_601)).unwrap_err().kind(), Kind::Unavailable);
        assert!(Room::default().enter(&pool(1_000_000)).is_ok(), "nobody knows yet");
    }

    #[test]
    fn the_mean_follows() {
        let room = Room::default();
        for _ in 0..100 {
            room.held(Instant::now().checked_sub(Duration::from_millis(100)).unwrap());
        }
        assert!(room.wait(1, 1) > Duration::from_millis(95), "{:?}", room.wait(1, 1));
        for _ in 0..100 {
            room.held(Instant::now());
        }
        assert!(room.wait(1, 1) < Duration::from_millis(5), "{:?}", room.wait(1, 1));
    }
}
