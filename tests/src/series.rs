//! Times of one kind, as benchmarks collect them.

use std::time::Duration;

use tokio::time::Instant;

/// Times of one kind, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Series(pub Vec<f64>);

impl Series {
    /// The time since then.
    pub fn add(&mut self, since: Instant) {
        self.push(since.elapsed());
    }

    /// This time.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1_000.0);
    }

    /// The time below which this share of all is: 0.5 for the median. Not a number where there is none.
    pub fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(index).copied().unwrap_or(f64::NAN)
    }

    /// Median and 99th percentile, for a table.
    pub fn pair(&mut self) -> String {
        format!("{:.2}/{:.2}", self.quantile(0.5), self.quantile(0.99))
    }

    /// Median and 99th percentile, for a file.
    pub fn json(&mut self) -> serde_json::Value {
        serde_json::json!({"p50": self.quantile(0.5), "p99": self.quantile(0.99)})
    }
}
