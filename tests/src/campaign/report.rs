//! What a campaign found, as a table for people and as JSON.

use std::{collections::BTreeMap, fmt, time::Duration};

use chat_core::Code;
use serde_json::{Value, json};

use super::{faults::Kind, judge::Counters};

/// What a campaign found.
pub struct Report {
    /// With it the same story is told again.
    pub seed: u64,
    /// How long it took.
    pub took: Duration,
    /// Messages by what became of them.
    pub messages: Messages,
    /// What must never happen.
    pub counters: Counters,
    /// The messages that took longest, and how they went.
    pub slowest: Vec<String>,
    /// What happened at each flaw that a client saw.
    pub stories: Vec<String>,
    /// Calls of the model for each message that it was asked about.
    pub calls: Vec<usize>,
    /// Deliveries of the queue that went wrong on purpose.
    pub wrong_deliveries: usize,
    /// Records that the dead-letter function keeps.
    pub dead_letters: i64,
    /// Typed errors that clients were shown.
    pub errors: Vec<(Code, usize)>,
    /// By kind of fault.
    pub faults: BTreeMap<Kind, Faults>,
}

/// Messages by what became of them.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Messages {
    /// Sent at least once.
    pub attempted: usize,
    /// Sent more than once, since the first was not confirmed; each was stored once all the same, or counts above.
    pub sent_again: usize,
    /// Confirmed to their sender.
    pub accepted: usize,
    /// With a reply.
    pub answered: usize,
    /// Failed, with a typed error.
    pub failed: usize,
    /// Stopped by their user, or by a reset.
    pub stopped: usize,
}

/// The faults of one kind.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// How many.
    pub injected: usize,
    /// How many of them found somebody to hit.
    pub hit: usize,
    /// From the healing to the end of every message that was open then.
    pub recoveries: Vec<Duration>,
    /// Messages that had no end when nobody waited for them any more.
    pub unrecovered: usize,
}

impl Faults {
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted: Vec<f64> = self.recoveries.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index"
        )]
        let index = (sorted.len() as f64 * share) as usize;
        sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }
}

impl Report {
    /// The calls of the model for a message: the mean, and the most.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    fn calls_a_message(&self) -> (f64, usize) {
        let most = self.calls.iter().copied().max().unwrap_or(0);
        (self.calls.iter().sum::<usize>() as f64 / self.calls.len().max(1) as f64, most)
    }

    /// Everything as JSON; the six counters are under `counters`.
    #[must_use]
    pub fn json(&self) -> Value {
        let (mean, most) = self.calls_a_message();
        let faults: serde_json::Map<String, Value> = self
            .faults
            .iter()
            .map(|(kind, faults)| {
                let recovery =
                    json!({"p50": faults.quantile(0.5), "p95": faults.quantile(0.95), "max": faults.quantile(1.0)});
                let entry = json!({
                    "matrix": kind.matrix(), "injected": faults.injected, "hit": faults.hit, "recovery_s": recovery,
                    "unrecovered": faults.unrecovered,
                });
                (kind.name().to_owned(), entry)
            })
            .collect();
        json!({
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "messages": self.messages,
            "counters": self.counters,
            "stories": self.stories,
            "slowest": self.slowest,
            "model_calls_a_message": {"mean": mean, "max": most},
            "wrong_deliveries": self.wrong_deliveries,
            "dead_letters": self.dead_letters,
            "errors": self.errors.iter().map(|(code, count)| (code.as_str().to_owned(), json!(count))).collect::<serde_json::Map<_, _>>(),
            "faults": faults,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Messages { attempted, sent_again, accepted, answered, failed, stopped } = self.messages;
        writeln!(f, "{:<28} {:>8} {:>6}   recovery in s", "fault", "injected", "hit")?;
        writeln!(f, "{:<28} {:>8} {:>6} {:>8} {:>8} {:>8}", "", "", "", "p50", "p95", "max")?;
        for (kind, faults) in &self.faults {
            let [p50, p95, max] = [0.5, 0.95, 1.0].map(|share| faults.quantile(share));
            let (injected, hit) = (faults.injected, faults.hit);
            writeln!(f, "{:<28} {injected:>8} {hit:>6} {p50:>8.2} {p95:>8.2} {max:>8.2}", kind.name())?;
        }
        let (mean, most) = self.calls_a_message();
        let (took, faults) = (self.took.as_secs(), self.faults.values().map(|faults| faults.injected).sum::<usize>());
        writeln!(f)?;
        writeln!(f, "{faults} faults in {took} s, seed {}", self.seed)?;
        writeln!(
            f,
            "attempted {attempted}, of those sent again {sent_again}; accepted {accepted}; answered {answered}, \
             failed visibly {failed}, stopped {stopped}"
        )?;
        writeln!(
            f,
            "model calls a message: mean {mean:.2}, max {most}; deliveries gone wrong on purpose: {}; dead letters kept: {}",
            self.wrong_deliveries, self.dead_letters
        )?;
        let errors: Vec<String> = self.errors.iter().map(|(code, count)| format!("{code} {count}")).collect();
        writeln!(f, "typed errors shown: {}", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") })?;
        self.slowest.iter().try_for_each(|message| writeln!(f, "slow: {message}"))?;
        writeln!(f)?;
        let counters: Vec<String> =
            self.counters.each().iter().map(|(name, count)| format!("{name} {count}")).collect();
        writeln!(f, "{}", counters.join("   "))?;
        self.stories.iter().try_for_each(|story| writeln!(f, "\n{story}"))
    }
}
