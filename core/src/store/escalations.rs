//! Escalation: a conversation goes from its agent to a person, and back.
//!
//! What decides is the conversation's `status`, behind its lock: a reply that is still being made, a message and a
//! person's answer each look at it there. Each change leaves a row in `audit_events`, in the same transaction.

use tokio_postgres::Row;

use super::{
    LOCK, Scope, Store,
    claim::Claim,
    column,
    conversations::{ONE, conversation},
    door::{Action, Seat},
    script::Step,
    turns::{NEXT, next},
};
use crate::{
    caller::{Role, require_tenant_admin},
    conversation::{Conversation, Line},
    error::{Code, Error, Result},
    ids::{AuditId, ConversationId, TurnId},
    job::Job,
    token::Identity,
};

/// What the columns of a conversation are when its agent answers (again). Rules count from here on.
macro_rules! agents_again {
    () => {
        "status = 'agent', escalated_at = null, escalation_reason = null, escalated_by = null, taken_by = null,
         taken_at = null, answered_at = null, tell_at = null, tell_hinted_at = null, told = 0,
         rules_count_from = last_seq"
    };
}
pub(super) use agents_again;

/// The last of what was said in conversation `c`, as JSON: at most 30 lines and 3,000 characters, oldest first.
macro_rules! transcript {
    () => {
        "(select json_agg(json_build_object('seq', l.seq, 'role', l.role, 'author_id', l.author_id,
                   'content', left(l.content, 3000 - l.after), 'created_at', l.created_at) order by l.seq)::text
          from (select x.*, coalesce(sum(length(x.content)) over
                         (order by x.seq desc rows between unbounded preceding and 1 preceding), 0)::int as after
                from (select m.seq, m.role, m.author_id, m.content, m.created_at from web_conversation_messages m
                      where m.conversation_id = c.id and m.tenant_id = c.tenant_id order by m.seq desc limit 30) x) l
          where l.after < 3000)"
    };
}
pub(super) use transcript;

/// What a takeover did.
#[derive(Debug)]
pub struct TakenOver {
    /// The conversation as it stands now.
    pub conversation: Conversation,
    /// The turns that ended with it, as `escalated`.
    pub ended: Vec<TurnId>,
}

/// `$1` conversation, `$2` turn, `$3` attempt, `$4` reason, `$5` audit row. Runs behind the lock.
/// No row: another attempt, another epoch, a person has taken over, or the turn has ended.
/// Who wants to be told outside is told as soon as somebody looks.
const ESCALATE: &str = "
    with done as (
      update turns t set state = 'escalated', lease_until = null, ended_at = clock_timestamp()
      from web_conversations c
      where t.conversation_id = $1 and t.id = $2 and t.attempt = $3 and t.state = 'running' and t.tenant_id = app_tenant()
        and c.id = $1 and c.epoch = t.epoch and c.status = 'agent'
      returning t.id, t.tenant_id, t.user_id
    ), conv as (
      update web_conversations w
      set status = 'escalated', escalated_at = clock_timestamp(), escalation_reason = $4, updated_at = clock_timestamp(),
          tell_at = (select clock_timestamp() from escalation_notices n where n.tenant_id = app_tenant())
      from done where w.id = $1
    ), audit as (
      insert into audit_events (id, tenant_id, actor_id, action, subject_id, detail)
      select $5, done.tenant_id, done.user_id, 'conversation.escalated', $1, jsonb_build_object('reason', $4::text) from done
    )
    select 1 from done";

/// Up to its own message, the user's messages of a turn's epoch that rules count. `$1` conversation, `$2` turn.
macro_rules! counted {
    ($columns:literal, $rest:literal) => {
        concat!(
            "select ",
            $columns,
            " from turns t join web_conversations c on c.id = t.conversation_id
             join web_conversation_messages m on m.conversation_id = c.id
             where t.id = $2 and t.conversation_id = $1 and t.tenant_id = app_tenant()
               and m.conversation_id = $1 and m.tenant_id = app_tenant() and m.role = 'user'
               and m.epoch = t.epoch and m.seq <= t.seq and m.seq > c.rules_count_from ",
            $rest
        )
    };
}

/// `$3` most to count.
const COUNT: &str = concat!("select count(*) from (", counted!("1", "limit $3"), ") counted");

/// `$3` only those before this seq, `$4` most.
const SAID: &str = counted!("m.seq, m.content", "and m.seq < $3 order by m.seq desc limit $4");

/// The conversation as it was before the rest of the statement, if `$2` may act on it for the company: its
/// customer_admin while a person is wanted, or a platform_admin.
macro_rules! for_admins {
    ($rest:expr) => {
        concat!(
            "with was as materialized (
               select c.id, c.tenant_id, c.status, c.taken_by from web_conversations c
               where c.id = $1 and c.tenant_id = app_tenant()
                 and (select u.role = 'platform_admin'
                          or (c.status = 'escalated' and u.role = 'customer_admin' and exists (
                                select from user_tenant_roles m
                                where m.user_id = u.id and m.tenant_id = app_tenant() and m.role = 'customer_admin'))
                      from portal_users u where u.id = $2)
             ), ",
            $rest
        )
    };
}

/// `$1` conversation, `$2` who takes it, `$3` and `$4` audit rows. Runs behind the lock. No row: they may not.
/// A person who takes it knows of it, so nobody else is told for the first time.
const TAKE_OVER: &str = for_admins!(
    "taken as (
       update web_conversations w
       set status = 'escalated', escalated_at = coalesce(w.escalated_at, clock_timestamp()),
           escalation_reason = coalesce(w.escalation_reason, 'taken over'),
           escalated_by = case was.status when 'agent' then $2::uuid else w.escalated_by end,
           taken_by = $2, taken_at = clock_timestamp(), updated_at = clock_timestamp()
       from was where w.id = was.id and was.taken_by is distinct from $2
     ), audit as (
       insert into audit_events (id, tenant_id, actor_id, action, subject_id)
       select $3::uuid, was.tenant_id, $2::uuid, 'conversation.escalated', was.id from was where was.status = 'agent'
       union all
       select $4, was.tenant_id, $2, 'conversation.taken_over', was.id from was where was.taken_by is distinct from $2
     )
     select 1 from was"
);

/// `$1` conversation, `$2` who has taken it. Runs behind the lock, after [`TAKE_OVER`].
const END_TURNS: &str = "
    update turns set state = 'escalated', lease_until = null, ended_at = clock_timestamp()
    where conversation_id = $1 and tenant_id = app_tenant() and state in ('queued', 'running')
      and exists (select from web_conversations c where c.id = $1 and c.status = 'escalated' and c.taken_by = $2)
    returning id";

/// `$1` conversation, `$2` who gives it back, `$3` audit row. Runs behind the lock. No row: they may not, or the agent
/// answers already.
const HAND_BACK: &str = for_admins!(concat!(
    "back as (
       update web_conversations w set updated_at = clock_timestamp(), ",
    agents_again!(),
    " from was where w.id = was.id and was.status = 'escalated' returning w.id, w.tenant_id
     ), audit as (
       insert into audit_events (id, tenant_id, actor_id, action, subject_id)
       select $3, back.tenant_id, $2, 'conversation.handed_back', back.id from back
     )
     select 1 from back"
));

impl Store {
    /// Hands a conversation to a person and ends the claimed turn as `escalated`, if it is still ours; returns whether it
    /// was, and the hint for the next turn. In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm.
    pub async fn escalate(&self, claim: &Claim, reason: &str) -> Result<(bool, Option<Job>)> {
        let (conversation, audit) = (claim.conversation, AuditId::new());
        let work: [Step<'_>; 3] = [
            (LOCK, &[&conversation]),
            (ESCALATE, &[&conversation, &claim.turn, &claim.attempt, &reason, &audit]),
            (NEXT, &[&conversation]),
        ];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        Ok((!rows[1].is_empty(), next(claim.tenant, conversation, &rows[2])?))
    }

    /// How many messages of the user rules count for a claimed turn, its own included; at most `most`.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn messages_counted(&self, claim: &Claim, most: i64) -> Result<i64> {
        let work: [Step<'_>; 1] = [(COUNT, &[&claim.conversation, &claim.turn, &most])];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        rows[0].first().map_or(Ok(0), |row| column(row, "count"))
    }

    /// The messages that [`Store::messages_counted`] counts, with their `seq`: newest first, those before `below`, at
    /// most `most`.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn messages_said(&self, claim: &Claim, below: i64, most: i64) -> Result<Vec<(i64, String)>> {
        let work: [Step<'_>; 1] = [(SAID, &[&claim.conversation, &claim.turn, &below, &most])];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        rows[0].iter().map(|row| Ok((column(row, "seq")?, column(row, "content")?))).collect()
    }

    /// An admin takes a conversation: from the waiting line, from another admin, or (a platform_admin) from the agent,
    /// whose open turns end. Taking what one has already changes nothing. In one round trip.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs; [`Code::Forbidden`] for its owner, unless they are an admin
    /// and it waits for one.
    pub async fn take_over(&self, who: &Identity, id: ConversationId) -> Result<(Seat, TakenOver)> {
        let (escalated, taken) = (AuditId::new(), AuditId::new());
        let work: [Step<'_>; 4] = [
            (LOCK, &[&id]),
            (TAKE_OVER, &[&id, &who.user_id, &escalated, &taken]),
            (END_TURNS, &[&id, &who.user_id]),
            (ONE, &[&id]),
        ];
        let (seat, rows) = self.in_conversation(who, id, Action::TakeOver, &work).await?;
        if rows[1].is_empty() {
            return Err(refusal(&seat));
        }
        let ended = rows[2].iter().map(|row| column(row, "id")).collect::<Result<_>>()?;
        Ok((seat, TakenOver { conversation: one(&rows[3], who)?, ended }))
    }

    /// An admin gives a conversation back to its agent. Where the agent answers already nothing changes. In one round
    /// trip.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs, or was handed back already by somebody who may not look at it
    /// any more; [`Code::Forbidden`] for its owner, unless they are an admin.
    pub async fn hand_back(&self, who: &Identity, id: ConversationId) -> Result<(Seat, Conversation)> {
        let audit = AuditId::new();
        let work: [Step<'_>; 3] = [(LOCK, &[&id]), (HAND_BACK, &[&id, &who.user_id, &audit]), (ONE, &[&id])];
        let (seat, rows) = self.in_conversation(who, id, Action::HandBack, &work).await?;
        if rows[1].is_empty() {
            let admin = require_tenant_admin(seat.member.caller, seat.tenant())?;
            let stays = seat.owner == who.user_id || admin.0.caller.role == Role::PlatformAdmin;
            if !stays {
                return Err(Error::not_found());
            }
        }
        Ok((seat, one(&rows[2], who)?))
    }
}

/// Why somebody inside a conversation may not take it.
fn refusal(seat: &Seat) -> Error {
    match require_tenant_admin(seat.member.caller, seat.tenant()) {
        Err(forbidden) => forbidden,
        Ok(_) if seat.owner == seat.member.caller.user_id => {
            Error::new(Code::Forbidden, "The agent answers here; only what waits for a person can be taken over.")
        }
        // It was handed back between the door and the lock.
        Ok(_) => Error::not_found(),
    }
}

fn one(rows: &[Row], who: &Identity) -> Result<Conversation> {
    conversation(rows.first().ok_or_else(Error::not_found)?, who)
}

/// Reads a transcript.
pub(super) fn lines(json: Option<&str>) -> Result<Option<Vec<Line>>> {
    json.map(|json| serde_json::from_str(json).map_err(Error::internal)).transpose()
}
