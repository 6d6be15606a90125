//! Turns: stopped.

use axum::extract::State;
use chat_core::{
    Code, Error,
    conversation::{Turn, TurnState},
    ids::{MessageId, TurnId},
    keys::{webchat_response_key, webchat_stop_key},
    store::turns::{End, Stop},
};
use http::StatusCode;
use serde::Serialize;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;

use crate::{
    Api, HINT_TIMEOUT,
    error::Problem,
    extract::{Bearer, Json, WithinPath},
};

/// Where a turn is that somebody wanted to end.
#[derive(Serialize, ToSchema)]
pub struct Stopping {
    /// Which.
    turn_id: TurnId,
    /// Its state: `running` while its worker has yet to notice.
    state: TurnState,
    /// Why it failed, if it had ended that way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<Code>,
    /// The reply, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    message_id: Option<MessageId>,
}

/// `POST /conversations/{id}/turns/{turn_id}/stop`: ends a turn if it is still open. What was written so far is kept. How it
/// ends the conversation's sockets hear, and its user message says.
///
/// # Errors
/// 404 where the conversation is absent or not theirs, alike, and for a turn that is not in it; 429 for too many writes.
#[utoipa::path(
    post,
    path = "/conversations/{conversation_id}/turns/{turn_id}/stop",
    operation_id = "stop_turn",
    tag = "messages",
    responses((status = 202, description = "Where the turn is.", body = Stopping))
)]
pub async fn stop(
    State(api): State<Api>,
    Bearer(who): Bearer,
    WithinPath(id, turn_id): WithinPath<TurnId>,
) -> Result<(StatusCode, Json<Stopping>), Problem> {
    api.leave(&who, id).await?;
    let (seat, stopped) = api.store.stop(&who, id, turn_id).await?;
    let at = |state| Stopping { turn_id, state, code: None, message_id: None };
    let stopping = match stopped {
        Stop::NoSuchTurn => {
            return Err(Error::new(Code::NotFound, "There is no such turn in this conversation.").into());
        }
        Stop::EndedBefore { turn: Turn { state, code, .. }, reply } => {
            Stopping { code, message_id: reply, ..at(state) }
        }
        Stop::Asked => {
            // The row says it; this only makes its worker look there sooner.
            let hint = webchat_stop_key(seat.tenant(), turn_id);
            told(timeout(HINT_TIMEOUT, api.publisher.leave_hint(&hint)).await, turn_id);
            at(TurnState::Running)
        }
        Stop::Stopped { next } => {
            let topic = webchat_response_key(seat.tenant(), id);
            let news: Vec<_> = End::Stopped.frames(turn_id).into_iter().map(|frame| (topic.clone(), frame)).collect();
            let jobs: Vec<_> = next.into_iter().map(|job| *job).collect();
            let hints = async {
                let (published, sent) = tokio::join!(api.publisher.publish_all(&news), api.queue.send(&jobs));
                published.and(sent)
            };
            told(timeout(HINT_TIMEOUT, hints).await, turn_id);
            at(TurnState::Stopped)
        }
    };
    Ok((StatusCode::ACCEPTED, Json(stopping)))
}

fn told(hints: Result<chat_core::Result<()>, tokio::time::error::Elapsed>, turn: TurnId) {
    if let Err(error) = hints.unwrap_or_else(|late| Err(Error::unavailable(late))) {
        warn!(turn.id = %turn, ?error, "a hint was not taken; the facts stand");
    }
}
