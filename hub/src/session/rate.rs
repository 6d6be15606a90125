//! How fast one socket may send frames, whatever they are.
//!
//! Messages have a bucket of their own, which all hubs share. This one is for what costs a hub work and no leave: pings,
//! frames of an unknown type or none, messages sent again and again after they were refused.

use std::time::Duration;

use chat_core::config::Limits;
use tokio::time::Instant;

/// The frames of one socket: a token bucket, kept as the moment at which it is full again (the generic cell rate
/// algorithm), since every socket has one.
#[derive(Debug)]
pub(super) struct Frames {
    full: Instant,
    /// Time in which one more frame is allowed.
    token: Duration,
    /// Time in which an empty bucket fills.
    most: Duration,
}

impl Frames {
    pub(super) fn new(limits: &Limits) -> Self {
        let token = Duration::from_secs(1) / limits.socket_frames_per_second;
        let most =
            Duration::from_secs_f64(f64::from(limits.socket_frames_burst) / f64::from(limits.socket_frames_per_second));
        Self { full: Instant::now(), token, most }
    }

    /// Takes leave for a frame that came, or tells how long until there is leave.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let full = self.full.max(now) + self.token;
        let wait = full.saturating_duration_since(now).saturating_sub(self.most);
        if !wait.is_zero() {
            return Err(wait);
        }
        self.full = full;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_burst_passes_then_the_rate_holds() {
        let mut frames =
            Frames::new(&Limits { socket_frames_per_second: 10, socket_frames_burst: 20, ..Limits::default() });
        let now = Instant::now();
        assert!((0..20).all(|_| frames.take(now).is_ok()));
        assert_eq!(frames.take(now), Err(Duration::from_millis(100)));
        assert!(frames.take(now + Duration::from_millis(100)).is_ok());
        assert!(frames.take(now + Duration::from_millis(100)).is_err(), "one in a tenth of a second");
        let later = now + Duration::from_secs(60);
        assert!((0..20).all(|_| frames.take(later).is_ok()) && frames.take(later).is_err(), "never more than a burst");
    }
}
