//! What tenants spend on models: reserved before each call, settled when a turn is over.
//!
//! The limit holds because a reservation is one conditional update of the tenant's one row: whoever comes second waits
//! for its lock, and is then judged by what the first left there. Lock order: the conversation, then the budget, then
//! usage.
//!
//! A call that nobody reported counts as spent. So where a worker dies between its reservation and the end of the turn,
//! the reservation stands.

/// A month, by its first day, UTC.
pub use time::Date as Month;
use tokio_postgres::types::ToSql;

use super::{Scope, Store, column, script::Step};
use crate::{
    error::{Code, Error, Result},
    ids::{AgentId, TenantId, TurnId},
};

/// For what a call is made, and who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payer {
    /// The company.
    pub tenant: TenantId,
    /// Its AI employee.
    pub agent: AgentId,
    /// The turn, of the web or another channel.
    pub turn: TurnId,
    /// Which attempt at it.
    pub attempt: i32,
    /// What for.
    pub purpose: Purpose,
}

/// What calls are made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The answer.
    Reply,
    /// What was said before, in short.
    Summary,
    /// What it is about.
    Title,
}

impl Purpose {
    /// The database's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reply => "reply",
            Self::Summary => "summary",
            Self::Title => "title",
        }
    }
}

/// What was taken from a budget before a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// From this month's. `None`: the tenant has no budget (any more).
    pub month: Option<Month>,
    /// Four fifths of a limit are taken, and this call is the first since.
    pub warn: bool,
}

/// What the calls of one model took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The model.
    pub model: String,
    /// Calls, those that failed among them.
    pub calls: i64,
    /// Tokens read, where the provider told.
    pub input_tokens: i64,
    /// Tokens written, where the provider told.
    pub output_tokens: i64,
    /// Tokens that were reserved for calls whose use is told now.
    pub released_tokens: i64,
    /// Tokens reserved for calls of which nobody told.
    pub reserved_tokens: i64,
}

/// What calls took from a budget beyond what was reserved for them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drawn {
    /// The month of the last reservation; `None` where there was no budget after all.
    pub month: Option<Month>,
    /// Tokens beyond the reservations of that month; less than 0 where it was less.
    pub difference: i64,
}

/// What an attempt at a turn took, to be written down once it is over.
#[derive(Debug, Clone)]
pub struct Bill {
    turn: TurnId,
    agent: AgentId,
    attempt: i32,
    purpose: &'static str,
    drawn: Option<Drawn>,
    models: Vec<String>,
    calls: Vec<i64>,
    input_tokens: Vec<i64>,
    output_tokens: Vec<i64>,
    released_tokens: Vec<i64>,
    reserved_tokens: Vec<i64>,
}

/// The first day of this month. A transaction that began in the last one and waited for the row's lock does not turn it
/// back: each use takes the later of the two.
macro_rules! this_month {
    () => {
        "date_trunc('month', now() at time zone 'utc')::date"
    };
}

/// What the row counts, or nothing if that was of an earlier month.
macro_rules! counted {
    ($column:literal) => {
        concat!("case when b.month < ", this_month!(), " then 0 else b.", $column, " end")
    };
}

/// `$1` turn, `$2` attempt, `$3` model, `$4` agent, `$5` tokens, `$6` purpose. One row: whether the call may be made.
/// The conditions stand on the updated row itself, where they are checked again after a wait for its lock.
const RESERVE: &str = concat!(
    "with taken as (
      update budgets b set
        month = greatest(b.month, ",
    this_month!(),
    "), calls = ",
    counted!("calls"),
    " + 1, tokens = ",
    counted!("tokens"),
    " + $5, calls_past_warning = ",
    counted!("calls_past_warning"),
    " + case when ",
    counted!("calls_past_warning"),
    " > 0 or (",
    counted!("calls"),
    " + 1) * 5 >= b.monthly_calls * 4 or (",
    counted!("tokens"),
    " + $5) * 5 >= b.monthly_tokens * 4 then 1 else 0 end
      where b.tenant_id = app_tenant()
        and (b.monthly_calls is null or ",
    counted!("calls"),
    " + 1 <= b.monthly_calls)
        and (b.monthly_tokens is null or ",
    counted!("tokens"),
    " + $5 <= b.monthly_tokens)
      returning b.month, b.calls_past_warning
    ), allowed as (
      select month, calls_past_warning = 1 as warn from taken
      union all
      select null::date, false where not exists (select from budgets where tenant_id = app_tenant())
        and exists (select from tenants where id = app_tenant())
    ), row as (
      insert into usage as u (tenant_id, turn_id, attempt, purpose, model, agent_id, calls, reserved_tokens)
      select app_tenant(), $1, $2, $6, $3, $4, 1, $5 from allowed
      on conflict (tenant_id, turn_id, attempt, purpose, model)
        do update set calls = u.calls + 1, reserved_tokens = u.reserved_tokens + excluded.reserved_tokens
    )
    select month, warn from allowed"
);

/// A statement of its own before the one that settles: its snapshot then has every reservation, and the locks come in
/// the same order as in [`RESERVE`].
const LOCK_BUDGET: &str = "select 1 from budgets where tenant_id = app_tenant() for no key update";

/// `$1` turn, `$2` attempt, `$3` models, `$4` input, `$5` output and `$6` released tokens of each, `$7` difference, `$8` month,
/// `$9` purpose.
/// Behind [`LOCK_BUDGET`]. Rows that are settled already stay as they are, and so does the budget: a script that is run
/// again since its commit was not confirmed settles once. A difference of a month that is over changes nothing any more.
const SETTLE: &str = "
    with row as (
      update usage u set input_tokens = u.input_tokens + s.input, output_tokens = u.output_tokens + s.output,
             reserved_tokens = greatest(u.reserved_tokens - s.released, 0), settled_at = clock_timestamp()
      from unnest($3::text[], $4::bigint[], $5::bigint[], $6::bigint[]) s (model, input, output, released)
      where u.tenant_id = app_tenant() and u.turn_id = $1 and u.attempt = $2 and u.purpose = $9 and u.model = s.model and u.settled_at is null
      returning 1
    )
    update budgets set tokens = greatest(tokens + $7, 0)
    where tenant_id = app_tenant() and month = $8 and exists (select from row)";

/// `$1` turn, `$2` attempt, `$3` agent, `$4` models, `$5` calls, `$6` input, `$7` output and `$8` reserved tokens of each,
/// `$9` purpose.
/// For a tenant without a budget, for whom nothing was reserved. One that was erased meanwhile has no bill.
const RECORD: &str = "
    insert into usage (tenant_id, turn_id, attempt, purpose, model, agent_id, calls, input_tokens, output_tokens, reserved_tokens, settled_at)
    select app_tenant(), $1, $2, $9, s.model, $3, s.calls, s.input, s.output, s.reserved, clock_timestamp()
    from unnest($4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[]) s (model, calls, input, output, reserved)
    where exists (select from tenants where id = app_tenant())
    on conflict (tenant_id, turn_id, attempt, purpose, model) do nothing";

impl Bill {
    /// The bill for these lines, one for each model; with `drawn` where each call was reserved, without it where the tenant
    /// had no budget.
    #[must_use]
    pub fn new(payer: &Payer, lines: Vec<Line>, drawn: Option<Drawn>) -> Self {
        let each = |of: fn(&Line) -> i64| lines.iter().map(of).collect();
        Self {
            turn: payer.turn,
            agent: payer.agent,
            attempt: payer.attempt,
            purpose: payer.purpose.as_str(),
            drawn,
            calls: each(|line| line.calls),
            input_tokens: each(|line| line.input_tokens),
            output_tokens: each(|line| line.output_tokens),
            released_tokens: each(|line| line.released_tokens),
            reserved_tokens: each(|line| line.reserved_tokens),
            models: lines.into_iter().map(|line| line.model).collect(),
        }
    }

    /// The parameters of [`Bill::steps`], which borrow from here.
    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        let Self { turn, agent, attempt, purpose, models, calls, input_tokens, output_tokens, .. } = self;
        match &self.drawn {
            None => {
                vec![turn, attempt, agent, models, calls, input_tokens, output_tokens, &self.reserved_tokens, purpose]
            }
            Some(Drawn { month, difference }) => {
                vec![
                    turn,
                    attempt,
                    models,
                    input_tokens,
                    output_tokens,
                    &self.released_tokens,
                    difference,
                    month,
                    purpose,
                ]
            }
        }
    }

    /// What writes it down; nothing if no call was made. The last steps of a script: until it commits, the tenant's
    /// other calls wait for the budget.
    pub(super) fn steps<'a>(&self, params: &'a [&'a (dyn ToSql + Sync)]) -> Vec<Step<'a>> {
        match self.drawn {
            _ if self.models.is_empty() => vec![],
            None => vec![(RECORD, params)],
            Some(_) => vec![(LOCK_BUDGET, &[]), (SETTLE, params)],
        }
    }
}

impl Store {
    /// Takes one call of `model` and this many tokens from the tenant's budget. In one round trip. Where the tenant has no
    /// budget, the call is only written down.
    ///
    /// # Errors
    /// [`Code::OverBudget`] if that is more than is left; then nothing was taken. [`Code::Unavailable`] if Postgres did
    /// not confirm; then it may have been.
    pub async fn reserve(&self, payer: &Payer, model: &str, tokens: i64) -> Result<Reservation> {
        let purpose = payer.purpose.as_str();
        let work: [Step<'_>; 1] = [(RESERVE, &[&payer.turn, &payer.attempt, &model, &payer.agent, &tokens, &purpose])];
        let rows = self.run(Scope::Tenant(payer.tenant), &work).await?;
        let row = rows[0].first().ok_or_else(|| Error::new(Code::OverBudget, Code::OverBudget.failure()))?;
        Ok(Reservation { month: column(row, "month")?, warn: column(row, "warn")? })
    }

    /// Writes a bill down by itself, where no turn of ours is ended along with it. Doing it twice changes nothing.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm; what was reserved stands meanwhile.
    pub async fn settle(&self, tenant: TenantId, bill: &Bill) -> Result<()> {
        let params = bill.params();
        let steps = bill.steps(&params);
        if steps.is_empty() {
            return Ok(());
        }
        self.run(Scope::Tenant(tenant), &steps).await.map(drop)
    }
}
