//! Conversations: listed, opened, read, reset.

use std::cmp::Reverse;

use tokio_postgres::{Row, types::ToSql};

use super::{
    LOCK, Scope, Store, column,
    door::{Action, STILL_IN, Seat},
    escalations::{agents_again, transcript},
    moment, optional_code, optional_moment, word,
};
use crate::{
    conversation::{Conversation, Escalation, Status, Turn},
    error::{Code, Error, Result},
    ids::{AgentId, AuditId, ConversationId, TenantId, TurnId, UserId},
    timestamp::Timestamp,
    token::Identity,
};

/// Which conversations to list.
#[derive(Debug, Clone, Copy)]
pub struct Listing {
    /// Of this tenant; all tenants, for a platform_admin, if absent.
    pub tenant: Option<TenantId>,
    /// Only those that wait for a person; a customer_admin sees the whole tenant's then.
    pub escalated: bool,
    /// Only those that their owners have put away, or only the others; if absent, all but what one has put away oneself.
    pub archived: Option<bool>,
    /// Only those after this place in the list.
    pub before: Option<Place>,
    /// At most this many.
    pub limit: i64,
}

/// A place in the list, newest first: the moment of the last change, and the id where two are alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Last change, exact to Postgres' microsecond.
    pub updated_at: Timestamp,
    /// Whose.
    pub id: ConversationId,
}

/// How far a conversation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The conversation.
    pub id: ConversationId,
    /// Its epoch.
    pub epoch: i32,
    /// Its newest `seq`.
    pub last_seq: i64,
    /// A message of it waits for its answer.
    pub open: bool,
}

/// What a reset did.
#[derive(Debug)]
pub struct Reset {
    /// The epoch that holds now.
    pub epoch: i32,
    /// The turns it stopped.
    pub stopped: Vec<TurnId>,
    /// The conversation's agent, for its memory of the owner.
    pub agent: AgentId,
    /// A person answered until now; whoever begins anew begins with the agent.
    pub handed_back: bool,
}

/// What a list shows of a conversation. What is unread is counted in the order of an index: without it the whole table is
/// read for a conversation in which there is none, where few conversations hold most of the messages.
macro_rules! columns {
    ($rest:literal) => {
        columns!("null", $rest)
    };
    ($transcript:expr, $rest:literal) => {
        concat!(
            "select c.id, c.tenant_id, c.agent_id, a.name as agent_name, c.created_at, c.updated_at,
                    (select left(m.content, 160) from web_conversation_messages m
                     where m.conversation_id = c.id order by m.seq desc limit 1) as last_message_preview,
                    c.status, c.epoch, c.last_seq, c.title, c.archived_at, c.read_seq,
                    (select count(*) from (
                       select 1 from web_conversation_messages m
                       where m.conversation_id = c.id and m.tenant_id = c.tenant_id and m.seq > c.read_seq
                         and m.role = 'assistant' order by m.seq limit 100) unread) as unread,
                    coalesce(c.escalated_at, c.updated_at) as escalated_at, c.escalation_reason, c.escalated_by,
                    c.taken_by, c.user_id,
                    case c.status when 'escalated' then
                      (select u.display_name from portal_users u where u.id = c.user_id) end as user_name,
                    ",
            $transcript,
            " as transcript
             from web_conversations c join agents a on a.tenant_id = c.tenant_id and a.id = c.agent_id ",
            $rest
        )
    };
}

pub(super) const ONE: &str = columns!("where c.id = $1 and c.tenant_id = app_tenant()");

const OF_AGENT_AND_USER: &str = columns!("where c.agent_id = $1 and c.user_id = $2 and c.tenant_id = app_tenant()");

/// The list of one person. A condition that could also be met otherwise would cost the index, hence a statement for
/// each kind of list; in each the page is found first, so that no row is furnished that is not shown. `$1` user, `$2` only
/// escalated, `$3` and `$4` place, `$5` most, `$6` whether archived. What waits for a person waits wherever its owner has
/// put it.
const OWN: &str = columns!(
    concat!("case when $2 then ", transcript!(), " end"),
    "where c.id = any (array(select c.id from web_conversations c
     where c.tenant_id = app_tenant() and c.user_id = $1
       and (not $2 or c.status = 'escalated')
       and (c.archived_at is not null) = coalesce($6::bool, $2 and c.archived_at is not null)
       and ($3::timestamptz is null or (c.updated_at, c.id) < ($3, $4))
     order by c.updated_at desc, c.id desc limit $5))
     order by c.updated_at desc, c.id desc"
);

/// Those of others, for whoever the database knows as the product's admin, or as the tenant's where one waits for a
/// person. Parameters as above.
const OTHERS: &str = columns!(
    concat!("case when $2 then ", transcript!(), " end"),
    "where c.id = any (array(select c.id from web_conversations c
     where c.tenant_id = app_tenant() and c.user_id <> $1
       and (select u.role = 'platform_admin'
                or ($2 and u.role = 'customer_admin' and exists (
                      select from user_tenant_roles m
                      where m.user_id = u.id and m.tenant_id = app_tenant() and m.role = 'customer_admin'))
            from portal_users u where u.id = $1)
       and (not $2 or c.status = 'escalated')
       and ($6::bool is null or (c.archived_at is not null) = $6)
       and ($3::timestamptz is null or (c.updated_at, c.id) < ($3, $4))
     order by c.updated_at desc, c.id desc limit $5))
     order by c.updated_at desc, c.id desc"
);

/// Only for whom the door has made `chat_platform`: whoever it has not is seen to hold nothing, policies or none.
const EVERYWHERE: &str = columns!(
    concat!("case when $1 then ", transcript!(), " end"),
    "where c.id = any (array(select c.id from web_conversations c
     where current_user = 'chat_platform' and (not $1 or c.status = 'escalated')
       and ($5::bool is null or (c.archived_at is not null) = $5)
       and ($2::timestamptz is null or (c.updated_at, c.id) < ($2, $3))
     order by c.updated_at desc, c.id desc limit $4))
     order by c.updated_at desc, c.id desc"
);

/// Opens it unless it stands. A second caller waits for the first one's commit, inserts nothing,
/// and finds the row with the next statement.
const OPEN: &str = "
    insert into web_conversations (id, tenant_id, agent_id, user_id)
    select $1, a.tenant_id, a.id, $3 from agents a
    where a.id = $2 and a.tenant_id = app_tenant() and a.is_active
    on conflict (tenant_id, agent_id, user_id) do nothing returning id";

/// By their messages, not by their conversation: that has an index, too, but may be long.
const RECENT_TURNS: &str = "
    select t.id, t.seq, t.state, t.code from web_conversation_messages m join turns t on t.id = m.id
    where m.conversation_id = $1 and m.tenant_id = app_tenant() and m.role = 'user' and t.tenant_id = app_tenant()
    order by m.seq desc limit 50";

const PROGRESS: &str = "
    select c.id, c.epoch, c.last_seq,
           exists (select from turns t where t.conversation_id = c.id and t.state in ('queued', 'running')) as open
    from web_conversations c where c.id = any($1) and c.tenant_id = app_tenant()";

const STOP_TURNS: &str = "
    update turns set state = 'stopped', lease_until = null, ended_at = clock_timestamp()
    where conversation_id = $1 and tenant_id = app_tenant() and state in ('queued', 'running') returning id";

const DELETE_MESSAGES: &str =
    "delete from web_conversation_messages where conversation_id = $1 and tenant_id = app_tenant()";

/// `$1` conversation, `$2` audit row, `$3` who resets it. Whoever begins anew begins with the agent: the person knows
/// nothing of what is said now, and the user chose to leave the old matter.
const RAISE_EPOCH: &str = concat!(
    "with was as materialized (
       select status from web_conversations where id = $1 and tenant_id = app_tenant()
     ), reset as (
       update web_conversations set epoch = epoch + 1, updated_at = clock_timestamp(),
         summary = null, summary_seq = last_seq, read_seq = last_seq,
         title = case when title_seq is null then title end, title_seq = null, ",
    agents_again!(),
    " where id = $1 and tenant_id = app_tenant() returning tenant_id, epoch, agent_id
     ), audit as (
       insert into audit_events (id, tenant_id, actor_id, action, subject_id)
       select $2, reset.tenant_id, $3, 'conversation.handed_back', $1 from reset, was where was.status = 'escalated'
     )
     select epoch, agent_id, was.status = 'escalated' as handed_back from reset, was"
);

impl Store {
    /// Lists conversations, newest change first: a member's own, a platform_admin's all.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a tenant that is not theirs; [`Code::Invalid`] where none is named by anyone but a
    /// platform_admin.
    pub async fn conversations(&self, who: &Identity, listing: Listing) -> Result<Vec<Conversation>> {
        let Listing { tenant, escalated, archived, before, limit } = listing;
        let moment = before.map(|place| time::OffsetDateTime::from(place.updated_at));
        let id = before.map(|place| place.id);
        let mut rows = match tenant {
            Some(tenant) => {
                let params: &[&(dyn ToSql + Sync)] = &[&who.user_id, &escalated, &moment, &id, &limit, &archived];
                self.in_tenant(who, tenant, Action::List, &[(OWN, params), (OTHERS, params)]).await?.1.concat()
            }
            None => {
                let params: &[&(dyn ToSql + Sync)] = &[&escalated, &moment, &id, &limit, &archived];
                self.everywhere(who, Action::List, &[(EVERYWHERE, params)]).await?.concat()
            }
        };
        let mut listed = rows.drain(..).map(|row| conversation(&row, who)).collect::<Result<Vec<_>>>()?;
        listed.sort_by_key(|listed| Reverse((listed.updated_at, listed.id)));
        listed.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(listed)
    }

    /// Opens the caller's conversation with an agent, or finds the one that stands; tells whether it is new.
    /// Any number of callers at once get the same one.
    ///
    /// # Errors
    /// [`Code::Forbidden`] for a non-member; [`Code::NotFound`] for an agent that is not that tenant's.
    pub async fn open_conversation(
        &self,
        who: &Identity,
        tenant: TenantId,
        agent: AgentId,
    ) -> Result<(Conversation, bool)> {
        let id = ConversationId::new();
        let work: [super::Step<'_>; 2] =
            [(OPEN, &[&id, &agent, &who.user_id]), (OF_AGENT_AND_USER, &[&agent, &who.user_id])];
        let (_, rows) = self.in_tenant(who, tenant, Action::Create, &work).await?;
        let row = rows[1].first().ok_or_else(|| Error::new(Code::NotFound, "There is no such agent."))?;
        Ok((conversation(row, who)?, !rows[0].is_empty()))
    }

    /// One conversation.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs.
    pub async fn conversation(&self, who: &Identity, id: ConversationId) -> Result<Conversation> {
        let (_, rows) = self.in_conversation(who, id, Action::Read, &[(ONE, &[&id])]).await?;
        conversation(rows[0].first().ok_or_else(Error::not_found)?, who)
    }

    /// Whether a person may enter a conversation, and how it stands.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs.
    pub async fn seat(&self, who: &Identity, id: ConversationId, action: Action) -> Result<Seat> {
        Ok(self.in_conversation(who, id, action, &[]).await?.0)
    }

    /// As [`Store::seat`], and what became of the newest messages: all that anybody may still wait for, since
    /// fewer may be open at once.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs.
    pub async fn standing(&self, who: &Identity, id: ConversationId) -> Result<(Seat, Vec<(i64, Turn)>)> {
        let (seat, rows) = self.in_conversation(who, id, Action::Stay, &[(RECENT_TURNS, &[&id])]).await?;
        let turn = |row: &Row| {
            let (id, state, code) = (column(row, "id")?, word(row, "state")?, optional_code(row)?);
            Ok((column(row, "seq")?, Turn { id, state, code }))
        };
        Ok((seat, rows[0].iter().map(turn).collect::<Result<_>>()?))
    }

    /// How far the conversations of a tenant are, for a hub that holds them; those that are gone are left out.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn progress(&self, tenant: TenantId, ids: &[ConversationId]) -> Result<Vec<Progress>> {
        let rows = self.run(Scope::Tenant(tenant), &[(PROGRESS, &[&ids])]).await?;
        let progress = |row: &Row| {
            let (id, epoch, last_seq) = (column(row, "id")?, column(row, "epoch")?, column(row, "last_seq")?);
            Ok(Progress { id, epoch, last_seq, open: column(row, "open")? })
        };
        rows[0].iter().map(progress).collect()
    }

    /// Deletes the messages of a conversation and stops its open turns. `seq` goes on; a reply that is still being
    /// made finds its epoch gone. The agent answers again, if a person did.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs.
    pub async fn reset_conversation(&self, who: &Identity, id: ConversationId) -> Result<(Seat, Reset)> {
        let audit = AuditId::new();
        let work: [super::Step<'_>; 5] = [
            (LOCK, &[&id]),
            (STILL_IN, &[&who.user_id, &id]),
            (STOP_TURNS, &[&id]),
            (DELETE_MESSAGES, &[&id]),
            (RAISE_EPOCH, &[&id, &audit, &who.user_id]),
        ];
        let (seat, rows) = self.in_conversation(who, id, Action::Reset, &work).await?;
        let row = rows[4].first().ok_or_else(Error::not_found)?;
        let stopped = rows[2].iter().map(|row| column(row, "id")).collect::<Result<_>>()?;
        let (epoch, agent, handed_back) =
            (column(row, "epoch")?, column(row, "agent_id")?, column(row, "handed_back")?);
        Ok((seat, Reset { epoch, stopped, agent, handed_back }))
    }
}

/// The conversation of a row, as `who` sees it.
pub(super) fn conversation(row: &Row, who: &Identity) -> Result<Conversation> {
    let status = word(row, "status")?;
    let own = column::<UserId>(row, "user_id")? == who.user_id;
    Ok(Conversation {
        id: column(row, "id")?,
        tenant_id: column(row, "tenant_id")?,
        agent_id: column(row, "agent_id")?,
        agent_name: column(row, "agent_name")?,
        created_at: moment(row, "created_at")?,
        updated_at: moment(row, "updated_at")?,
        last_message_preview: column(row, "last_message_preview")?,
        status,
        epoch: column(row, "epoch")?,
        last_seq: column(row, "last_seq")?,
        title: column(row, "title")?,
        archived_at: optional_moment(row, "archived_at")?,
        read_seq: column(row, "read_seq")?,
        unread: if own { Some(column(row, "unread")?) } else { None },
        escalation: match status {
            Status::Agent => None,
            Status::Escalated => Some(escalation(row)?),
        },
    })
}

fn escalation(row: &Row) -> Result<Escalation> {
    Ok(Escalation {
        since: moment(row, "escalated_at")?,
        reason: column::<Option<String>>(row, "escalation_reason")?.unwrap_or_default(),
        by: column(row, "escalated_by")?,
        taken_by: column(row, "taken_by")?,
        user_id: column(row, "user_id")?,
        user_name: column(row, "user_name")?,
        transcript: super::escalations::lines(column(row, "transcript")?)?,
    })
}
