//! Messages: accepted, paged, caught up on.

use tokio_postgres::Row;

use super::{
    LOCK, Store, column,
    conversations::{ONE, conversation},
    door::{Action, Seat},
    moment, optional_code, optional_moment, optional_word,
    script::Step,
    word,
};
use crate::{
    conversation::{Author, Conversation, Feedback, Message, Turn, TurnState},
    error::{Code, Error, Result},
    ids::{AuditId, ClientMessageId, ConversationId, MessageId},
    job::Job,
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};

/// What became of a message that somebody sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// Its id, which is the turn's too.
    pub id: MessageId,
    /// Its place in the conversation.
    pub seq: i64,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// Where it was accepted before: what became of it.
    pub earlier: Option<Earlier>,
    /// It is a person's answer in the agent's stead, just stored: no agent is asked, and its turn has ended.
    pub in_stead: bool,
}

impl Accepted {
    /// The message as the conversation's other sockets see it.
    #[must_use]
    pub fn message(&self, seat: &Seat, text: Text) -> Message {
        let author = seat.member.caller.user_id;
        let turn = Turn { id: self.id.into(), state: TurnState::Queued, code: None };
        Message {
            id: self.id,
            seq: self.seq,
            role: if self.in_stead { Author::Assistant } else { Author::User },
            content: text.into_string(),
            created_at: self.created_at,
            reply_to: None,
            author_id: (author != seat.owner).then_some(author),
            turn: (!self.in_stead).then_some(turn),
            feedback: None,
        }
    }

    /// Whether its turn still waits for a worker, so that hints are of use.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.in_stead && self.earlier.as_ref().is_none_or(|earlier| earlier.turn.state == TurnState::Queued)
    }

    /// Whether the conversation's sockets are to hear of it. Again for a repeat whose turn still waits: the first time may
    /// have ended before they did.
    #[must_use]
    pub fn is_news(&self) -> bool {
        self.in_stead || self.waits()
    }

    /// The hint that its turn waits.
    #[must_use]
    pub fn job(&self, seat: &Seat) -> Job {
        Job::web(seat.tenant(), seat.conversation, seat.owner, self.id.into())
    }
}

/// What became of a message that had been accepted before.
#[derive(Debug, Clone, PartialEq)]
pub struct Earlier {
    /// Its turn.
    pub turn: Turn,
    /// The reply, if it is stored.
    pub reply: Option<MessageId>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// At this place.
    Seq(i64),
    /// At this message.
    Id(MessageId),
}

/// Which page of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// The newest messages.
    Newest,
    /// Those before a message.
    Before(Position),
    /// Those after a message.
    After(Position),
}

/// `$1` conversation, `$2` the client's id, `$3` new id, `$4` text, `$5` author, `$6` most turns waiting, `$7` and `$8`
/// audit rows. Runs behind the lock, so `earlier`, `room` and who answers are exact and a repeat uses up no number.
///
/// What somebody else than its owner says in a conversation that a person answers is that answer: it stands in the agent's
/// stead, its turn is born ended, and its author has taken the conversation, unless somebody had. Otherwise only a
/// platform_admin says something in another's conversation.
///
/// No row: no room, or it was handed back between the door and the lock. A row with `same` false: the client's id came
/// before with another text.
const ACCEPT: &str = "
    with earlier as materialized (
      select id, seq, state, code, created_at, text_sha256 = sha256(convert_to($4, 'UTF8')) as same
      from turns where conversation_id = $1 and client_message_id = $2 and tenant_id = app_tenant()
    ), conv as (
      update web_conversations
      set last_seq = last_seq + 1, updated_at = clock_timestamp(), archived_at = null,
          read_seq = case when user_id = $5 then last_seq + 1 else read_seq end,
          taken_by = case when status = 'agent' or user_id = $5 then taken_by else coalesce(taken_by, $5) end,
          taken_at = case when status = 'agent' or user_id = $5 then taken_at else coalesce(taken_at, now()) end,
          answered_at = case when status = 'agent' or user_id = $5 then answered_at else coalesce(answered_at, now()) end,
          tell_at = case when status = 'agent' or user_id = $5 then tell_at end
      where id = $1 and tenant_id = app_tenant() and not exists (select from earlier)
        and case when user_id = $5 then true when status = 'escalated' then true
                 else exists (select from portal_users u where u.id = $5 and u.role = 'platform_admin') end
        and ((status = 'escalated' and user_id <> $5)
             or $6 > (select count(*) from turns where conversation_id = $1 and state = 'queued'))
      returning id, tenant_id, user_id, last_seq, epoch, status = 'escalated' and user_id <> $5 as in_stead,
                taken_at = now() as took
    ), message as (
      insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content, author_id)
      select $3, id, tenant_id, last_seq, epoch, case when in_stead then 'assistant' else 'user' end, $4,
             nullif($5::uuid, user_id) from conv
      returning id, seq, created_at, role = 'assistant' as in_stead
    ), turn as (
      insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, client_message_id, text_sha256, state, ended_at)
      select $3, tenant_id, id, user_id, last_seq, epoch, $2, sha256(convert_to($4, 'UTF8')),
             case when in_stead then 'escalated' else 'queued' end, case when in_stead then clock_timestamp() end from conv
    ), audit as (
      insert into audit_events (id, tenant_id, actor_id, action, subject_id)
      select $7::uuid, tenant_id, $5::uuid, 'conversation.answered', id from conv where in_stead
      union all
      select $8, tenant_id, $5, 'conversation.taken_over', id from conv where in_stead and took
    )
    select id, seq, created_at, null as state, null as code, true as same, null::uuid as reply, in_stead from message
    union all
    select id, seq, created_at, state, code, same,
           (select m.id from web_conversation_messages m where m.reply_to = earlier.id), false from earlier";

macro_rules! page {
    ($rest:literal) => {
        concat!(
            "select m.id, m.seq, m.role, m.content, m.created_at, m.reply_to, m.author_id, t.state, t.code,
                    m.rating, m.rating_comment, m.rated_at
             from web_conversation_messages m
             left join turns t on t.id = m.id and t.tenant_id = app_tenant() and m.role = 'user'
             where m.conversation_id = $1 and m.tenant_id = app_tenant() and ",
            $rest
        )
    };
}

/// The place stands alone in its condition: behind policies a `coalesce` around it would not reach the index, and the
/// page would cost what the whole conversation does. So it would if the turns were asked for by their conversation, which
/// is cheaper where conversations are short. `$2` place, `$3` most.
const BEFORE: &str = page!("m.seq < $2 order by m.seq desc limit $3");
const AFTER: &str = page!("m.seq > $2 order by m.seq limit $3");
const BEFORE_ID: &str = page!(
    "m.seq < (select x.seq from web_conversation_messages x where x.id = $2 and x.conversation_id = $1)
     order by m.seq desc limit $3"
);
const AFTER_ID: &str = page!(
    "m.seq > (select x.seq from web_conversation_messages x where x.id = $2 and x.conversation_id = $1)
     order by m.seq limit $3"
);

const STANDS: &str =
    "select 1 from web_conversation_messages where id = $2 and conversation_id = $1 and tenant_id = app_tenant()";

impl Store {
    /// Stores a message and its turn, or finds what became of it when it came before. In one round trip.
    ///
    /// Once this returns `Ok`, the message cannot be lost: its turn is `queued`, and whoever looks finds it. An admin's
    /// message in a conversation that a person answers is an answer: no turn of it waits.
    ///
    /// # Errors
    /// [`Code::NotFound`] where the conversation is absent or not theirs; [`Code::IdempotencyMismatch`] if the same
    /// client id came before with another text; [`Code::Busy`] if `queued_turns` wait already;
    /// [`Code::Unavailable`] if Postgres did not confirm, then the same message with the same id may be sent again.
    pub async fn accept(
        &self,
        who: &Identity,
        conversation: ConversationId,
        text: &Text,
        client_message_id: Option<ClientMessageId>,
        queued_turns: i64,
    ) -> Result<(Seat, Accepted)> {
        let (id, text) = (MessageId::new(), text.as_str());
        let audit = [AuditId::new(), AuditId::new()];
        let work: [Step<'_>; 2] = [
            (LOCK, &[&conversation]),
            (
                ACCEPT,
                &[&conversation, &client_message_id, &id, &text, &who.user_id, &queued_turns, &audit[0], &audit[1]],
            ),
        ];
        let (seat, rows) = self.in_conversation(who, conversation, Action::Write, &work).await?;
        let Some(row) = rows[1].first() else {
            // Whoever the door does not let in any more was refused for that.
            self.seat(who, conversation, Action::Stay).await?;
            return Err(Error::new(Code::Busy, "Too many messages wait for the agent already; try again shortly."));
        };
        if !column::<bool>(row, "same")? {
            return Err(Error::new(Code::IdempotencyMismatch, "This id was used before with another text."));
        }
        let id = column(row, "id")?;
        let earlier = optional_word(row, "state")?
            .map(|state| {
                let turn = Turn { id: MessageId::into(id), state, code: optional_code(row)? };
                Ok::<_, Error>(Earlier { turn, reply: column(row, "reply")? })
            })
            .transpose()?;
        let (seq, created_at) = (column(row, "seq")?, moment(row, "created_at")?);
        Ok((seat, Accepted { id, seq, created_at, earlier, in_stead: column(row, "in_stead")? }))
    }

    /// A page of at most `limit` messages, ascending, and whether there are more beyond it. In one round trip, at a
    /// cost that does not grow with the conversation.
    ///
    /// # Errors
    /// [`Code::NotFound`] where the conversation is absent or not theirs; [`Code::Invalid`] if the page begins at a
    /// message that this conversation does not have (any more).
    pub async fn messages(
        &self,
        who: &Identity,
        conversation: ConversationId,
        page: Page,
        limit: i64,
        action: Action,
    ) -> Result<(Seat, Vec<Message>, bool)> {
        let (position, field) = match page {
            Page::Newest => (Position::Seq(i64::MAX), "before"),
            Page::Before(position) => (position, "before"),
            Page::After(position) => (position, "after"),
        };
        let (by_seq, by_id) = match page {
            Page::After(_) => (AFTER, AFTER_ID),
            Page::Newest | Page::Before(_) => (BEFORE, BEFORE_ID),
        };
        let one_more = limit + 1;
        let (seat, rows) = match position {
            Position::Seq(seq) => {
                let work: [Step<'_>; 1] = [(by_seq, &[&conversation, &seq, &one_more])];
                self.in_conversation(who, conversation, action, &work).await?
            }
            Position::Id(id) => {
                let work: [Step<'_>; 2] = [(by_id, &[&conversation, &id, &one_more]), (STANDS, &[&conversation, &id])];
                self.in_conversation(who, conversation, action, &work).await?
            }
        };
        if rows.get(1).is_some_and(Vec::is_empty) {
            return Err(Error::field(field, "names no message of this conversation"));
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut messages = rows[0].iter().take(limit).map(message).collect::<Result<Vec<_>>>()?;
        if !matches!(page, Page::After(_)) {
            messages.reverse();
        }
        Ok((seat, messages, rows[0].len() > limit))
    }

    /// A conversation with what was said in it after a place, at most `limit` messages, and whether there are more. In one
    /// round trip.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs.
    pub async fn export(
        &self,
        who: &Identity,
        id: ConversationId,
        after: i64,
        limit: i64,
    ) -> Result<(Conversation, Vec<Message>, bool)> {
        let one_more = limit + 1;
        let work: [Step<'_>; 2] = [(AFTER, &[&id, &after, &one_more]), (ONE, &[&id])];
        let (_, rows) = self.in_conversation(who, id, Action::Export, &work).await?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let messages = rows[0].iter().take(limit).map(message).collect::<Result<_>>()?;
        let conversation = conversation(rows[1].first().ok_or_else(Error::not_found)?, who)?;
        Ok((conversation, messages, rows[0].len() > limit))
    }
}

fn message(row: &Row) -> Result<Message> {
    let id: MessageId = column(row, "id")?;
    let turn = match optional_word::<TurnState>(row, "state")? {
        Some(state) => Some(Turn { id: id.into(), state, code: optional_code(row)? }),
        None => None,
    };
    Ok(Message {
        id,
        seq: column(row, "seq")?,
        role: word::<Author>(row, "role")?,
        content: column(row, "content")?,
        created_at: moment(row, "created_at")?,
        reply_to: column(row, "reply_to")?,
        author_id: column(row, "author_id")?,
        turn,
        feedback: feedback(row)?,
    })
}

/// What the owner thinks of a message, by its row.
pub(super) fn feedback(row: &Row) -> Result<Option<Feedback>> {
    let (Some(rating), Some(rated_at)) = (optional_word(row, "rating")?, optional_moment(row, "rated_at")?) else {
        return Ok(None);
    };
    Ok(Some(Feedback { rating, comment: column(row, "rating_comment")?, rated_at }))
}
