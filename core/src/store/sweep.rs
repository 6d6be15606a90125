//! The sweep: turns that a lost hint or a dead worker left lying, in all tenants.
//!
//! It looks at the first unfinished turn of each conversation only, in bounded batches, and steps over rows that
//! another sweep holds. It runs as `chat_sweep`, which sees open turns, notices that are due, and no text. What is past its attempts or its
//! time is ended in a transaction of its own tenant.

use std::time::Duration;

use super::{LOCK, Scope, Store, column, script::Step};
use crate::{
    config::Times,
    error::{Code, Result},
    ids::{ConversationId, TenantId, TurnId},
    job::Job,
};

/// How soon a turn counts as left lying.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// A turn that waits gets its second hint after this, and further ones after twice the time each.
    pub first: Duration,
    /// The longest time between two hints.
    pub longest: Duration,
    /// A turn that nobody claimed for this long, though it was the first of its conversation, fails.
    pub queue_age: Duration,
    /// Claims of one turn at most.
    pub attempts: i32,
    /// Turns of one sweep at most.
    pub batch: i64,
}

impl Pace {
    /// The pace that the settings name; by default 5 s, doubling to 60 s, given up after 15 min, 500 turns a sweep.
    #[must_use]
    pub fn new(times: &Times) -> Self {
        Self {
            first: times.sweep_first,
            longest: times.sweep_longest,
            queue_age: times.queue_age,
            attempts: times.attempts,
            batch: times.sweep_batch,
        }
    }
}

/// What a sweep found.
#[derive(Debug, Default)]
pub struct Found {
    /// Hints for turns that can still run.
    pub waiting: Vec<Job>,
    /// Those turns; [`Store::not_hinted`] if the hints cannot be sent.
    pub hinted: Vec<TurnId>,
    /// Turns that cannot.
    pub spent: Vec<Spent>,
    /// Hints for conversations whose tenant is to be told that a person is wanted.
    pub notices: Vec<Job>,
}

/// A turn that may be past its attempts or its time; [`Store::bury`] finds out.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
}

/// A turn that was ended because nobody else would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// Why.
    pub code: Code,
}

/// The statistics are of quiet times when there is much to sweep. So no join here may look cheap by them: the head of a
/// conversation is a subquery by index, and the update, whose rows `due` holds already, goes by primary key alone.
///
/// `$1` first and `$2` longest wait, `$3` queue age, in seconds; `$4` most attempts, `$5` batch.
const SWEEP: &str = "
    with due as (
      select t.id from turns t
      where t.state in ('queued', 'running')
        and t.id = (select e.id from turns e where e.conversation_id = t.conversation_id
                    and e.state in ('queued', 'running') order by e.seq limit 1)
        and (t.state = 'queued' or t.lease_until < clock_timestamp())
        and t.hinted_at < clock_timestamp() - make_interval(secs => least($1::float8 * 2.0 ^ least(t.hints - 1, 30), $2::float8))
      order by t.hinted_at limit $5
      for no key update of t skip locked
    )
    update turns t
    set hinted_at = clock_timestamp(), hints = t.hints + 1,
        waiting_since = coalesce(t.waiting_since, clock_timestamp())
    from due where t.id = due.id
    returning t.id, t.tenant_id, t.conversation_id, t.user_id,
      (t.state = 'running' and t.attempt >= $4)
      or coalesce(t.deadline < clock_timestamp(), false)
      or coalesce(t.state = 'queued' and t.waiting_since < clock_timestamp() - make_interval(secs => $3), false) as spent";

/// Who claims a notice moves `tell_at`; until then there is a hint of it now and then. `$1` seconds between two, `$2` batch.
const DUE_NOTICES: &str = "
    with due as (
      select c.id from web_conversations c
      where c.tell_at <= clock_timestamp()
        and (c.tell_hinted_at is null or c.tell_hinted_at < clock_timestamp() - make_interval(secs => $1))
      order by c.tell_at limit $2
      for no key update of c skip locked
    )
    update web_conversations c set tell_hinted_at = clock_timestamp() from due where c.id = due.id
    returning c.id, c.tenant_id, c.user_id";

/// `$1` turns. Those that were claimed meanwhile have no use for the number, and those that ended are none of the sweep's.
const NOT_HINTED: &str =
    "update turns set hints = 1 where id = any($1) and hints > 1 and state in ('queued', 'running')";

/// `$1` conversation, `$2` turn, `$3` most attempts, `$4` queue age in seconds. Runs behind the lock and asks again:
/// meanwhile the turn may have been claimed, renewed or ended.
const BURY: &str = "
    update turns set state = 'failed', lease_until = null, ended_at = clock_timestamp(),
           code = case when state = 'running' and attempt >= $3 and deadline >= clock_timestamp()
                       then 'attempts_exhausted' else 'deadline_exceeded' end
    where conversation_id = $1 and id = $2 and tenant_id = app_tenant()
      and ((state = 'running' and lease_until < clock_timestamp()
            and (attempt >= $3 or deadline < clock_timestamp()))
        or (state = 'queued' and (deadline < clock_timestamp()
            or waiting_since < clock_timestamp() - make_interval(secs => $4))))
    returning code";

/// All tenants together, by state. The plan is the index of open turns; what is waiting by nobody's fault stands behind a
/// turn that runs, so that a queued turn's age is what its user waits.
const OPEN: &str = "
    select t.state, count(*) as turns,
      coalesce(extract(epoch from clock_timestamp() - min(t.created_at)), 0)::float8 as oldest,
      count(*) filter (where t.lease_until < clock_timestamp()) as lapsed,
      coalesce(greatest(extract(epoch from clock_timestamp() - min(t.lease_until)), 0), 0)::float8 as overdue
    from turns t where t.state in ('queued', 'running')
    group by t.state";

/// How the turns stand that have not ended, of all tenants together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Standing {
    /// That nobody has taken in hand.
    pub queued: i64,
    /// How long the oldest of them has waited since it was accepted.
    pub oldest_queued: Duration,
    /// That somebody has taken in hand.
    pub running: i64,
    /// Of these, whose lease ran out.
    pub lapsed: i64,
    /// How long ago the first of those leases ran out.
    pub overdue: Duration,
}

impl Store {
    /// How the turns stand that have not ended: numbers and ages, of nobody in particular.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn open_turns(&self) -> Result<Standing> {
        let rows = self.run(Scope::Sweep, &[(OPEN, &[])]).await?;
        let mut standing = Standing::default();
        let seconds =
            |row, name| Ok::<_, crate::Error>(Duration::try_from_secs_f64(column(row, name)?).unwrap_or_default());
        for row in &rows[0] {
            if column::<&str>(row, "state")? == "queued" {
                standing.queued = column(row, "turns")?;
                standing.oldest_queued = seconds(row, "oldest")?;
            } else {
                standing.running = column(row, "turns")?;
                standing.lapsed = column(row, "lapsed")?;
                standing.overdue = seconds(row, "overdue")?;
            }
        }
        Ok(standing)
    }

    /// Finds turns left lying and notices that are due, and notes that each gets a hint now.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn sweep(&self, pace: &Pace) -> Result<Found> {
        let seconds = [pace.first, pace.longest, pace.queue_age].map(|time| time.as_secs_f64());
        let work: [Step<'_>; 2] = [
            (SWEEP, &[&seconds[0], &seconds[1], &seconds[2], &pace.attempts, &pace.batch]),
            (DUE_NOTICES, &[&seconds[1], &pace.batch]),
        ];
        let rows = self.run(Scope::Sweep, &work).await?;
        let mut found = Found::default();
        for row in &rows[0] {
            let (tenant, conversation, turn) =
                (column(row, "tenant_id")?, column(row, "conversation_id")?, column(row, "id")?);
            if column(row, "spent")? {
                found.spent.push(Spent { tenant, conversation, turn });
            } else {
                found.hinted.push(turn);
                found.waiting.push(Job::web(tenant, conversation, column(row, "user_id")?, turn));
            }
        }
        for row in &rows[1] {
            // No turn has this id: a hint is about a conversation, and whoever gives it up finds nothing to end.
            let turn = TurnId::new();
            found.notices.push(Job::web(column(row, "tenant_id")?, column(row, "id")?, column(row, "user_id")?, turn));
        }
        Ok(found)
    }

    /// Notes that the queue did not take the hints of these turns: their next ones come after the first time again,
    /// since waiting longer each time is for those that the queue holds already.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer; the hints then come later, as if these had been sent.
    pub async fn not_hinted(&self, turns: &[TurnId]) -> Result<()> {
        let work: [Step<'_>; 1] = [(NOT_HINTED, &[&turns])];
        self.run(Scope::Sweep, &work).await.map(drop)
    }

    /// Ends a spent turn, if it still is one, and returns what was ended and the hint for the next.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm.
    pub async fn bury(&self, spent: Spent, pace: &Pace) -> Result<(Option<Ended>, Option<Job>)> {
        let Spent { tenant, conversation, turn } = spent;
        let queue_age = pace.queue_age.as_secs_f64();
        let work: [Step<'_>; 3] = [
            (LOCK, &[&conversation]),
            (BURY, &[&conversation, &turn, &pace.attempts, &queue_age]),
            (super::turns::NEXT, &[&conversation]),
        ];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        let Some(row) = rows[1].first() else { return Ok((None, None)) };
        let code = super::word(row, "code").unwrap_or(Code::Internal);
        Ok((Some(Ended { tenant, conversation, turn, code }), super::turns::next(tenant, conversation, &rows[2])?))
    }
}
