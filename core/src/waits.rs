//! How long something took, counted: one atomic add for each, nothing allocated, nobody waited for.
//!
//! It knows no format and no library: whoever shows it (the hub's `/metrics`) reads it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The upper ends of the steps, in seconds: from a frame written in a fraction of a millisecond to a turn's whole life.
pub const STEPS: [f64; 20] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0, 180.0,
];

/// A distribution of times.
#[derive(Debug)]
pub struct Waits {
    /// How many fell into each step, and beyond the last one.
    counts: [AtomicU64; STEPS.len() + 1],
    /// All of them together.
    micros: AtomicU64,
}

/// What was counted until a moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Counted {
    /// How many fell into each step, and beyond the last one.
    pub counts: [u64; STEPS.len() + 1],
    /// All of them together, in seconds.
    pub seconds: f64,
}

impl Default for Waits {
    fn default() -> Self {
        Self { counts: [const { AtomicU64::new(0) }; STEPS.len() + 1], micros: AtomicU64::new(0) }
    }
}

impl Waits {
    /// One more, which took so long.
    pub fn note(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let step = STEPS.partition_point(|end| *end < seconds);
        self.counts[step].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What was counted until now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let counts = std::array::from_fn(|step| self.counts[step].load(Ordering::Relaxed));
        Counted { counts, seconds: Duration::from_micros(self.micros.load(Ordering::Relaxed)).as_secs_f64() }
    }
}

impl Counted {
    /// How many there were.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_falls_into_the_step_that_it_does_not_exceed() {
        let waits = Waits::default();
        for (micros, step) in [(0, 0), (100, 0), (101, 1), (1_000, 3), (1_001, 4), (180_000_000, 19), (181_000_000, 20)]
        {
            let before = waits.counted().counts[step];
            waits.note(Duration::from_micros(micros));
            assert_eq!(waits.counted().counts[step], before + 1, "{micros}");
        }
        assert_eq!(waits.counted().all(), 7);
        assert!((waits.counted().seconds - 361.002_202).abs() < 1e-9);
    }

    /// Not a test of speed, which differs by machine: prints what one costs, with `--nocapture` in a release build.
    #[test]
    fn what_one_costs() {
        let (waits, times) = (Waits::default(), 1_000_000_u32);
        let begun = std::time::Instant::now();
        for n in 0..times {
            waits.note(Duration::from_micros(u64::from(n % 4_096)));
        }
        let each = begun.elapsed() / times;
        assert_eq!(waits.counted().all(), u64::from(times));
        assert!(each < Duration::from_millis(1), "{each:?}");
    }
}
