//! A person takes a conversation over from its agent, and gives it back.
//!
//! Who may: the company's customer_admins, those of its conversations that wait for a person; a platform_admin any. Its
//! owner, who knows that it exists, is told 403 unless they are such an admin; everybody else 404, as for one that does
//! not exist. Both calls change nothing when repeated; but a customer_admin who has handed another's conversation back
//! may not look at it any more, and gets 404 from then on.

use axum::extract::State;
use chat_core::{
    Error, Result,
    conversation::{Conversation, Status},
    event::ServerFrame,
    ids::{TurnId, UserId},
    keys::{ESCALATION_EXPIRY, escalation_status_key, webchat_response_key, webchat_stop_key},
    store::{door::Seat, turns::End},
};
use tracing::warn;

use crate::{
    Api, HINT_TIMEOUT,
    error::Problem,
    extract::{Bearer, InPath, Json},
};

/// `POST /conversations/{id}/takeover`: the caller answers in it from now on, whoever did before. Replies that the agent
/// is still making are thrown away.
///
/// # Errors
/// 403 for its owner, unless they are an admin and it waits for one; 404 where it is absent or not theirs, alike.
#[utoipa::path(
    post,
    path = "/conversations/{conversation_id}/takeover",
    operation_id = "take_over_conversation",
    tag = "conversations",
    responses((status = 200, description = "The conversation as it is now.", body = Conversation))
)]
pub async fn take_over(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
) -> Result<Json<Conversation>, Problem> {
    let (seat, taken) = api.store.take_over(&who, id).await?;
    tell(&api, &seat, who.user_id, Status::Escalated, &taken.ended).await;
    Ok(Json(taken.conversation))
}

/// `POST /conversations/{id}/handback`: the agent answers again.
///
/// # Errors
/// 403 for its owner, unless they are an admin; 404 where it is absent or not theirs, alike.
#[utoipa::path(
    post,
    path = "/conversations/{conversation_id}/handback",
    operation_id = "hand_back_conversation",
    tag = "conversations",
    responses((status = 200, description = "The conversation as it is now.", body = Conversation))
)]
pub async fn hand_back(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
) -> Result<Json<Conversation>, Problem> {
    let (seat, conversation) = api.store.hand_back(&who, id).await?;
    tell(&api, &seat, who.user_id, Status::Agent, &[]).await;
    Ok(Json(conversation))
}

/// Tells the sockets who answers and which turns ended by that, and keeps the cache in step. Said again when a call is repeated: the
/// first time may have ended before this.
async fn tell(api: &Api, seat: &Seat, by: UserId, status: Status, ended: &[TurnId]) {
    let topic = webchat_response_key(seat.tenant(), seat.conversation);
    let key = escalation_status_key(seat.tenant(), &seat.conversation.to_string());
    let ends = ended.iter().flat_map(|turn| End::Escalated.frames(*turn));
    let frames = [ServerFrame::Status { status, by: Some(by) }].into_iter().chain(ends);
    let news: Vec<_> = frames.map(|frame| (topic.clone(), frame)).collect();
    let cached = async {
        match status {
            Status::Escalated => api.publisher.set(&key, status.as_str(), ESCALATION_EXPIRY).await,
            Status::Agent => api.publisher.delete(&key).await,
        }
    };
    // Whoever still writes a reply looks at its turn sooner.
    let hinted = async {
        for turn in ended {
            api.publisher.leave_hint(&webchat_stop_key(seat.tenant(), *turn)).await?;
        }
        Ok(())
    };
    let told = async {
        let (published, cached, hinted) = tokio::join!(api.publisher.publish_all(&news), cached, hinted);
        published.and(cached).and(hinted)
    };
    let told = tokio::time::timeout(HINT_TIMEOUT, told).await.unwrap_or_else(|late| Err(Error::unavailable(late)));
    if let Err(error) = told {
        warn!(conversation.id = %seat.conversation, ?error, "not told who answers; sockets find it in the store");
    }
}
