//! Conversations: list, open, read, reset.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chat_core::{
    Error, Result,
    conversation::{Conversation, Status, TurnState},
    event::ServerFrame,
    ids::{AgentId, ConversationId, TenantId},
    keys::{escalation_status_key, memory_short_key, webchat_response_key},
    store::conversations::{Listing, Place},
    timestamp::Timestamp,
};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use tracing::warn;
use utoipa::{IntoParams, ToSchema};

use crate::{
    Api, HINT_TIMEOUT,
    error::Problem,
    extract::{Bearer, InPath, Json, Query},
    paging::{Onward, page_size},
};

/// The one status that can be asked for.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Waiting {
    /// A person answers, or is waited for.
    Escalated,
}

/// The query of a list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// The company. A platform_admin may leave it out and gets those of all.
    tenant_id: Option<TenantId>,
    /// Entries of the page; 50 if absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
    /// A place that a `Link` header named.
    #[param(pattern = r"^[0-9]{1,16}\.[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$")]
    before: Option<String>,
    /// Only what waits for a person, or has one.
    #[param(inline)]
    status: Option<Waiting>,
    /// Only those that their owners have put away, or only the others; if absent, all but what one has put away oneself.
    archived: Option<bool>,
}

/// `GET /conversations`: one's own conversations, newest change first. With `status=escalated` a customer_admin's inbox: each with the last of what
/// was said. What one has put away oneself is left out, but for `archived=true`, which lists that alone; `archived=false`
/// leaves out what others have put away, too.
///
/// # Errors
/// 400 for a bad query, or where `tenant_id` is missing for anyone but a platform_admin; 403 for a tenant not theirs.
#[utoipa::path(
    get,
    path = "/conversations",
    operation_id = "list_conversations",
    tag = "conversations",
    params(ListQuery),
    responses((status = 200, description = "A page of conversations.", body = Vec<Conversation>, headers(("Link" = String, description = "The next page, as `<…>; rel=\"next\"`; absent on the last."))))
)]
pub async fn list(
    State(api): State<Api>,
    Bearer(who): Bearer,
    Query(query): Query<ListQuery>,
) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let escalated = query.status.is_some();
    let before = query.before.as_deref().map(place).transpose()?;
    let listing = Listing { tenant: query.tenant_id, escalated, archived: query.archived, before, limit: limit + 1 };
    let mut found = api.store.conversations(&who, listing).await?;
    let more = found.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    let mut headers = HeaderMap::new();
    if more {
        found.pop();
        if let Some(last) = found.last() {
            let before = name(&Place { updated_at: last.updated_at, id: last.id });
            let onward = Onward::at("/conversations")
                .with("tenant_id", query.tenant_id)
                .with("status", escalated.then_some("escalated"))
                .with("archived", query.archived)
                .with("limit", Some(limit))
                .with("before", Some(before));
            headers.insert(header::LINK, onward.link());
        }
    }
    Ok((headers, Json(found)).into_response())
}

/// The body that opens a conversation.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The company.
    tenant_id: TenantId,
    /// One of its AI employees.
    agent_id: AgentId,
}

/// `POST /conversations`: opens the conversation with an agent; 201 if it is new, or 200 with the one that stands.
///
/// # Errors
/// 403 for a non-member; 404 for an agent that is not of that tenant.
#[utoipa::path(
    post,
    path = "/conversations",
    operation_id = "open_conversation",
    tag = "conversations",
    request_body = Open,
    responses(
        (status = 200, description = "The conversation that stands.", body = Conversation),
        (status = 201, description = "The new conversation.", body = Conversation)
    )
)]
pub async fn open(State(api): State<Api>, Bearer(who): Bearer, Json(body): Json<Open>) -> Result<Response, Problem> {
    let (conversation, new) = api.store.open_conversation(&who, body.tenant_id, body.agent_id).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(conversation)).into_response())
}

/// `GET /conversations/{id}`: one conversation.
///
/// # Errors
/// 404 where it is absent or not theirs, alike.
#[utoipa::path(
    get,
    path = "/conversations/{conversation_id}",
    operation_id = "read_conversation",
    tag = "conversations",
    responses((status = 200, description = "The conversation.", body = Conversation))
)]
pub async fn read(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
) -> Result<Json<Conversation>, Problem> {
    Ok(Json(api.store.conversation(&who, id).await?))
}

/// `DELETE /conversations/{id}`: begins anew: the messages go, the row stays. If a person answered, the agent does again.
///
/// # Errors
/// 404 where it is absent or not theirs, alike; 429 for too many writes.
#[utoipa::path(
    delete,
    path = "/conversations/{conversation_id}",
    operation_id = "reset_conversation",
    tag = "conversations",
    responses((status = 204, description = "It is empty."))
)]
pub async fn reset(State(api): State<Api>, Bearer(who): Bearer, InPath(id): InPath) -> Result<StatusCode, Problem> {
    api.leave(&who, id).await?;
    let (seat, reset) = api.store.reset_conversation(&who, id).await?;
    let topic = webchat_response_key(seat.tenant(), id);
    let stopped = reset.stopped.iter().map(|turn| ServerFrame::Turn {
        turn_id: *turn,
        state: TurnState::Stopped,
        code: None,
        message_id: None,
    });
    let by = Some(who.user_id);
    let status = reset.handed_back.then_some(ServerFrame::Status { status: Status::Agent, by });
    let frames = stopped.chain(status).chain([ServerFrame::Reset { epoch: reset.epoch }]);
    let news: Vec<_> = frames.map(|frame| (topic.clone(), frame)).collect();
    let memory = memory_short_key(seat.tenant(), reset.agent, seat.owner);
    let escalation = escalation_status_key(seat.tenant(), &id.to_string());
    let told = async {
        let (published, purged, forgotten) =
            tokio::join!(api.publisher.publish_all(&news), api.publisher.delete(&memory), async {
                if reset.handed_back { api.publisher.delete(&escalation).await } else { Ok(()) }
            },);
        published.and(purged).and(forgotten)
    };
    let told = tokio::time::timeout(HINT_TIMEOUT, told).await.unwrap_or_else(|late| Err(Error::unavailable(late)));
    if let Err(error) = told {
        warn!(conversation.id = %id, ?error, "reset not told; sockets find it in the store, memory by its epoch");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// What a place in the list is called in a Link header: the microseconds of the last change, and whose.
#[must_use]
pub fn name(place: &Place) -> String {
    format!("{}.{}", place.updated_at.unix_micros(), place.id)
}

/// Reads a place in the list back.
///
/// # Errors
/// 400 for what no Link header named.
pub fn place(text: &str) -> Result<Place> {
    let read = |text: &str| {
        let (micros, id) = text.split_once('.')?;
        let micros = micros.parse().ok().filter(|micros| *micros >= 0)?;
        let updated_at = Timestamp::from_unix_micros(micros)?;
        Some(Place { updated_at, id: id.parse::<ConversationId>().ok()? })
    };
    read(text).ok_or_else(|| Error::field("before", "is not a place that a Link header named"))
}
