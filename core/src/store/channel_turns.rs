//! Turns of the other channels: a message of Slack or WhatsApp, claimed, answered, sent once at most.
//!
//! On the web a reply is stored and whoever cares reads it; here it has to be sent, and a send cannot be taken back nor
//! be part of a transaction. So it is stored and the turn marked `sending` first. Whoever finds a turn `sending` whose
//! lease has run out cannot know what has arrived: it ends as `delivery_unknown` and is never sent again.
//!
//! A talk is one person with one connection in one thread. Its lock is advisory, since it has no row; it keeps the order
//! and nothing else. That nothing is sent twice rests on the fence (attempt, state) of each statement about a turn.

use tokio_postgres::Row;

use super::{Scope, Store, column, optional_word, script::Step, word};
use crate::{
    config::Times,
    error::{Code, Error, Result},
    ids::{AgentId, ConnectionId, TenantId, TurnId},
    job::Job,
    message::ChannelType,
    timestamp::Timestamp,
};

/// A message of a channel, as its turn keeps it.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The company.
    pub tenant: TenantId,
    /// The channel.
    pub channel: ChannelType,
    /// The message's id there.
    pub message: String,
    /// The connection it came through.
    pub connection: ConnectionId,
    /// Who answers.
    pub agent: AgentId,
    /// The thread; empty where there is none.
    pub thread: String,
    /// Who wrote.
    pub sender: String,
    /// What they said, or why that was refused.
    pub said: Result<String, Code>,
    /// When, as the channel says.
    pub said_at: Timestamp,
    /// Wakes whoever runs it later.
    pub hint: Job,
}

/// What came of a delivery.
#[derive(Debug)]
pub enum Delivered {
    /// The turn is ours until the lease runs out.
    Ours(Box<ChannelClaim>),
    /// Somebody is on it, or on one before it; the record shall come again.
    Busy,
    /// It has ended before.
    Over,
    /// Whoever was sending its reply is gone. It has ended now, as [`Code::DeliveryUnknown`].
    Abandoned {
        /// The turn.
        turn: TurnId,
        /// Wakes whoever runs the next turn of the talk.
        next: Option<Box<Job>>,
    },
}

/// A channel's turn in our hands.
#[derive(Debug, Clone)]
pub struct ChannelClaim {
    /// The company.
    pub tenant: TenantId,
    /// The channel.
    pub channel: ChannelType,
    /// The message's id there.
    pub message: String,
    /// The talk it belongs to, as its lock names it.
    talk: String,
    /// The turn.
    pub turn: TurnId,
    /// Which claim of it this is, from 1.
    pub attempt: i32,
    /// Why it must not be answered but only be told: a refused text, too many attempts, too late.
    pub spent: Option<Code>,
    /// What was said in this talk, oldest first; the last is the message to answer.
    pub history: Vec<Exchange>,
}

/// A message and its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// What the user said.
    pub said: String,
    /// What the agent answered; `None` where it did not, or where it may not have arrived.
    pub answered: Option<String>,
}

/// What became of a turn that the queue gave up on.
#[derive(Debug)]
pub enum Buried {
    /// It was ended now.
    Ended {
        /// Why.
        code: Code,
        /// Wakes whoever runs the next turn of the talk.
        next: Option<Box<Job>>,
    },
    /// It has ended before.
    Over,
    /// Somebody is on it, or may still be.
    Open,
    /// There is none: its message was never routed.
    NoSuchTurn,
}

/// How many messages the agent is told of, the one to answer among them.
const HISTORY: i64 = 20;

/// `$1` the talk. A statement of its own, so that the next ones see all that happened before it was ours.
const LOCK_TALK: &str = "select pg_advisory_xact_lock(hashtextextended($1, 0))";

/// The same for the talk of a message that is there: `$1` channel, `$2` message.
const LOCK_TALK_OF: &str = "
    select pg_advisory_xact_lock(hashtextextended(
      tenant_id || '/' || connection_id || '/' || thread || '/' || sender, 0))
    from channel_turns where tenant_id = app_tenant() and channel = $1 and message_id = $2";

/// A message that comes again changes nothing. `$12` longest wait in seconds.
const HEAR: &str = "
    insert into channel_turns (id, tenant_id, channel, message_id, connection_id, agent_id, thread, sender, said, said_at,
      hint, code, deadline)
    values ($1, app_tenant(), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, clock_timestamp() + make_interval(secs => $12))
    on conflict (tenant_id, channel, message_id) do nothing";

/// `$1` channel, `$2` message.
const ABANDON: &str = "
    update channel_turns set state = 'failed', code = 'delivery_unknown', lease_until = null, ended_at = clock_timestamp()
    where tenant_id = app_tenant() and channel = $1 and message_id = $2
      and state = 'sending' and lease_until < clock_timestamp()
    returning id";

/// `$1` channel, `$2` message, `$3` lease in seconds, `$4` most attempts, `$5` agent. No row: ended, somebody has it, or
/// one of the same talk comes first: one that is held, or an earlier one that may still run. Its own conditions stand on
/// the updated row, where they are checked again after a wait for its lock.
const CLAIM: &str = "
    update channel_turns t set state = 'running', attempt = attempt + 1, agent_id = $5,
           lease_until = clock_timestamp() + make_interval(secs => $3)
    where t.tenant_id = app_tenant() and t.channel = $1 and t.message_id = $2
      and (t.state = 'queued' or (t.state = 'running' and t.lease_until < clock_timestamp()))
      and not exists (
        select from channel_turns o
        where o.tenant_id = t.tenant_id and o.connection_id = t.connection_id and o.thread = t.thread
          and o.sender = t.sender and o.id <> t.id
          and ((o.state in ('running', 'sending') and o.lease_until > clock_timestamp())
            or (o.state in ('queued', 'running') and o.deadline > clock_timestamp()
                and (o.said_at, o.id) < (t.said_at, t.id))))
    returning t.id, t.attempt, coalesce(t.code,
      case when t.attempt > $4 then 'attempts_exhausted' when t.deadline < clock_timestamp() then 'deadline_exceeded' end
    ) as spent";

/// `$1` channel, `$2` message.
const STATE: &str = "
    select state in ('answered', 'failed') as ended from channel_turns
    where tenant_id = app_tenant() and channel = $1 and message_id = $2";

/// `$1` channel, `$2` message, `$3` how many. What was refused was not heard; what failed was said all the same.
const HISTORY_OF: &str = "
    select o.said, case o.state when 'answered' then o.reply end as answered
    from channel_turns t
    join channel_turns o on o.tenant_id = t.tenant_id and o.connection_id = t.connection_id and o.thread = t.thread
     and o.sender = t.sender and o.agent_id = t.agent_id and (o.said_at, o.id) <= (t.said_at, t.id)
     and (o.id = t.id or (o.state in ('answered', 'failed') and o.said <> ''))
    where t.tenant_id = app_tenant() and t.channel = $1 and t.message_id = $2
    order by o.said_at desc, o.id desc limit $3";

/// `$1` channel, `$2` message: the hint of the next turn of the same talk that waits.
const NEXT: &str = "
    select n.hint from channel_turns t
    join channel_turns n on n.tenant_id = t.tenant_id and n.connection_id = t.connection_id and n.thread = t.thread
     and n.sender = t.sender and n.state = 'queued'
    where t.tenant_id = app_tenant() and t.channel = $1 and t.message_id = $2
    order by n.said_at, n.id limit 1";

/// `$1` turn, `$2` attempt, `$3` lease in seconds.
const RENEW: &str = "
    update channel_turns set lease_until = clock_timestamp() + make_interval(secs => $3)
    where tenant_id = app_tenant() and id = $1 and attempt = $2 and state in ('running', 'sending')
    returning id";

/// `$1` turn, `$2` attempt, `$3` reply, `$4` code, `$5` lease in seconds. Asked again by the same claim it says the same.
const SEND: &str = "
    update channel_turns set state = 'sending', reply = $3, code = $4,
           lease_until = clock_timestamp() + make_interval(secs => $5)
    where tenant_id = app_tenant() and id = $1 and attempt = $2 and state in ('running', 'sending')
    returning id";

/// `$1` turn, `$2` attempt, `$3` code. Asked again by the same claim it finds the turn ended.
const END: &str = "
    update channel_turns set state = case when $3::text is null then 'answered' else 'failed' end, code = $3,
           lease_until = null, ended_at = clock_timestamp()
    where tenant_id = app_tenant() and id = $1 and attempt = $2 and state = 'sending'
    returning id";

/// `$1` channel, `$2` message, `$3` most attempts. Only what nobody holds and nobody may run.
const BURY: &str = "
    update channel_turns set state = 'failed', lease_until = null, ended_at = clock_timestamp(),
           code = case when state = 'sending' then 'delivery_unknown' when code is not null then code
                       when attempt >= $3 then 'attempts_exhausted' else 'deadline_exceeded' end
    where tenant_id = app_tenant() and channel = $1 and message_id = $2
      and ((state = 'sending' and lease_until < clock_timestamp())
        or (state = 'running' and lease_until < clock_timestamp() and (attempt >= $3 or deadline < clock_timestamp()))
        or (state = 'queued' and deadline < clock_timestamp()))
    returning code";

impl Store {
    /// Takes a message in, if it is new, and claims its turn, if that may run now. In one round trip.
    ///
    /// The turn may be begun until the times' queue age has passed, and `times.attempts` times.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer; a claim that was made all the same ends with its lease.
    pub async fn hear(&self, heard: &Heard, times: &Times) -> Result<Delivered> {
        let Heard { tenant, channel, message, connection, agent, thread, sender, said_at, .. } = heard;
        let talk = format!("{tenant}/{connection}/{thread}/{sender}");
        let (said, refused) = match &heard.said {
            Ok(said) => (said.as_str(), None),
            Err(code) => ("", Some(code.as_str())),
        };
        let (id, hint, said_at) = (TurnId::new(), heard.hint.body(), time::OffsetDateTime::from(*said_at));
        let (lease, longest) = (times.lease.as_secs_f64(), times.queue_age.as_secs_f64());
        let name = channel.as_str();
        let work: [Step<'_>; 7] = [
            (LOCK_TALK, &[&talk]),
            (
                HEAR,
                &[&id, &name, message, connection, agent, thread, sender, &said, &said_at, &hint, &refused, &longest],
            ),
            (ABANDON, &[&name, message]),
            (CLAIM, &[&name, message, &lease, &times.attempts, agent]),
            (STATE, &[&name, message]),
            (HISTORY_OF, &[&name, message, &HISTORY]),
            (NEXT, &[&name, message]),
        ];
        let rows = self.run(Scope::Tenant(*tenant), &work).await?;
        if let Some(row) = rows[2].first() {
            return Ok(Delivered::Abandoned { turn: column(row, "id")?, next: next(&rows[6])?.map(Box::new) });
        }
        let Some(row) = rows[3].first() else {
            let state = rows[4].first().ok_or_else(|| Error::internal("a channel's turn was not stored"))?;
            return Ok(if column(state, "ended")? { Delivered::Over } else { Delivered::Busy });
        };
        let exchange = |row: &Row| Ok(Exchange { said: column(row, "said")?, answered: column(row, "answered")? });
        Ok(Delivered::Ours(Box::new(ChannelClaim {
            tenant: *tenant,
            channel: *channel,
            message: message.clone(),
            talk,
            turn: column(row, "id")?,
            attempt: column(row, "attempt")?,
            spent: optional_word(row, "spent").unwrap_or(Some(Code::Internal)),
            history: rows[5].iter().rev().map(exchange).collect::<Result<_>>()?,
        })))
    }

    /// Holds a claim for another lease; false if it is not ours any more.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer; the lease then runs on as it was.
    pub async fn renew_channel_turn(&self, claim: &ChannelClaim, times: &Times) -> Result<bool> {
        let lease = times.lease.as_secs_f64();
        let work: [Step<'_>; 1] = [(RENEW, &[&claim.turn, &claim.attempt, &lease])];
        Ok(!self.run(Scope::Tenant(claim.tenant), &work).await?[0].is_empty())
    }

    /// Stores what is about to be sent: a reply, or, with the code of a failure, what the user is told of it. False if
    /// the turn is not ours any more; then it must not be sent.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm; it must not be sent, and this may be asked again.
    pub async fn begin_sending(
        &self,
        claim: &ChannelClaim,
        text: &str,
        code: Option<Code>,
        times: &Times,
    ) -> Result<bool> {
        let (lease, code) = (times.lease.as_secs_f64(), code.map(Code::as_str));
        let work: [Step<'_>; 1] = [(SEND, &[&claim.turn, &claim.attempt, &text, &code, &lease])];
        Ok(!self.run(Scope::Tenant(claim.tenant), &work).await?[0].is_empty())
    }

    /// Ends a turn whose reply was sent, or, with a code, for what could not be. Returns whether it was still ours, and
    /// the hint for the next turn of the talk.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm. Asking again is safe, but may find the turn ended.
    pub async fn end_channel_turn(&self, claim: &ChannelClaim, code: Option<Code>) -> Result<(bool, Option<Job>)> {
        let (name, code) = (claim.channel.as_str(), code.map(Code::as_str));
        // Behind the lock, so that a message which is taken in beside this either sees the end or is seen by NEXT.
        let work: [Step<'_>; 3] = [
            (LOCK_TALK, &[&claim.talk]),
            (END, &[&claim.turn, &claim.attempt, &code]),
            (NEXT, &[&name, &claim.message]),
        ];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        Ok((!rows[1].is_empty(), next(&rows[2])?))
    }

    /// Ends the turn of a record that the queue gave up on, if nobody has it and nobody may run it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm.
    pub async fn bury_channel_turn(
        &self,
        tenant: TenantId,
        channel: ChannelType,
        message: &str,
        attempts: i32,
    ) -> Result<Buried> {
        let name = channel.as_str();
        let work: [Step<'_>; 4] = [
            (LOCK_TALK_OF, &[&name, &message]),
            (BURY, &[&name, &message, &attempts]),
            (STATE, &[&name, &message]),
            (NEXT, &[&name, &message]),
        ];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        if let Some(row) = rows[1].first() {
            let code = word(row, "code").unwrap_or(Code::Internal);
            return Ok(Buried::Ended { code, next: next(&rows[3])?.map(Box::new) });
        }
        let Some(state) = rows[2].first() else { return Ok(Buried::NoSuchTurn) };
        Ok(if column(state, "ended")? { Buried::Over } else { Buried::Open })
    }
}

/// The hint that waits, if there is one.
fn next(rows: &[Row]) -> Result<Option<Job>> {
    rows.first().map(|row| Job::parse(column(row, "hint")?)).transpose()
}
