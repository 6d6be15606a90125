//! Who is asking, by the first frame of a socket or the header of a stream, and whether they may enter this conversation.

use std::time::Duration;

use axum::extract::ws::Message;
use chat_core::{
    Code, Error, Result,
    event::{Auth, ClientFrame},
    ids::ConversationId,
    store::door::{Action, Seat},
    token::{Identity, Verified},
};
use tokio::time::timeout;

use crate::{Hub, close::Close, peer::Peer};

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

/// Waits for the `auth` frame of a socket.
///
/// # Errors
/// The close code that the peer gets.
pub(crate) async fn auth(hub: &Hub, peer: &mut Peer) -> Result<Auth, Close> {
    let patience = Duration::from_millis(hub.0.limits.auth_ms);
    timeout(patience, first_frame(peer)).await.map_err(|_| Close::AuthTimeout)?
}

/// Finds out who somebody is, and whether they may be here.
///
/// # Errors
/// Why not: who they are first, then whether there is such a conversation for them.
pub async fn enter(hub: &Hub, auth: &Auth, conversation: Option<ConversationId>) -> Result<Entered> {
    let (token, identity) = hub.identify(auth).await?;
    let conversation = conversation.ok_or_else(Error::not_found)?;
    let seat = hub.0.store.seat(&identity, conversation, Action::Read).await?;
    agree(auth, &seat)?;
    // The door that opened now is the one to try first from here on.
    let identity = Identity { role_hint: Some(seat.member.caller.role), ..identity };
    Ok(Entered { token, identity, seat, seen: auth.last_seq.map(|seq| (seq, auth.epoch)) })
}

async fn first_frame(peer: &mut Peer) -> Result<Auth, Close> {
    loop {
        match peer.recv().await.ok_or(Close::Gone)?? {
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
    /// Verifies a token, and tells whose it is.
    pub(crate) async fn identify(&self, auth: &Auth) -> Result<(Verified, Identity)> {
        let token = auth.token.clone().unwrap_or_default();
        let token = self.0.verifier.verify(&token).await?;
        let identity = self.0.store.recognize(&token).await?;
        Ok((token, identity))
    }
}

/// What the original's frame says of its sender is compared with what is known; a mismatch is refused.
pub(crate) fn agree(auth: &Auth, seat: &Seat) -> Result<()> {
    let caller = seat.member.caller;
    let says =
        |said: &Option<String>, known: String| said.as_deref().is_none_or(|said| said.eq_ignore_ascii_case(&known));
    let agrees = says(&auth.user_id, caller.user_id.to_string())
        && says(&auth.role, caller.role.to_string())
        && says(&auth.tenant_id, seat.tenant().to_string());
    if agrees { Ok(()) } else { Err(Error::new(Code::Forbidden, "What the frame says of its sender is not so.")) }
}
