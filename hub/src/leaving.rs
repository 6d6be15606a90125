//! How a hub goes away: its sockets a few at a time, and everything within a time of its own.
//!
//! From SIGTERM on it takes nobody in, and neither sweeps nor looks. A socket that is in goes on being served until its
//! own moment comes; then it is told to come back elsewhere, after a time of its own again. So the hubs that stay see
//! neither all handshakes at once nor all of them at the same moment of everybody's waiting.

use std::time::Duration;

/// Longest time for requests, from SIGTERM. Somebody may hold half a one open.
pub(crate) const REQUESTS: Duration = Duration::from_secs(10);

/// Longest time for requests and sockets together, from SIGTERM. A socket needs up to [`SPREAD`] until its moment, and
/// beyond that what is under way may take: a script is given up after 8 s, a write after 10.
pub(crate) const SOCKETS: Duration = Duration::from_secs(20);

/// Longest time after that for the hints that wait to be sent. So a hub has gone after 23 s at the latest, and a container
/// usually has 30.
pub(crate) const PIPES: Duration = Duration::from_secs(3);

/// Longest time over which sockets are let go, however many there are.
const SPREAD: Duration = Duration::from_secs(5);

/// The window over which sockets come back after they were told to, in milliseconds.
const RECONNECT_WINDOW_MS: u64 = 5_000;

/// How much longer one of so many sockets is served: somewhere in a window that grows with their number.
pub(crate) fn moment(sockets: usize, per_second: u32) -> Duration {
    window(sockets, per_second).mul_f64(rand::random())
}

/// After what time such a socket shall come back.
pub(crate) fn delay_ms() -> u64 {
    rand::random_range(0..RECONNECT_WINDOW_MS)
}

fn window(sockets: usize, per_second: u32) -> Duration {
    let sockets = u32::try_from(sockets).unwrap_or(u32::MAX);
    (Duration::from_secs(1) * sockets / per_second).min(SPREAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_sockets_up_to_its_bound() {
        for (sockets, milliseconds) in
            [(0, 0), (1, 0), (50, 10), (5_000, 1_000), (25_000, 5_000), (100_000, 5_000), (usize::MAX, 5_000)]
        {
            assert_eq!(window(sockets, 5_000).as_millis(), milliseconds, "{sockets}");
            assert!(moment(sockets, 5_000) <= window(sockets, 5_000));
        }
    }
}
