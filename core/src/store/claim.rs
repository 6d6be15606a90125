//! A turn taken in hand, with all that its agent needs.

use std::time::Duration;

use tokio_postgres::Row;

use super::{LOCK, Scope, Store, column, parsed, script::Step, word};
use crate::{
    config::{Memory, Times},
    conversation::{Author, Status},
    error::Result,
    ids::{AgentId, ConversationId, TenantId, TurnId, UserId},
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
    /// How long ago its message was accepted.
    pub waited: Duration,
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
    /// Nobody has said yet what the conversation is about.
    pub untitled: bool,
    /// Up to which place the conversation has expired; a summary of what has gone since is refused.
    pub expired_seq: i64,
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

/// `$1` conversation, `$2` lease and `$3` longest life in seconds, `$4` most attempts, `$5` messages before it.
/// Takes the first unfinished turn if it waits or its lease has run out. No row: nothing to do, or somebody is on it.
/// The conditions stand on the updated row itself, where they are checked again after a wait for its lock.
/// What counts before it are the last messages, of users and of persons who answered, and the replies to them: with later
/// ones queued, a reply carries a higher `seq` than they do.
const CLAIM: &str = "
    with t as (
      update turns set state = 'running', attempt = attempt + 1, claimed_at = coalesce(claimed_at, clock_timestamp()),
             lease_until = clock_timestamp() + make_interval(secs => $2),
             deadline = coalesce(deadline, clock_timestamp() + make_interval(secs => $3))
      where conversation_id = $1 and tenant_id = app_tenant()
        and id = (select id from turns where conversation_id = $1 and state in ('queued', 'running') order by seq limit 1)
        and (state = 'queued' or (state = 'running' and lease_until < clock_timestamp()))
        and attempt < $4 and (deadline is null or deadline > clock_timestamp())
      returning id, seq, attempt, epoch, stop_requested,
        extract(epoch from deadline - clock_timestamp())::float8 as seconds_left,
        extract(epoch from clock_timestamp() - created_at)::float8 as seconds_waited
    )
    select t.id, t.seq, t.attempt, t.epoch, t.stop_requested, t.seconds_left, t.seconds_waited,
           c.user_id, c.status, c.summary, c.summary_seq, c.expired_seq, c.title is null as untitled,
           exists (select from budgets where tenant_id = app_tenant()) as budgeted,
           a.id as agent_id, a.name, a.model, a.system_prompt,
           a.fallback_models, a.temperature, a.max_output_tokens, a.context_tokens, a.tools,
           nullif(a.escalation_rules, '[]')::text as escalation_rules,
           q.content as message, m.before, m.roles, m.answers
    from t
    join web_conversations c on c.id = $1
    join agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id
    join web_conversation_messages q on q.id = t.id
    cross join lateral (
      select array_agg(h.seq) as before, array_agg(h.role) as roles, array_agg(r.seq) as answers
      from (select x.id, x.seq, x.role from web_conversation_messages x
            where x.conversation_id = $1 and x.epoch = t.epoch and x.seq < t.seq and x.reply_to is null
            order by x.seq desc limit $5) h
      left join web_conversation_messages r on r.reply_to = h.id) m";

impl Store {
    /// Claims the conversation's first unfinished turn, if it waits or was abandoned, and brings along all that is needed to
    /// run it but the words of the messages before it, which may be remembered. In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer; a claim that was made all the same ends
    /// with its lease.
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
            waited: Duration::try_from_secs_f64(column(row, "seconds_waited")?).unwrap_or_default(),
            epoch: column(row, "epoch")?,
            user: column(row, "user_id")?,
            status: word(row, "status")?,
            stop_requested: column(row, "stop_requested")?,
            budgeted: column(row, "budgeted")?,
            agent: Agent::of(row, column(row, "escalation_rules")?)?,
            message: column(row, "message")?,
            seq: column(row, "seq")?,
            before: marks(row)?,
            summary: column(row, "summary")?,
            summary_seq: column(row, "summary_seq")?,
            untitled: column(row, "untitled")?,
            expired_seq: column(row, "expired_seq")?,
        }))
    }
}

impl Agent {
    /// The agent of a row that names its columns as the table does, its id `agent_id`.
    pub(super) fn of(row: &Row, escalation_rules: Option<String>) -> Result<Self> {
        Ok(Self {
            id: column(row, "agent_id")?,
            name: column(row, "name")?,
            model: column(row, "model")?,
            system_prompt: column(row, "system_prompt")?,
            fallback_models: column(row, "fallback_models")?,
            temperature: column(row, "temperature")?,
            max_output_tokens: column(row, "max_output_tokens")?,
            context_tokens: column(row, "context_tokens")?,
            tools: column(row, "tools")?,
            escalation_rules,
        })
    }
}

/// The messages before a turn's own, in the order of a talk. They come as arrays, so that a long prompt comes once.
fn marks(row: &Row) -> Result<Vec<Mark>> {
    let Some(before) = column::<Option<Vec<i64>>>(row, "before")? else { return Ok(Vec::new()) };
    let (roles, answers): (Vec<&str>, Vec<Option<i64>>) = (column(row, "roles")?, column(row, "answers")?);
    let mut before: Vec<_> = before.into_iter().zip(roles).zip(answers).collect();
    before.sort_unstable_by_key(|((seq, _), _)| *seq);
    let mut marks = Vec::with_capacity(before.len() * 2);
    for ((seq, role), answer) in before {
        marks.push(Mark { seq, author: parsed("roles", role)? });
        marks.extend(answer.map(|seq| Mark { seq, author: Author::Assistant }));
    }
    Ok(marks)
}
