//! The web's reply route: what is stored already is published to whichever hubs hold the conversation.

use std::time::Duration;

use chat_core::{
    bus::Publisher,
    conversation::Origin,
    event::ServerFrame,
    keys::webchat_response_key,
    store::{
        claim::Claim,
        turns::{Completion, End, Reply},
    },
};
use tokio::time::timeout;
use tracing::warn;

/// Longest wait for Redis to take news.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tells the conversation's sockets of a stored reply, and for one that was stopped that it is all there will be.
pub async fn send_response(publisher: &Publisher, claim: &Claim, reply: &Reply, text: String, how: Completion) {
    let response = ServerFrame::Response {
        text,
        conversation_id: claim.conversation,
        message_id: reply.id,
        seq: reply.seq,
        turn_id: Some(claim.turn),
        created_at: reply.created_at,
        author_id: None,
    };
    let stopped = (how == Completion::Stopped).then(|| ServerFrame::Turn {
        turn_id: claim.turn,
        state: how.state(),
        code: None,
        message_id: Some(reply.id),
    });
    publish(publisher, claim, [response].into_iter().chain(stopped).collect()).await;
}

/// Tells the conversation's sockets that the agent still works.
pub async fn send_typing(publisher: &Publisher, claim: &Claim) {
    let typing = ServerFrame::Typing { conversation_id: claim.conversation, origin: Origin::Agent, via: None };
    publish(publisher, claim, vec![typing]).await;
}

/// Tells the conversation's sockets that a turn ended without a reply, and why.
pub async fn send_end(publisher: &Publisher, claim: &Claim, end: End) {
    publish(publisher, claim, end.frames(claim.turn)).await;
}

/// Tells the conversation's sockets, in this order.
pub async fn publish(publisher: &Publisher, claim: &Claim, frames: Vec<ServerFrame>) {
    let topic = webchat_response_key(claim.tenant, claim.conversation);
    let news: Vec<_> = frames.into_iter().map(|frame| (topic.clone(), frame)).collect();
    // Where Redis is silent nobody hears it anyway, and the next turn's hint shall not wait for that.
    match timeout(PATIENCE, publisher.publish_all(&news)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(turn.id = %claim.turn, ?error, "not published; sockets will find it in the store"),
        Err(_) => warn!(turn.id = %claim.turn, "not published in time; sockets will find it in the store"),
    }
}
