//! How fast one person may send.

use std::time::{Duration, Instant};

/// A token bucket: filled at a steady rate up to a burst, one token a message.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

/// How fast a bucket fills, and how far.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Tokens a second.
    pub per_second: f64,
    /// Tokens it holds.
    pub burst: f64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled: now }
    }

    /// Takes a token, or tells how long until there is one.
    ///
    /// # Errors
    /// The time until the next token.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / rate.per_second))
    }

    /// Whether it is as good as new.
    pub fn is_full(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        self.tokens >= rate.burst
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
        assert!(!bucket.is_full(rate, start + Duration::from_secs(7)));
        assert!(bucket.is_full(rate, start + Duration::from_secs(8)));
    }
}
