//! What a person makes of their own conversations, and nobody else for them: what one is called, whether it is in sight,
//! how far it was read, what a reply was worth. None of it moves a conversation up in the list.

use tokio_postgres::Row;

use super::{
    LOCK, Scope, Store,
    claim::Claim,
    column,
    conversations::{ONE, conversation},
    door::Seat,
    messages::feedback,
    script::Step,
};
use crate::{
    conversation::{Conversation, Feedback, Rating},
    error::{Code, Error, Result},
    ids::{ConversationId, MessageId},
    text::{Text, Title},
    token::Identity,
};

/// What to change of a conversation; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Change {
    /// What it is called from now on; `Some(None)` takes the title away.
    pub title: Option<Option<Title>>,
    /// Whether it is put away.
    pub archived: Option<bool>,
}

/// How far a conversation was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// Up to this `seq`.
    pub read_seq: i64,
    /// Replies behind it, counted up to 100.
    pub unread: i64,
    /// The mark has moved by this.
    pub moved: bool,
}

/// A title that was kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Titled {
    /// The conversation is put away.
    pub archived: bool,
}

/// `$1` conversation, `$2` whether the title changes, `$3` title, `$4` archived.
const CHANGE: &str = "
    update web_conversations
    set title = case when $2 then $3 else title end,
        title_seq = case when $2 then null else title_seq end,
        archived_at = case $4::bool when true then coalesce(archived_at, clock_timestamp()) when false then null else archived_at end
    where id = $1 and tenant_id = app_tenant()";

/// `$1` conversation, `$2` seq.
const READ: &str = "
    update web_conversations set read_seq = least($2, last_seq)
    where id = $1 and tenant_id = app_tenant() and read_seq < least($2, last_seq) returning 1";

/// `$1` conversation, `$2` message, `$3` rating, `$4` comment. No row: no such reply.
const RATE: &str = "
    update web_conversation_messages
    set rating = $3, rating_comment = $4, rated_at = case when $3::text is not null then clock_timestamp() end
    where id = $2 and conversation_id = $1 and tenant_id = app_tenant() and role = 'assistant'
    returning rating, rating_comment, rated_at";

/// `$1` conversation, `$2` epoch, `$3` title, `$4` the message that it was made from. Only while nobody has said what it is
/// about, and while that message is there.
const TITLE: &str = "
    update web_conversations set title = $3, title_seq = $4
    where id = $1 and tenant_id = app_tenant() and epoch = $2 and title is null and expired_seq < $4
    returning archived_at is not null as archived";

impl Store {
    /// Changes what a conversation is called, or whether its owner wants to see it. In one round trip.
    ///
    /// # Errors
    /// [`Code::NotFound`] where it is absent or not theirs; [`Code::Forbidden`] for somebody else who may be in it.
    pub async fn change_conversation(
        &self,
        who: &Identity,
        id: ConversationId,
        change: &Change,
    ) -> Result<(Seat, Conversation)> {
        let (titled, title) = (change.title.is_some(), change.title.as_ref().and_then(Option::as_ref));
        let title = title.map(Title::as_str);
        let work: [Step<'_>; 2] = [(CHANGE, &[&id, &titled, &title, &change.archived]), (ONE, &[&id])];
        let (seat, rows) = self.in_own_conversation(who, id, &work).await?;
        Ok((seat, conversation(rows[1].first().ok_or_else(Error::not_found)?, who)?))
    }

    /// Marks a conversation as read up to a place; a mark never goes back, and never past its newest message. In one round
    /// trip.
    ///
    /// # Errors
    /// As [`Store::change_conversation`].
    pub async fn mark_read(&self, who: &Identity, id: ConversationId, seq: i64) -> Result<(Seat, ReadState)> {
        let work: [Step<'_>; 2] = [(READ, &[&id, &seq]), (ONE, &[&id])];
        let (seat, rows) = self.in_own_conversation(who, id, &work).await?;
        let row = rows[1].first().ok_or_else(Error::not_found)?;
        let (read_seq, unread) = (column(row, "read_seq")?, column(row, "unread")?);
        Ok((seat, ReadState { read_seq, unread, moved: !rows[0].is_empty() }))
    }

    /// Keeps what a conversation's owner thinks of a reply, instead of what they thought before; `None` takes it back. In
    /// one round trip.
    ///
    /// # Errors
    /// As [`Store::change_conversation`]; [`Code::NotFound`] also for what is no reply of this conversation.
    pub async fn rate(
        &self,
        who: &Identity,
        id: ConversationId,
        reply: MessageId,
        rating: Option<(Rating, Option<&Text>)>,
    ) -> Result<Option<Feedback>> {
        let word = rating.map(|(rating, _)| rating.as_str());
        let comment = rating.and_then(|(_, comment)| comment).map(Text::as_str);
        // A reset deletes behind the lock; a reply that it takes is not rated after it.
        let work: [Step<'_>; 2] = [(LOCK, &[&id]), (RATE, &[&id, &reply, &word, &comment])];
        let (_, rows) = self.in_own_conversation(who, id, &work).await?;
        let row: &Row = rows[1]
            .first()
            .ok_or_else(|| Error::new(Code::NotFound, "There is no such reply in this conversation."))?;
        feedback(row)
    }

    /// Keeps what a model says that a conversation is about, made from the claimed turn; `None` if it was not kept: somebody
    /// has said so before, or what it was made from is gone.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not confirm.
    pub async fn entitle(&self, claim: &Claim, title: &Title) -> Result<Option<Titled>> {
        let Claim { conversation, epoch, seq, .. } = claim;
        let work: [Step<'_>; 1] = [(TITLE, &[conversation, epoch, &title.as_str(), seq])];
        let rows = self.run(Scope::Tenant(claim.tenant), &work).await?;
        rows[0].first().map(|row| Ok(Titled { archived: column(row, "archived")? })).transpose()
    }
}
