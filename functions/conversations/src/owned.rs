//! What a person makes of their own conversations: what one is called, whether it is in sight, how far it was read, and
//! what a reply was worth. Nobody else does that for them: who may be in it otherwise is told 403.

use axum::extract::State;
use chat_core::{
    Error,
    conversation::{Conversation, Feedback, Rating},
    event::ServerFrame,
    ids::{ConversationId, MessageId, TenantId},
    keys::webchat_response_key,
    store::owned::Change,
    text::{Text, Title},
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    Api, HINT_TIMEOUT,
    error::Problem,
    extract::{Bearer, InPath, Json, WithinPath, given, present, whole},
    paging::seq,
};

/// Longest comment on a reply, in Unicode code points.
const COMMENT_CHARS: usize = 2_000;

/// What to change of a conversation; what is absent stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Patch {
    /// What it is called; `null` takes the title away, and the agent's model may give it another.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>, min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f\ufffe\uffff]*[^\x00-\x1f\x7f-\x9f\ufffe\uffff\s][^\x00-\x1f\x7f-\x9f\ufffe\uffff]*$")]
    title: Option<Option<String>>,
    /// Whether it is put away.
    #[serde(default, deserialize_with = "present")]
    #[schema(nullable = false)]
    archived: Option<bool>,
}

/// `PATCH /conversations/{id}`: changes what it is called, and whether it is put away. A conversation that is put away comes back
/// with the next message in it.
///
/// # Errors
/// 400 for a bad body; 403 for whoever may be in it and is not its owner; 404 where it is absent or not theirs, alike; 429
/// for too many writes.
#[utoipa::path(
    patch,
    path = "/conversations/{conversation_id}",
    operation_id = "change_conversation",
    tag = "conversations",
    request_body = Patch,
    responses((status = 200, description = "The conversation as it is now.", body = Conversation))
)]
pub async fn change(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
    Json(body): Json<Patch>,
) -> Result<Json<Conversation>, Problem> {
    let title = body.title.map(|title| title.as_deref().map(Title::parse).transpose()).transpose()?;
    let change = Change { title, archived: body.archived };
    if change == Change::default() {
        return Err(Error::field("body", "names nothing to change: neither `title` nor `archived`").into());
    }
    api.leave(&who, id).await?;
    let (seat, conversation) = api.store.change_conversation(&who, id, &change).await?;
    let frame = ServerFrame::Conversation {
        conversation_id: id,
        title: conversation.title.clone(),
        archived: conversation.archived_at.is_some(),
    };
    tell(&api, seat.tenant(), id, frame).await;
    Ok(Json(conversation))
}

/// How far somebody has read.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Up to this `seq`.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    seq: i64,
}

/// How far a conversation was read.
#[derive(Serialize, ToSchema)]
pub struct Marked {
    /// Up to this `seq`.
    read_seq: i64,
    /// Replies behind it, counted up to 100.
    unread: i64,
}

/// `PUT /conversations/{id}/read`: marks it as read up to a place. A mark never goes back, and never past the newest message;
/// the owner's other devices hear of it.
///
/// # Errors
/// 400 for a bad body; 403 for whoever may be in it and is not its owner; 404 where it is absent or not theirs, alike.
#[utoipa::path(
    put,
    path = "/conversations/{conversation_id}/read",
    operation_id = "mark_conversation_read",
    tag = "conversations",
    request_body = Mark,
    responses((status = 200, description = "How far it was read.", body = Marked))
)]
pub async fn read(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
    Json(body): Json<Mark>,
) -> Result<Json<Marked>, Problem> {
    let (seat, state) = api.store.mark_read(&who, id, seq("seq", body.seq)?).await?;
    if state.moved {
        tell(&api, seat.tenant(), id, ServerFrame::Read { conversation_id: id, seq: state.read_seq }).await;
    }
    Ok(Json(Marked { read_seq: state.read_seq, unread: state.unread }))
}

/// What somebody thinks of a reply.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Opinion {
    /// Whether it was of use.
    rating: Rating,
    /// Why.
    #[schema(
        min_length = 1,
        max_length = 2_000,
        pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]*[^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\s][^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]*$"
    )]
    comment: Option<String>,
}

/// `PUT /conversations/{id}/messages/{message_id}/feedback`: keeps a thumb up or down for a reply, with a comment, instead of what
/// was there.
///
/// # Errors
/// 400 for a bad body; 403 for whoever may be in it and is not its owner; 404 where it is absent or not theirs, alike, and for
/// what is no reply in it; 429 for too many writes.
#[utoipa::path(
    put,
    path = "/conversations/{conversation_id}/messages/{message_id}/feedback",
    operation_id = "rate_reply",
    tag = "messages",
    request_body = Opinion,
    responses((status = 200, description = "What is kept.", body = Feedback))
)]
pub async fn rate(
    State(api): State<Api>,
    Bearer(who): Bearer,
    WithinPath(id, reply): WithinPath<MessageId>,
    Json(body): Json<Opinion>,
) -> Result<Json<Feedback>, Problem> {
    let comment = body.comment.map(|comment| Text::parse(comment, COMMENT_CHARS)).transpose();
    let comment = comment.map_err(|error| Error::field("comment", error.public().to_owned()))?;
    api.leave(&who, id).await?;
    let rated = api.store.rate(&who, id, reply, Some((body.rating, comment.as_ref()))).await?;
    Ok(Json(rated.ok_or_else(|| Error::internal("a rating was kept and is not there"))?))
}

/// `DELETE /conversations/{id}/messages/{message_id}/feedback`: takes it back.
///
/// # Errors
/// 403 for whoever may be in it and is not its owner; 404 where it is absent or not theirs, alike, and for what is no reply in
/// it; 429 for too many writes.
#[utoipa::path(
    delete,
    path = "/conversations/{conversation_id}/messages/{message_id}/feedback",
    operation_id = "unrate_reply",
    tag = "messages",
    responses((status = 204, description = "There is none now."))
)]
pub async fn unrate(
    State(api): State<Api>,
    Bearer(who): Bearer,
    WithinPath(id, reply): WithinPath<MessageId>,
) -> Result<StatusCode, Problem> {
    api.leave(&who, id).await?;
    api.store.rate(&who, id, reply, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tells the conversation's sockets. What they do not hear they find when they come back.
async fn tell(api: &Api, tenant: TenantId, id: ConversationId, frame: ServerFrame) {
    let news = [(webchat_response_key(tenant, id), frame)];
    let told = timeout(HINT_TIMEOUT, api.publisher.publish_all(&news)).await;
    if let Err(error) = told.unwrap_or_else(|late| Err(Error::unavailable(late))) {
        warn!(conversation.id = %id, ?error, "not told; the owner's other devices find it when they look");
    }
}
