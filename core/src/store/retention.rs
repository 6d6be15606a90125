//! Retention: what was said longer ago than a company wants to keep it goes, in bounded batches.
//!
//! Messages, their turns, the summary and the title that speak of them, and what was said on other channels. Conversations stay, and so
//! does what holds no words: spending, and the audit. What waits for its answer stays until it has one.
//!
//! It runs as `chat_retention`, which sees no text and which the database lets delete nothing but what is due. Lock order
//! as everywhere: the conversation, then its turns.

use super::{Scope, Store, column, script::Step};
use crate::{
    error::Result,
    ids::{AgentId, ConversationId, TenantId, UserId},
};

/// Conversations of one batch.
const TOGETHER: i64 = 50;

/// Rows of each table that one script deletes at most: some milliseconds, in which the conversation waits.
const MOST: i64 = 1_000;

/// What a batch deleted.
#[derive(Debug, Default)]
pub struct Expired {
    /// Messages.
    pub messages: u64,
    /// Turns, of all channels.
    pub turns: u64,
    /// Whose words are to be forgotten where they are remembered.
    pub memories: Vec<(AgentId, UserId)>,
    /// There may be more.
    pub more: bool,
}

/// A company whose time has come: each once an hour, by one hub.
const NEXT: &str = "
    update tenants set retained_at = clock_timestamp()
    where id = (select id from tenants
                where retention_days is not null
                  and (retained_at is null or retained_at < clock_timestamp() - interval '1 hour')
                order by retained_at nulls first limit 1 for no key update skip locked)
    returning id";

/// `$1` company, `$2` most.
const DUE: &str = "
    select id from web_conversations
    where tenant_id = $1 and (oldest_at is null or oldest_at < app_kept_since($1))
    order by oldest_at nulls first limit $2";

/// `$1` company, `$2` most.
const CHANNEL_TURNS: &str = "
    with due as (
      select id from channel_turns
      where tenant_id = $1 and created_at < app_kept_since($1)
        and (state in ('answered', 'failed') or deadline < now() - interval '1 day')
      order by created_at limit $2
    )
    delete from channel_turns t using due where t.id = due.id returning 1";

const LOCK: &str = "select 1 from web_conversations where id = $1 for no key update";

/// `$1` conversation, `$2` most. Behind the lock. A beginning of the conversation goes, up to what waits for its answer,
/// and its turns with it; the summary speaks of it, so it goes along, and is begun anew behind it. No row: nothing is due.
const MESSAGES: &str = "
    with kept as materialized (
      select c.id, app_kept_since(c.tenant_id) as since from web_conversations c where c.id = $1
    ), due as materialized (
      select m.id from web_conversation_messages m, kept
      where m.conversation_id = kept.id and m.created_at < kept.since
        and m.seq < coalesce((select min(t.seq) from turns t
                              where t.conversation_id = $1 and t.state in ('queued', 'running')), m.seq + 1)
      order by m.created_at limit $2
    ), gone as (
      delete from web_conversation_messages m using due where m.id = due.id returning m.seq
    ), turns_gone as (
      delete from turns t using due where t.id = due.id returning 1
    ), did as (
      select count(*) as messages, max(seq) as seq, (select count(*) from turns_gone) as turns from gone
    )
    update web_conversations c set expired_seq = did.seq, summary = null, summary_seq = did.seq
    from did where c.id = $1 and did.seq is not null
    returning did.messages, did.turns, c.agent_id, c.user_id";

/// `$1` conversation. Behind the lock, after the messages: a title that was made of what has gone.
const TITLE: &str =
    "update web_conversations set title = null, title_seq = null where id = $1 and title_seq <= expired_seq";

/// `$1` conversation, `$2` most. Behind the lock, after the messages: turns whose message a reset has taken.
const TURNS: &str = "
    with kept as materialized (
      select c.id, app_kept_since(c.tenant_id) as since from web_conversations c where c.id = $1
    ), due as materialized (
      select t.id from turns t, kept
      where t.conversation_id = kept.id and t.created_at < kept.since and t.state not in ('queued', 'running')
        and not exists (select from web_conversation_messages m where m.id = t.id)
      limit $2
    )
    delete from turns t using due where t.id = due.id returning 1";

/// `$1` conversation. When to look again: when the oldest of what is left will be due, and not before an hour, so that a
/// talk that never rests is not looked at for each of its messages.
const LOOKED: &str = "
    update web_conversations c
    set oldest_at = greatest(app_kept_since(c.tenant_id) + interval '1 hour', coalesce(least(
          (select min(m.created_at) from web_conversation_messages m where m.conversation_id = $1),
          (select min(t.created_at) from turns t where t.conversation_id = $1)), now()))
    where c.id = $1";

impl Store {
    /// A company whose messages are to be looked through now; `None` if no company's time has come.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer.
    pub async fn next_with_retention(&self) -> Result<Option<TenantId>> {
        let rows = self.run(Scope::Retention, &[(NEXT, &[])]).await?;
        rows[0].first().map(|row| column(row, "id")).transpose()
    }

    /// Deletes some of what a company does not want to keep any longer.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer; what was deleted until then is gone.
    pub async fn expire_some(&self, tenant: TenantId) -> Result<Expired> {
        let work: [Step<'_>; 2] = [(DUE, &[&tenant, &TOGETHER]), (CHANNEL_TURNS, &[&tenant, &MOST])];
        let rows = self.run(Scope::Retention, &work).await?;
        let mut expired = Expired { turns: rows[1].len() as u64, ..Expired::default() };
        expired.more = rows[0].len() as i64 == TOGETHER || rows[1].len() as i64 == MOST;
        for row in &rows[0] {
            self.expire(column(row, "id")?, &mut expired).await?;
        }
        Ok(expired)
    }

    async fn expire(&self, conversation: ConversationId, expired: &mut Expired) -> Result<()> {
        let work: [Step<'_>; 3] =
            [(LOCK, &[&conversation]), (MESSAGES, &[&conversation, &MOST]), (TITLE, &[&conversation])];
        let rows = self.run(Scope::Retention, &work).await?;
        if let Some(row) = rows[1].first() {
            let messages: i64 = column(row, "messages")?;
            expired.messages += messages.unsigned_abs();
            expired.turns += column::<i64>(row, "turns")?.unsigned_abs();
            expired.memories.push((column(row, "agent_id")?, column(row, "user_id")?));
            if messages == MOST {
                expired.more = true;
                return Ok(());
            }
        }
        let work: [Step<'_>; 2] = [(LOCK, &[&conversation]), (TURNS, &[&conversation, &MOST])];
        let turns = self.run(Scope::Retention, &work).await?[1].len() as u64;
        expired.turns += turns;
        if turns == MOST.unsigned_abs() {
            expired.more = true;
            return Ok(());
        }
        self.run(Scope::Retention, &[(LOOKED, &[&conversation])]).await.map(drop)
    }
}
