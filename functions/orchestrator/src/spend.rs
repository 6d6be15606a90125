//! What a turn spends: each call of a model is paid for before it is made, and the bill is written down as the turn ends.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_core::{
    Error, Kind, Result,
    store::{
        Store,
        claim::Claim,
        spend::{Bill, Drawn, Line, Month, Payer, Purpose, Reservation},
    },
};
use futures::future::BoxFuture;
use tokio::time::sleep;
use tracing::warn;

use crate::{
    agent::tokens_in,
    model::{Ended, Prompt, Purse, Said},
};

/// Tokens that an answer may have where the agent sets no limit: what models' own limits begin at.
const UNSAID_OUTPUT_TOKENS: i64 = 4_096;

/// Most tokens that one call is believed to have taken, whatever its provider says.
const MOST_TOKENS: u64 = 1_000_000_000;

/// How often a reservation is tried again when Postgres does not answer, and after which pause.
const RETRIES: u32 = 2;
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The account of one attempt at a turn.
///
/// Of a tenant with a budget each call is reserved first, in one round trip, and refused where that is more than is left.
/// Of one without, calls are only counted. What the last call of an answer took is known when the answer ends; calls
/// that failed or were given up count with their estimate, since they may have been paid for. One answer at a time.
pub struct Account {
    store: Store,
    payer: Payer,
    budgeted: bool,
    /// A plain mutex: held to write a number down, never across an await.
    ledger: Mutex<Ledger>,
}

/// What was spent until now.
#[derive(Default)]
struct Ledger {
    lines: Vec<Line>,
    drawn: Drawn,
    /// What the next call may take, in tokens.
    estimate: i64,
    /// The call that nobody has told of yet: its line, and what was reserved for it.
    open: Option<(usize, i64)>,
}

impl Account {
    /// An account for `payer`. Where it is not known whether the tenant has a budget, `budgeted` is true: that costs a
    /// round trip for each call, and is right in both cases.
    #[must_use]
    pub fn new(store: &Store, payer: Payer, budgeted: bool) -> Self {
        Self { store: store.clone(), payer, budgeted, ledger: Mutex::default() }
    }

    /// The account of a claimed turn.
    #[must_use]
    pub fn of(store: &Store, claim: &Claim) -> Self {
        Self::new(store, payer(claim, Purpose::Reply), claim.budgeted)
    }

    /// The account of what is summarized after it, which is written down by itself.
    #[must_use]
    pub fn of_summary(store: &Store, claim: &Claim) -> Self {
        Self::new(store, payer(claim, Purpose::Summary), claim.budgeted)
    }

    /// The account of its conversation's title, which is written down by itself.
    #[must_use]
    pub fn of_title(store: &Store, claim: &Claim) -> Self {
        Self::new(store, payer(claim, Purpose::Title), claim.budgeted)
    }

    /// What was spent, to be written down with the turn's end.
    #[must_use]
    pub fn bill(&self) -> Bill {
        let ledger = self.ledger();
        Bill::new(&self.payer, ledger.lines.clone(), self.budgeted.then_some(ledger.drawn))
    }

    /// Writes the bill down by itself, where no turn of ours is ended along with it.
    pub async fn write_down(&self) {
        if let Err(error) = self.store.settle(self.payer.tenant, &self.bill()).await {
            warn!(turn.id = %self.payer.turn, ?error, "bill not written down; what was reserved stands");
        }
    }

    async fn take(&self, model: &str, tokens: i64) -> Result<Reservation> {
        let mut tries = 0;
        loop {
            match self.store.reserve(&self.payer, model, tokens).await {
                Err(error) if error.kind() == Kind::Unavailable && tries < RETRIES => {
                    warn!(?error, "call not reserved; trying again");
                    sleep(AGAIN_AFTER).await;
                    tries += 1;
                }
                other => return other,
            }
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn payer(claim: &Claim, purpose: Purpose) -> Payer {
    Payer { tenant: claim.tenant, agent: claim.agent.id, turn: claim.turn, attempt: claim.attempt, purpose }
}

impl Purse for Account {
    fn reserve<'a>(&'a self, model: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let tokens = self.ledger().estimate;
            let mut month = None;
            if self.budgeted {
                let Reservation { month: of, warn } = self.take(model, tokens).await?;
                month = of;
                if warn {
                    warn!(tenant.id = %self.payer.tenant, "four fifths of this month's budget are spent");
                }
            }
            self.ledger().reserved(model, tokens, month);
            Ok::<_, Error>(())
        })
    }

    fn expect(&self, prompt: &Prompt) {
        self.ledger().expect(estimate(prompt));
    }

    fn settle(&self, ended: &Ended) {
        self.ledger().told(ended);
    }
}

impl Ledger {
    fn expect(&mut self, tokens: i64) {
        self.estimate = tokens;
        self.open = None;
    }

    /// A call is about to be made. If it is one more for the same answer, the one before failed and was never told of.
    fn reserved(&mut self, model: &str, tokens: i64, month: Option<Month>) {
        if self.drawn.month != month {
            // What was left over belongs to a month that is closed.
            self.drawn = Drawn { month, difference: 0 };
        }
        let place = self.lines.iter().position(|line| line.model == model).unwrap_or_else(|| {
            let nothing = Line {
                model: model.to_owned(),
                calls: 0,
                input_tokens: 0,
                output_tokens: 0,
                released_tokens: 0,
                reserved_tokens: 0,
            };
            self.lines.push(nothing);
            self.lines.len() - 1
        });
        self.lines[place].calls += 1;
        self.lines[place].reserved_tokens += tokens;
        self.open = Some((place, tokens));
    }

    /// An answer has ended. Without a call it was free; without a word about its tokens the estimate stands.
    fn told(&mut self, ended: &Ended) {
        let (Some((place, tokens)), Some(usage)) = (self.open.take(), ended.usage) else { return };
        let believed = |tokens: u64| i64::try_from(tokens.min(MOST_TOKENS)).unwrap_or(i64::MAX);
        let (input, output) = (believed(usage.input_tokens), believed(usage.output_tokens));
        let line = &mut self.lines[place];
        line.input_tokens += input;
        line.output_tokens += output;
        line.reserved_tokens -= tokens;
        line.released_tokens += tokens;
        self.drawn.difference += input + output - tokens;
    }
}

/// What an answer to this prompt may take, in tokens: all that is sent, and the longest answer.
fn estimate(prompt: &Prompt) -> i64 {
    let said = prompt.said.iter().map(|said| match said {
        Said::User(text) => text.len(),
        Said::Agent { text, calls } => {
            let called = |call: &crate::model::ToolCall| call.name.len() + call.arguments.to_string().len();
            text.len() + calls.iter().map(called).sum::<usize>()
        }
        Said::Tool { name, result, .. } => name.len() + result.len(),
    });
    let tools =
        prompt.tools.iter().map(|tool| tool.name.len() + tool.description.len() + tool.parameters.to_string().len());
    let parts = said.chain(tools).chain([prompt.system.len()]);
    let input: usize = parts.map(tokens_in).sum();
    let output = prompt.max_output_tokens.map_or(UNSAID_OUTPUT_TOKENS, i64::from);
    i64::try_from(input).unwrap_or(i64::MAX).saturating_add(output)
}
