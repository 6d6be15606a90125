//! The messages of a conversation: a page of them, and one more.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chat_core::{
    Error, Result,
    conversation::{Message, Origin},
    event::ServerFrame,
    ids::{ClientMessageId, MessageId, TurnId},
    keys::webchat_response_key,
    store::{
        door::{Action, Seat},
        messages::{Accepted, Page, Position},
    },
    text::Text,
};
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use crate::{
    Api, HINT_TIMEOUT,
    error::Problem,
    extract::{Bearer, IdempotencyKey, InPath, Json, Query},
    paging::{Onward, page_size},
};

/// Text of one page at most, in bytes as they go out: well below the 6 MB that Lambda lets a function answer.
/// Source: <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>.
const PAGE_BYTES: usize = 5_000_000;

/// The query of a page.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Entries of the page; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// A message's id, or a `seq`: only what is before it.
    #[param(pattern = r"^([0-9]{1,18}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})$")]
    before: Option<String>,
    /// A message's id, or a `seq`: only what is after it.
    #[param(pattern = r"^([0-9]{1,18}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12})$")]
    after: Option<String>,
}

/// `GET /conversations/{id}/messages`: a page of what was said, ascending; the newest page, or the one before or after a message.
///
/// # Errors
/// 400 for a bad query; 404 where the conversation is absent or not theirs, alike.
#[utoipa::path(
    get,
    path = "/conversations/{conversation_id}/messages",
    operation_id = "list_messages",
    tag = "messages",
    params(PageQuery),
    responses((status = 200, description = "A page of messages, ascending.", body = Vec<Message>, headers(("Link" = String, description = "The next page, as `<…>; rel=\"next\"`; absent on the last."))))
)]
pub async fn page(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let page = match (&query.before, &query.after) {
        (None, None) => Page::Newest,
        (Some(before), None) => Page::Before(position("before", before)?),
        (None, Some(after)) => Page::After(position("after", after)?),
        (Some(_), Some(_)) => return Err(Error::field("after", "cannot be combined with before").into()),
    };
    let (_, mut messages, more) = api.store.messages(&who, id, page, limit, Action::Read).await?;
    let more = trim(&mut messages, page) || more;
    let mut headers = HeaderMap::new();
    let onward = match page {
        Page::After(_) => messages.last().map(|last| ("after", last.seq)),
        Page::Newest | Page::Before(_) => messages.first().map(|first| ("before", first.seq)),
    };
    if let Some(onward) = onward.filter(|_| more) {
        let (name, place) = onward;
        let onward = Onward::at(&format!("/conversations/{id}/messages"));
        headers.insert(header::LINK, onward.with("limit", Some(limit)).with(name, Some(place)).link());
    }
    Ok((headers, Json(messages)).into_response())
}

/// Cuts a page that Lambda would not let out, at its far end, and tells whether it did; one message always stays.
pub(crate) fn trim(messages: &mut Vec<Message>, page: Page) -> bool {
    let mut left = PAGE_BYTES;
    let fits = |message: &&Message| {
        // A quote becomes four bytes on its way through two layers of JSON, and so many has an emoji.
        let bytes = 4 * message.content.chars().count();
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    let whole = messages.len();
    if matches!(page, Page::After(_)) {
        let kept = messages.iter().take_while(fits).count();
        messages.truncate(kept.max(1));
    } else {
        let kept = messages.iter().rev().take_while(fits).count();
        messages.drain(..whole - kept.max(1).min(whole));
    }
    messages.len() < whole
}

/// The body of a message.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Send {
    /// What it says.
    #[schema(
        min_length = 1,
        max_length = 16_000,
        pattern = r"^[^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]*[^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\s][^\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]*$"
    )]
    text: String,
}

/// What a sender learns.
#[derive(Serialize, ToSchema)]
pub struct Sent {
    /// The id it got.
    message_id: MessageId,
    /// Its place in the conversation.
    seq: i64,
    /// The turn that will answer it.
    turn_id: TurnId,
}

/// `POST /conversations/{id}/messages`: says something; 202 once it is stored and cannot be lost. The same key and text again get the
/// same answer. An admin's message in a conversation that a person answers is an answer: its turn has ended already.
///
/// # Errors
/// 400 for a bad body or key; 404 where the conversation is absent or not theirs, alike; 422 for the same key with
/// another text; 429 where too many messages wait, or they come too fast.
#[utoipa::path(
    post,
    path = "/conversations/{conversation_id}/messages",
    operation_id = "send_message",
    tag = "messages",
    params(("Idempotency-Key" = ClientMessageId, Header, description = "An id of your own; the same one again is the same message.")),
    request_body = Send,
    responses((status = 202, description = "It is stored.", body = Sent))
)]
pub async fn send(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
    IdempotencyKey(key): IdempotencyKey,
    Json(body): Json<Send>,
) -> Result<Response, Problem> {
    let text = Text::parse(body.text, api.limits.text_chars)?;
    api.leave(&who, id).await?;
    let (seat, accepted) = api.store.accept(&who, id, &text, Some(key), api.limits.queued_turns).await?;
    let sent = Sent { message_id: accepted.id, seq: accepted.seq, turn_id: accepted.id.into() };
    // Again for a repeat whose turn still waits: the first time may have ended before its hints were given.
    if accepted.is_news() {
        hint(&api, &seat, &accepted, text).await;
    }
    Ok((StatusCode::ACCEPTED, Json(sent)).into_response())
}

/// Tells the conversation's sockets and the orchestrator, side by side. The environment is frozen after the answer,
/// so this waits for both, but not for long.
async fn hint(api: &Api, seat: &Seat, accepted: &Accepted, text: Text) {
    let conversation = seat.conversation;
    let topic = webchat_response_key(seat.tenant(), conversation);
    let typing = ServerFrame::Typing { conversation_id: conversation, origin: Origin::Agent, via: None };
    let news = [(topic.clone(), typing), (topic, accepted.message(seat, text).into_frame(conversation))];
    let jobs: Vec<_> = accepted.waits().then(|| accepted.job(seat)).into_iter().collect();
    let told = async {
        let (published, sent) = tokio::join!(api.publisher.publish_all(&news), api.queue.send(&jobs));
        published.and(sent)
    };
    match tokio::time::timeout(HINT_TIMEOUT, told).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(turn.id = %accepted.id, ?error, "a hint was not taken; the facts stand"),
        Err(_) => warn!(turn.id = %accepted.id, "a hint took too long; the facts stand"),
    }
}

/// Reads a place in a conversation: a `seq` or a message's id.
///
/// # Errors
/// 400 for what is neither.
pub fn position(field: &'static str, text: &str) -> Result<Position> {
    let seq = text.parse().ok().filter(|seq| *seq >= 0).map(Position::Seq);
    seq.or_else(|| text.parse().ok().map(Position::Id))
        .ok_or_else(|| Error::field(field, "is neither a message's id nor a seq"))
}
