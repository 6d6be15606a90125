//! What operators watch of a function: nobody scrapes one, so its figures go into its log, as lines that CloudWatch reads
//! metrics from (the embedded metric format). One for the turns of a batch, and for each model that was asked one of the
//! calls and one for the tokens each way.
//!
//! The models' part is named as OpenTelemetry names it:
//! <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>. No line names a company, a person or a turn.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_core::{conversation::TurnState, timestamp::Timestamp};
use serde_json::{Map, Value, json};

use crate::model::Usage;

/// What the metrics are found under.
const NAMESPACE: &str = "KonstructChat";

/// Values of one metric in one line at most.
/// Source: <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>.
const VALUES: usize = 100;

/// Counts, and writes down at the end of a batch. Cheap to clone; counts nothing where nobody takes the lines.
#[derive(Clone, Default)]
pub struct Figures(Option<Arc<Taken>>);

struct Taken {
    /// Whose figures they are: the function's name.
    function: String,
    take: Box<dyn Fn(&str) + Send + Sync>,
    /// A plain mutex: held to write a number down, never across an await.
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    /// How many ended as each of [`TurnState::ENDS`].
    ends: [u64; ENDS.len()],
    /// Seconds from when each was accepted until it was first claimed.
    waits: Vec<f64>,
    /// Seconds from the claim to the end.
    runs: Vec<f64>,
    /// By provider and model.
    calls: BTreeMap<(String, String), Calls>,
}

#[derive(Default)]
struct Calls {
    seconds: Vec<f64>,
    input_tokens: Vec<f64>,
    output_tokens: Vec<f64>,
}

const ENDS: [&str; TurnState::ENDS.len()] = ["turns_answered", "turns_failed", "turns_stopped", "turns_escalated"];

impl Figures {
    /// Has `take` write lines for a function of this name.
    #[must_use]
    pub fn of(function: &str, take: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(Taken { function: function.to_owned(), take: Box::new(take), tally: Mutex::default() })))
    }

    /// A turn of ours has ended.
    pub(crate) fn ended(&self, state: TurnState, ran: Duration) {
        let (Some(mut tally), Some(end)) = (self.tally(), state.end()) else { return };
        tally.ends[end] += 1;
        tally.runs.push(ran.as_secs_f64());
    }

    /// A turn was claimed for the first time, so long after it was accepted.
    pub(crate) fn claimed(&self, waited: Duration) {
        if let Some(mut tally) = self.tally() {
            tally.waits.push(waited.as_secs_f64());
        }
    }

    /// A call of a model is over, well or not.
    pub(crate) fn called(&self, provider: &str, model: &str, took: Duration, usage: Option<Usage>) {
        let Some(mut tally) = self.tally() else { return };
        let calls = tally.calls.entry((provider.to_owned(), model.to_owned())).or_default();
        calls.seconds.push(took.as_secs_f64());
        if let Some(Usage { input_tokens, output_tokens }) = usage {
            // A double holds every number of tokens that there could be.
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            let tokens = |tokens: u64| tokens as f64;
            calls.input_tokens.push(tokens(input_tokens));
            calls.output_tokens.push(tokens(output_tokens));
        }
    }

    /// Writes down what was counted since the last time, if anything was.
    pub(crate) fn write(&self) {
        let (Some(taken), Some(mut tally)) = (&self.0, self.tally()) else { return };
        let tally = std::mem::take(&mut *tally);
        for line in lines(&taken.function, tally) {
            (taken.take)(&line.to_string());
        }
    }

    fn tally(&self) -> Option<MutexGuard<'_, Tally>> {
        self.0.as_ref().map(|taken| taken.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn lines(function: &str, tally: Tally) -> Vec<Value> {
    let mut lines = Vec::new();
    let ours = vec![("FunctionName", function.to_owned())];
    let mut ends: Vec<Metric> =
        ENDS.into_iter().zip(tally.ends).map(|(name, count)| (name, "Count", json!(count))).collect();
    let (mut waits, mut runs) = (tally.waits.chunks(VALUES), tally.runs.chunks(VALUES));
    loop {
        let (waits, runs) = (waits.next(), runs.next());
        if waits.is_none() && runs.is_none() {
            break;
        }
        // The counts stand in the first line alone.
        let mut metrics = std::mem::take(&mut ends);
        metrics.extend(waits.map(|waits| ("turn_wait", "Seconds", json!(waits))));
        metrics.extend(runs.map(|runs| ("turn_duration", "Seconds", json!(runs))));
        lines.push(line(&ours, metrics));
    }
    for ((provider, model), calls) in tally.calls {
        let of = [("gen_ai.provider.name", provider), ("gen_ai.request.model", model)];
        let dimensions = [ours.clone(), of.to_vec()].concat();
        for seconds in calls.seconds.chunks(VALUES) {
            lines.push(line(&dimensions, vec![("gen_ai.client.operation.duration", "Seconds", json!(seconds))]));
        }
        for (way, tokens) in [("input", calls.input_tokens), ("output", calls.output_tokens)] {
            let dimensions = [dimensions.clone(), vec![("gen_ai.token.type", way.to_owned())]].concat();
            for tokens in tokens.chunks(VALUES) {
                lines.push(line(&dimensions, vec![("gen_ai.client.token.usage", "Count", json!(tokens))]));
            }
        }
    }
    lines
}

/// A metric: its name, its unit, its values.
type Metric = (&'static str, &'static str, Value);

fn line(dimensions: &[(&str, String)], metrics: Vec<Metric>) -> Value {
    let names: Vec<&str> = dimensions.iter().map(|(name, _)| *name).collect();
    let told: Vec<Value> = metrics.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit})).collect();
    let about = json!({
        "Timestamp": Timestamp::now().unix_micros() / 1_000,
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [names], "Metrics": told}],
    });
    let mut line = Map::new();
    line.insert("_aws".to_owned(), about);
    line.extend(dimensions.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
    line.extend(metrics.into_iter().map(|(name, _, values)| (name.to_owned(), values)));
    Value::Object(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(count: impl FnOnce(&Figures)) -> Vec<Value> {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&lines);
        let figures = Figures::of("chat", move |line| taken.lock().unwrap().push(line.to_owned()));
        count(&figures);
        figures.write();
        figures.write();
        let lines = lines.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_batch_in_which_nothing_happened_is_not_worth_a_line() {
        assert!(written(|_| ()).is_empty());
        Figures::default().ended(TurnState::Failed, Duration::ZERO);
    }

    #[test]
    fn a_batch_is_one_line_of_turns_and_three_for_each_model() {
        let lines = written(|figures| {
            figures.claimed(Duration::from_millis(250));
            figures.ended(TurnState::Answered, Duration::from_secs(2));
            figures.ended(TurnState::Failed, Duration::from_secs(3));
            figures.called(
                "openai",
                "small",
                Duration::from_secs(1),
                Some(Usage { input_tokens: 7, output_tokens: 9 }),
            );
            figures.called("openai", "small", Duration::from_secs(4), None);
        });
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!((&lines[0]["turns_answered"], &lines[0]["turns_failed"]), (&json!(1), &json!(1)));
        assert_eq!((&lines[0]["turn_wait"], &lines[0]["turn_duration"]), (&json!([0.25]), &json!([2.0, 3.0])));
        assert_eq!(lines[1]["gen_ai.client.operation.duration"], json!([1.0, 4.0]));
        assert_eq!(
            (&lines[2]["gen_ai.token.type"], &lines[2]["gen_ai.client.token.usage"]),
            (&json!("input"), &json!([7.0]))
        );
        assert_eq!(
            (&lines[3]["gen_ai.token.type"], &lines[3]["gen_ai.client.token.usage"]),
            (&json!("output"), &json!([9.0]))
        );
    }

    #[test]
    fn no_metric_has_more_values_in_a_line_than_cloudwatch_reads() {
        let lines = written(|figures| (0..250).for_each(|_| figures.ended(TurnState::Stopped, Duration::ZERO)));
        let values: Vec<usize> = lines.iter().map(|line| line["turn_duration"].as_array().unwrap().len()).collect();
        assert_eq!(values, [100, 100, 50]);
        assert_eq!(lines[0]["turns_stopped"], 250);
        assert!(lines[1..].iter().all(|line| line["turns_stopped"].is_null()), "counted once");
    }
}
