//! Turns: claimed, renewed, ended. The database decides what runs, in which order, and how often.
//!
//! Lock order everywhere: the conversation, then the turn. Each `update` of a turn names its conversation too:
//! without that the planner walks the whole index of open turns. Leases and deadlines use the database's clock.

use std::time::Duration;

use tokio_postgres::Row;

use super::{LOCK, Scope, Store, column, moment, optional_code, script::Step, spend::Bill, word};
use crate::{
    config::{Memory, Times},
    conversation::{Author, Status, Turn, TurnState},
    error::{Code, Result},
    event::ServerFrame,
    ids::{AgentId, ConversationId, MessageId, TenantId, TurnId, UserId},
    job::Job,
    store::door::{Action, STILL_IN},
    timestamp::Timestamp,
    token::Identity,
};

/// A turn in our hands: the right to answer it until the lease runs out.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The company.
    pub tenant: TenantId,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// Which claim of it this is, from 1. A finish that names an older one is refused.
    pub attempt: i32,
    /// What was left of the turn's time when it was claimed; an earlier attempt may have used some of it.
    pub left: Duration,
    /// The epoch of the message; a finish after a reset is refused.
    pub epoch: i32,
    /// Whose conversation it is.
    pub user: UserId,
    /// Who answers in this conversation.
    pub status: Status,
    /// The user wanted it stopped while an earlier worker had it.
    pub stop_requested: bool,
    /// The tenant has a budget: each call of a model is reserved before it is made.
    pub budgeted: bool,
    /// Who is asked.
    pub agent: Agent,
    /// What the user said: the message to answer.
    pub message: String,
    /// Its place in the conversation.
    pub seq: i64,
    /// Which messages stand before it, in the order of a talk: each reply behind the message that it answers.
    pub before: Vec<Mark>,
    /// What was said before those, in short.
    pub summary: Option<String>,
    /// Up to which place that speaks.
    pub summary_seq: i64,
}

/// The AI employee that a turn is for.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Which model speaks for it.
    pub model: String,
    /// What it was told about itself.
    pub system_prompt: String,
    /// Who is asked, in this order, when its model gives no answer.
    pub fallback_models: Vec<String>,
    /// How freely it speaks, 0 to 2; the model's own choice if absent.
    pub temperature: Option<f32>,
    /// Longest answer, in the model's tokens; the model's own choice if absent.
    pub max_output_tokens: Option<i32>,
    /// What fits into a prompt, answer included, in tokens.
    pub context_tokens: i32,
    /// The names of the tools it may use.
    pub tools: Vec<String>,
    /// When it hands a conversation to a person, as JSON: `[{"condition": …, "reason"?: …}]`; absent if never.
    pub escalation_rules: Option<String>,
}

/// A message that counts, by its place; its words are fetched where they are not at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its place in the conversation.
    pub seq: i64,
    /// Who speaks.
    pub author: Author,
}

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

/// `$1` conversation, `$2` lease and `$3` longest life in seconds, `$4` most attempts, `$5` messages before it.
/// Takes the first unfinished turn if it waits or its lease has run out. No row: nothing to do, or somebody is on it.
/// The conditions stand on the updated row itself, where they are checked again after a wait for its lock.
/// What counts before it are the last messages, of users and of persons who answered, and the replies to them: with later
/// ones queued, a reply carries a higher `seq` than they do.
const CLAIM: &str = "
    with t as (
      update turns set state = 'running', attempt = attempt + 1,
             lease_until = clock_timestamp() + make_interval(secs => $2),
             deadline = coalesce(deadline, clock_timestamp() + make_interval(secs => $3))
      where conversation_id = $1 and tenant_id = app_tenant()
        and id = (select id from turns where conversation_id = $1 and state in ('queued', 'running') order by seq limit 1)
        and (state = 'queued' or (state = 'running' and lease_until < clock_timestamp()))
        and attempt < $4 and (deadline is null or deadline > clock_timestamp())
      returning id, seq, attempt, epoch, stop_requested,
        extract(epoch from deadline - clock_timestamp())::float8 as seconds_left
    )
    select t.id, t.seq, t.attempt, t.epoch, t.stop_requested, t.seconds_left, c.user_id, c.status, c.summary, c.summary_seq,
           exists (select from budgets where tenant_id = app_tenant()) as budgeted,
           a.id as agent_id, a.name, a.model, a.system_prompt,
           a.fallback_models, a.temperature, a.max_output_tokens, a.context_tokens, a.tools,
           nullif(a.escalation_rules, '[]')::text as escalation_rules,
           q.content as message, h.seq as before, h.role, r.seq as answer
    from t
    join web_conversations c on c.id = $1
    join agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id
    join web_conversation_messages q on q.id = t.id
    left join lateral (
      select x.id, x.seq, x.role from web_conversation_messages x
      where x.conversation_id = $1 and x.epoch = t.epoch and x.seq < t.seq and x.reply_to is null
      order by x.seq desc limit $5) h on true
    left join web_conversation_messages r on r.reply_to = h.id
    order by h.seq";

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
    /// Claims the conversation's first unfinished turn, if it waits or was abandoned, and brings along all that is needed to
    /// run it but the words of the messages before it, which may be remembered. In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer; a claim that was made all the same ends with its lease.
    pub async fn claim(
        &self,
        tenant: TenantId,
        conversation: ConversationId,
        times: &Times,
        memory: &Memory,
    ) -> Result<Option<Claim>> {
        let (lease, life) = (times.lease.as_secs_f64(), times.turn.as_secs_f64());
        let work: [Step<'_>; 2] =
            [(LOCK, &[&conversation]), (CLAIM, &[&conversation, &lease, &life, &times.attempts, &memory.messages])];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        let Some(row) = rows[1].first() else { return Ok(None) };
        Ok(Some(Claim {
            tenant,
            conversation,
            turn: column(row, "id")?,
            attempt: column(row, "attempt")?,
            left: Duration::try_from_secs_f64(column(row, "seconds_left")?).unwrap_or_default(),
            epoch: column(row, "epoch")?,
            user: column(row, "user_id")?,
            status: word(row, "status")?,
            stop_requested: column(row, "stop_requested")?,
            budgeted: column(row, "budgeted")?,
            agent: Agent {
                id: column(row, "agent_id")?,
                name: column(row, "name")?,
                model: column(row, "model")?,
                system_prompt: column(row, "system_prompt")?,
                fallback_models: column(row, "fallback_models")?,
                temperature: column(row, "temperature")?,
                max_output_tokens: column(row, "max_output_tokens")?,
                context_tokens: column(row, "context_tokens")?,
                tools: column(row, "tools")?,
                escalation_rules: column(row, "escalation_rules")?,
            },
            message: column(row, "message")?,
            seq: column(row, "seq")?,
            before: marks(&rows[1])?,
            summary: column(row, "summary")?,
            summary_seq: column(row, "summary_seq")?,
        }))
    }

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
    pub async fn stop(&self, who: &Identity, conversation: ConversationId, turn: TurnId) -> Result<Stop> {
        let work: [Step<'_>; 5] = [
            (LOCK, &[&conversation]),
            (STILL_IN, &[&who.user_id, &conversation]),
            (STOP, &[&conversation, &turn]),
            (STATE, &[&conversation, &turn]),
            (NEXT, &[&conversation]),
        ];
        let (seat, rows) = self.in_conversation(who, conversation, Action::Write, &work).await?;
        let Some(row) = rows[3].first() else { return Ok(Stop::NoSuchTurn) };
        let state = word(row, "state")?;
        Ok(match (rows[2].is_empty(), state) {
            (false, TurnState::Stopped) => {
                Stop::Stopped { next: next(seat.tenant(), conversation, &rows[4])?.map(Box::new) }
            }
            (false, _) => Stop::Asked,
            (true, _) => {
                let turn = Turn { id: turn, state, code: optional_code(row)? };
                Stop::EndedBefore { turn, reply: column(row, "reply")? }
            }
        })
    }
}

/// The messages before a turn's own, in the order of a talk.
fn marks(rows: &[Row]) -> Result<Vec<Mark>> {
    let mut marks = Vec::with_capacity(rows.len() * 2);
    for row in rows {
        let Some(seq) = column(row, "before")? else { continue };
        marks.push(Mark { seq, author: word(row, "role")? });
        let answer: Option<i64> = column(row, "answer")?;
        marks.extend(answer.map(|seq| Mark { seq, author: Author::Assistant }));
    }
    Ok(marks)
}

fn reply(row: &Row, id: MessageId) -> Result<Reply> {
    Ok(Reply { id, seq: column(row, "seq")?, created_at: moment(row, "created_at")? })
}

pub(super) fn next(tenant: TenantId, conversation: ConversationId, rows: &[Row]) -> Result<Option<Job>> {
    rows.first().map(|row| Ok(Job::web(tenant, conversation, column(row, "user_id")?, column(row, "id")?))).transpose()
}
