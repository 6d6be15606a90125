//! Turns: renewed, ended, stopped, once [`claim`](super::claim) has taken them in hand. The database decides what runs, in
//! which order, and how often.
//!
//! Lock order everywhere: the conversation, then the turn. Each `update` of a turn names its conversation too:
//! without that the planner walks the whole index of open turns. Leases and deadlines use the database's clock.

use tokio_postgres::Row;

use super::{LOCK, Scope, Store, claim::Claim, column, moment, optional_code, script::Step, spend::Bill, word};
use crate::{
    config::Times,
    conversation::{Turn, TurnState},
    error::{Code, Result},
    event::ServerFrame,
    ids::{ConversationId, MessageId, TenantId, TurnId},
    job::Job,
    store::door::{Action, STILL_IN, Seat},
    timestamp::Timestamp,
    token::Identity,
};

/// Whether a turn is still ours to work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lease {
    /// Ours until a lease from now.
    Held,
    /// Ours, but the user wants it stopped.
    StopRequested,
    /// Not ours any more: another worker has it, it has ended, the conversation was reset or taken over.
    Lost,
}

/// A reply that is stored.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its id.
    pub id: MessageId,
    /// Its place in the conversation.
    pub seq: i64,
    /// When it was stored.
    pub created_at: Timestamp,
}

/// What came of asking a turn to stop.
#[derive(Debug, Clone, PartialEq)]
pub enum Stop {
    /// It had only waited, and has ended. And the hint for the one behind it.
    Stopped {
        /// Wakes whoever runs the next turn.
        next: Option<Box<Job>>,
    },
    /// A worker has it, and has been asked.
    Asked,
    /// It had ended before.
    EndedBefore {
        /// How.
        turn: Turn,
        /// The reply, where there is one.
        reply: Option<MessageId>,
    },
    /// The conversation has no such turn.
    NoSuchTurn,
}

/// How a turn ends with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The agent has said all.
    Whole,
    /// The user wanted no more of it; what was written is kept.
    Stopped,
}

impl Completion {
    /// The state it leaves the turn in.
    #[must_use]
    pub fn state(self) -> TurnState {
        match self {
            Self::Whole => TurnState::Answered,
            Self::Stopped => TurnState::Stopped,
        }
    }
}

/// How a turn ends without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// For this reason.
    Failed(Code),
    /// Because the user wanted it.
    Stopped,
    /// Because a person answers.
    Escalated,
}

impl End {
    /// The state it leaves the turn in.
    #[must_use]
    pub fn state(self) -> TurnState {
        match self {
            Self::Failed(_) => TurnState::Failed,
            Self::Stopped => TurnState::Stopped,
            Self::Escalated => TurnState::Escalated,
        }
    }

    /// Why it failed.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Failed(code) => Some(code),
            Self::Stopped | Self::Escalated => None,
        }
    }

    /// The frames that tell a conversation's sockets: what became of the turn, and for a failure why, in words.
    #[must_use]
    pub fn frames(self, turn: TurnId) -> Vec<ServerFrame> {
        let mut frames =
            vec![ServerFrame::Turn { turn_id: turn, state: self.state(), code: self.code(), message_id: None }];
        frames.extend(self.code().map(|code| ServerFrame::Error {
            code,
            message: code.failure().to_owned(),
            turn_id: Some(turn),
            client_message_id: None,
            retry_after_ms: None,
        }));
        frames
    }
}

/// `$1` conversation, `$2` turn, `$3` attempt, `$4` lease in seconds. No row: the turn is not ours any more.
const RENEW: &str = "
    update turns t set lease_until = clock_timestamp() + make_interval(secs => $4)
    from web_conversations c
    where t.conversation_id = $1 and t.id = $2 and t.attempt = $3 and t.state = 'running' and t.tenant_id = app_tenant()
      and c.id = $1 and c.epoch = t.epoch and c.status = 'agent' and t.deadline > clock_timestamp()
    returning t.stop_requested";

/// `$1` conversation, `$2` turn, `$3` attempt, `$4` reply, `$5` its text, `$6` the turn's state. Runs behind the lock.
/// No row: another attempt, another epoch, a person has taken over, or the turn has ended; the reply is thrown away.
const FINISH: &str = "
    with done as (
      update turns t set state = $6, lease_until = null, ended_at = clock_timestamp()
      from web_conversations c
      where t.conversation_id = $1 and t.id = $2 and t.attempt = $3 and t.state = 'running' and t.tenant_id = app_tenant()
        and c.id = $1 and c.epoch = t.epoch and c.status = 'agent'
      returning t.id, t.tenant_id
    ), conv as (
      update web_conversations w set last_seq = w.last_seq + 1, updated_at = clock_timestamp() from done
      where w.id = $1 returning w.last_seq, w.epoch
    )
    insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content, reply_to)
    select $4, $1, done.tenant_id, conv.last_seq, conv.epoch, 'assistant', $5, done.id from done, conv
    returning seq, created_at";

const STORED: &str = "
    select seq, created_at from web_conversation_messages
    where conversation_id = $1 and id = $2 and tenant_id = app_tenant()";

/// `$1` conversation, `$2` turn, `$3` attempt, `$4` state, `$5` code. Runs behind the lock. No row: not ours to end.
const END: &str = "
    update turns set state = $4, code = $5, lease_until = null, ended_at = clock_timestamp()
    where conversation_id = $1 and id = $2 and attempt = $3 and state = 'running' and tenant_id = app_tenant()
      and ($4 <> 'escalated' or exists (select from web_conversations c where c.id = $1 and c.status = 'escalated'))
    returning id";

/// The conversation's next turn that waits, for a hint. Its statement starts behind the lock, so it sees each
/// message that was accepted before, and those accepted later send a hint of their own.
pub(super) const NEXT: &str = "
    select id, user_id from turns
    where conversation_id = $1 and tenant_id = app_tenant() and state = 'queued' order by seq limit 1";

/// `$1` conversation, `$2` turn. A waiting turn ends at once; a running one is told at its next renewal.
const STOP: &str = "
    update turns set stop_requested = true,
           state = case state when 'queued' then 'stopped' else state end,
           ended_at = case state when 'queued' then clock_timestamp() end
    where conversation_id = $1 and id = $2 and state in ('queued', 'running') and tenant_id = app_tenant()
    returning state";

const STATE: &str = "
    select state, code, (select m.id from web_conversation_messages m where m.reply_to = turns.id) as reply
    from turns where conversation_id = $1 and id = $2 and tenant_id = app_tenant()";

impl Store {
    /// Holds a claim for another lease, and learns whether it is still wanted.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer; the lease then runs on as it was.
    pub async fn renew(&self, claim: &Claim, times: &Times) -> Result<Lease> {
        let lease = times.lease.as_secs_f64();
        let work: [Step<'_>; 1] = [(RENEW, &[&claim.conversation, &claim.turn, &claim.attempt, &lease])];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        match rows[0].first() {
            Some(row) if column(row, "stop_requested")? => Ok(Lease::StopRequested),
            Some(_) => Ok(Lease::Held),
            None => Ok(Lease::Lost),
        }
    }

    /// Stores the reply and ends the turn, if it is still ours; returns the hint for the turn that waits behind it.
    /// In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm. Calling again with the same `reply` cannot store two.
    pub async fn finish(
        &self,
        claim: &Claim,
        reply: MessageId,
        text: &str,
        how: Completion,
    ) -> Result<(Option<Reply>, Option<Job>)> {
        self.finish_and_settle(claim, reply, text, how, None).await
    }

    /// Does so, and writes the bill down in the same transaction, also where the reply is thrown away.
    ///
    /// # Errors
    /// As [`Store::finish`]; again with the same bill it is not paid twice.
    pub async fn finish_and_settle(
        &self,
        claim: &Claim,
        reply: MessageId,
        text: &str,
        how: Completion,
        bill: Option<&Bill>,
    ) -> Result<(Option<Reply>, Option<Job>)> {
        let (conversation, state) = (claim.conversation, how.state().as_str());
        let params = bill.map(Bill::params).unwrap_or_default();
        let work: [Step<'_>; 3] = [
            (LOCK, &[&conversation]),
            (FINISH, &[&conversation, &claim.turn, &claim.attempt, &reply, &text, &state]),
            (NEXT, &[&conversation]),
        ];
        let work = [&work, bill.map(|bill| bill.steps(&params)).unwrap_or_default().as_slice()].concat();
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        let stored = rows[1].first().map(|row| self::reply(row, reply)).transpose()?;
        Ok((stored, next(claim.tenant, conversation, &rows[2])?))
    }

    /// The reply with this id, if an earlier call of [`Store::finish`] has stored it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn stored(&self, claim: &Claim, reply: MessageId) -> Result<Option<Reply>> {
        let work: [Step<'_>; 1] = [(STORED, &[&claim.conversation, &reply])];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        rows[0].first().map(|row| self::reply(row, reply)).transpose()
    }

    /// Ends a turn without a reply, if it is still ours; returns whether it was, and the hint for the next one.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm.
    pub async fn end(&self, claim: &Claim, end: End) -> Result<(bool, Option<Job>)> {
        self.end_and_settle(claim, end, None).await
    }

    /// Does so, and writes the bill down in the same transaction, also where the turn was not ours any more.
    ///
    /// # Errors
    /// As [`Store::end`]; again with the same bill it is not paid twice.
    pub async fn end_and_settle(&self, claim: &Claim, end: End, bill: Option<&Bill>) -> Result<(bool, Option<Job>)> {
        let conversation = claim.conversation;
        let params = bill.map(Bill::params).unwrap_or_default();
        let (state, code) = (end.state().as_str(), end.code().map(Code::as_str));
        let work: [Step<'_>; 3] = [
            (LOCK, &[&conversation]),
            (END, &[&conversation, &claim.turn, &claim.attempt, &state, &code]),
            (NEXT, &[&conversation]),
        ];
        let work = [&work, bill.map(|bill| bill.steps(&params)).unwrap_or_default().as_slice()].concat();
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        Ok((!rows[1].is_empty(), next(claim.tenant, conversation, &rows[2])?))
    }

    /// Asks for a turn to be stopped, and tells where it is now.
    ///
    /// # Errors
    /// [`Code::NotFound`] where the conversation is absent or not theirs.
    pub async fn stop(&self, who: &Identity, conversation: ConversationId, turn: TurnId) -> Result<(Seat, Stop)> {
        let work: [Step<'_>; 5] = [
            (LOCK, &[&conversation]),
            (STILL_IN, &[&who.user_id, &conversation]),
            (STOP, &[&conversation, &turn]),
            (STATE, &[&conversation, &turn]),
            (NEXT, &[&conversation]),
        ];
        let (seat, rows) = self.in_conversation(who, conversation, Action::Write, &work).await?;
        let Some(row) = rows[3].first() else { return Ok((seat, Stop::NoSuchTurn)) };
        let state = word(row, "state")?;
        let stopped = match (rows[2].is_empty(), state) {
            (false, TurnState::Stopped) => {
                Stop::Stopped { next: next(seat.tenant(), conversation, &rows[4])?.map(Box::new) }
            }
            (false, _) => Stop::Asked,
            (true, _) => {
                let turn = Turn { id: turn, state, code: optional_code(row)? };
                Stop::EndedBefore { turn, reply: column(row, "reply")? }
            }
        };
        Ok((seat, stopped))
    }
}

fn reply(row: &Row, id: MessageId) -> Result<Reply> {
    Ok(Reply { id, seq: column(row, "seq")?, created_at: moment(row, "created_at")? })
}

pub(super) fn next(tenant: TenantId, conversation: ConversationId, rows: &[Row]) -> Result<Option<Job>> {
    rows.first().map(|row| Ok(Job::web(tenant, conversation, column(row, "user_id")?, column(row, "id")?))).transpose()
}
