//! The first frame: who is asking, and whether they may enter this conversation.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use chat_core::{
    event::{Auth, ClientFrame},
    ids::ConversationId,
    store::door::{Action, Seat},
    token::{Identity, Verified},
};
use tokio::time::timeout;

use crate::{Hub, close::Close};

/// Largest first frame, in bytes: a token has 8 KiB at most, and its escaped form with the other fields fits as well.
pub(crate) const FIRST_FRAME_BYTES: usize = 16 * 1024;

/// Somebody who may be here.
pub struct Entered {
    /// What their token says.
    pub token: Verified,
    /// Who they are by it.
    pub identity: Identity,
    /// Where.
    pub seat: Seat,
    /// The newest `seq` they have seen, and its epoch.
    pub seen: Option<(i64, Option<i32>)>,
}

/// Waits for the `auth` frame and lets its sender in, or says why not.
///
/// # Errors
/// The close code that the peer gets.
pub async fn enter(hub: &Hub, socket: &mut WebSocket, conversation: Option<ConversationId>) -> Result<Entered, Close> {
    let patience = Duration::from_millis(hub.0.limits.auth_ms);
    let auth = timeout(patience, first_frame(socket)).await.map_err(|_| Close::AuthTimeout)??;
    let (token, identity) = hub.identify(&auth).await?;
    let conversation = conversation.ok_or(Close::NotFound)?;
    let seat = hub.0.store.seat(&identity, conversation, Action::Read).await.map_err(|error| Close::of(&error))?;
    agree(&auth, &seat)?;
    // The door that opened now is the one to try first from here on.
    let identity = Identity { role_hint: Some(seat.member.caller.role), ..identity };
    Ok(Entered { token, identity, seat, seen: auth.last_seq.map(|seq| (seq, auth.epoch)) })
}

async fn first_frame(socket: &mut WebSocket) -> Result<Auth, Close> {
    loop {
        match socket.recv().await.ok_or(Close::Gone)?? {
            Message::Text(text) if text.len() > FIRST_FRAME_BYTES => return Err(Close::TooBig),
            Message::Text(text) => {
                return match ClientFrame::parse(&text) {
                    Ok(ClientFrame::Auth(auth)) => Ok(auth),
                    Ok(
                        ClientFrame::Message(_) | ClientFrame::Stop(_) | ClientFrame::Read(_) | ClientFrame::Unknown,
                    )
                    | Err(_) => Err(Close::BadFrames),
                };
            }
            Message::Binary(_) => return Err(Close::Binary),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Close(_) => return Err(Close::Gone),
        }
    }
}

impl Hub {
    /// Verifies the token of an `auth` frame, and tells whose it is.
    pub(crate) async fn identify(&self, auth: &Auth) -> Result<(Verified, Identity), Close> {
        let token = auth.token.clone().unwrap_or_default();
        let told = async {
            let token = self.0.verifier.verify(&token).await?;
            let identity = self.0.store.recognize(&token).await?;
            Ok((token, identity))
        };
        told.await.map_err(|error| Close::of(&error))
    }
}

/// What the original's frame says of its sender is compared with what is known; a mismatch is refused.
pub(crate) fn agree(auth: &Auth, seat: &Seat) -> Result<(), Close> {
    let caller = seat.member.caller;
    let says =
        |said: &Option<String>, known: String| said.as_deref().is_none_or(|said| said.eq_ignore_ascii_case(&known));
    let agrees = says(&auth.user_id, caller.user_id.to_string())
        && says(&auth.role, caller.role.to_string())
        && says(&auth.tenant_id, seat.tenant().to_string());
    if agrees { Ok(()) } else { Err(Close::Forbidden) }
}
