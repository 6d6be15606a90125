//! Writing to a socket: with a deadline, and what a refusal looks like.

use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use chat_core::{
    Error, Kind,
    event::ServerFrame,
    ids::{ClientMessageId, TurnId},
};
use tokio::time::timeout;

use crate::close::Close;

/// Longest wait for a peer to take a frame. A slower reader is cut and catches up when it comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes a frame of our own.
pub(crate) async fn frame(socket: &mut WebSocket, frame: &ServerFrame) -> Result<(), Close> {
    text(socket, frame.json().into()).await
}

/// Writes a frame that is ready.
pub(crate) async fn text(socket: &mut WebSocket, text: Utf8Bytes) -> Result<(), Close> {
    message(socket, Message::Text(text)).await
}

/// Writes anything.
pub(crate) async fn message(socket: &mut WebSocket, message: Message) -> Result<(), Close> {
    match timeout(PATIENCE, socket.send(message)).await {
        Ok(sent) => sent.map_err(|_| Close::Gone),
        Err(_) => Err(Close::TooSlow),
    }
}

/// The frame that refuses something.
pub(crate) fn refusal(error: &Error, client_message_id: Option<ClientMessageId>) -> ServerFrame {
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: None, client_message_id, retry_after_ms: None }
}

/// The frame that refuses a message, and says when to try again where that may help.
pub(crate) fn retry(error: &Error, client_message_id: Option<ClientMessageId>, wait: Duration) -> ServerFrame {
    let helps = matches!(error.kind(), Kind::Busy | Kind::Unavailable);
    let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: None, client_message_id, retry_after_ms: helps.then_some(wait) }
}

/// The frame that refuses something about a turn.
pub(crate) fn about_turn(error: &Error, turn: TurnId) -> ServerFrame {
    let (code, message) = (error.code(), error.public().to_owned());
    ServerFrame::Error { code, message, turn_id: Some(turn), client_message_id: None, retry_after_ms: None }
}
