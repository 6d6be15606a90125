//! What a client says on its socket: messages, stops, fresh tokens.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::extract::ws::Message as Frame;
use chat_core::{
    Code, Error, Kind,
    complaint::complaint,
    conversation::{Origin, Status, Turn, TurnState},
    event::{self, Auth, ClientFrame, Said, ServerFrame},
    ids::{ClientMessageId, TurnId},
    keys::webchat_stop_key,
    store::{
        door::Action,
        messages::Earlier,
        turns::{End, Stop},
    },
    text::Text,
    token::Identity,
    trace_span,
};
use futures::future::poll_immediate;
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span, debug, error, field::Empty};

use super::{Session, expiry};
use crate::{
    close::Close,
    handshake,
    metrics::{Heard, Stage},
    peer::Peer,
    refusal,
};

/// Frames in a row that may be unreadable.
const BAD_FRAMES: u32 = 10;

/// When to send a message again that was refused because the queue is away.
const QUEUE_PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for Redis to take the hint that a turn shall stop.
const STOP_HINT_PATIENCE: Duration = Duration::from_millis(250);

impl Session {
    /// A frame of the client.
    pub(super) async fn hear(&mut self, peer: &mut Peer, frame: Frame) -> Result<(), Close> {
        self.silent_pings = 0;
        let begun = Instant::now();
        if let Err(wait) = self.frames.take(begun) {
            // Whoever goes on at this rate is not listening; a close frame has no room for a time.
            peer.frame(&refusal::retry(&too_fast(), None, wait)).await?;
            return Err(Close::OverLimit);
        }
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Binary(_) => return Err(Close::Binary),
            Frame::Ping(_) | Frame::Pong(_) => {
                self.hub.0.metrics.heard(Heard::Control);
                return Ok(());
            }
            Frame::Close(_) => return Err(Close::Gone),
        };
        let frame = match ClientFrame::parse(&text) {
            Ok(frame) => frame,
            Err(error) => {
                self.hub.0.metrics.heard(Heard::Unreadable);
                return self.unreadable(peer, &error).await;
            }
        };
        self.hub.0.metrics.heard(match frame {
            ClientFrame::Auth(_) => Heard::Auth,
            ClientFrame::Message(_) => Heard::Message,
            ClientFrame::Stop(_) => Heard::Stop,
            ClientFrame::Read(_) => Heard::Read,
            ClientFrame::Unknown => Heard::Unknown,
        });
        self.bad_frames = 0;
        match frame {
            ClientFrame::Message(Said { text, client_message_id }) => {
                let span = trace_span!("message", otel.kind = "server", turn.id = Empty, conversation.id = Empty);
                if !span.is_disabled() {
                    span.record("conversation.id", self.seat.conversation.to_string());
                }
                self.message(peer, text, client_message_id, begun).instrument(span).await
            }
            ClientFrame::Stop(event::Stop { turn_id }) => self.stop(peer, turn_id).await,
            ClientFrame::Read(event::Read { seq }) => self.mark(peer, seq).await,
            ClientFrame::Auth(auth) => self.refresh(peer, &auth).await,
            ClientFrame::Unknown => {
                let error = Error::new(Code::UnknownFrame, "There is no frame of this type.");
                peer.frame(&refusal::frame(&error, None)).await
            }
        }
    }

    async fn unreadable(&mut self, peer: &mut Peer, error: &serde_json::Error) -> Result<(), Close> {
        self.bad_frames += 1;
        if self.bad_frames >= BAD_FRAMES {
            return Err(Close::BadFrames);
        }
        let error = Error::new(Code::BadFrame, format!("This frame cannot be read: {}", complaint(&error.to_string())));
        peer.frame(&refusal::frame(&error, None)).await
    }

    /// A message: `typing` at once, then stored, then `accepted`; the two hints go out in between.
    async fn message(
        &mut self,
        peer: &mut Peer,
        text: String,
        client_message_id: Option<ClientMessageId>,
        begun: Instant,
    ) -> Result<(), Close> {
        let limits = self.hub.0.limits;
        let text = match self.acceptable(text) {
            Ok(text) => text,
            Err(error) => {
                let leave = self.leave().await;
                let (error, wait) = leave.map_or_else(|wait| (too_fast(), wait), |()| (error, QUEUE_PATIENCE));
                return peer.frame(&refusal::retry(&error, client_message_id, wait)).await;
            }
        };
        // As far as we know. Whether it is so is decided where it is stored.
        let in_stead = self.in_stead();
        let conversation = self.seat.conversation;
        let typing = |via| ServerFrame::Typing { conversation_id: conversation, origin: Origin::Agent, via };
        let metrics = Arc::clone(&self.hub.0.metrics);
        let typed = async {
            if in_stead {
                return Ok(());
            }
            let written = peer.frame(&typing(None)).await;
            metrics.reached(Stage::Typing, begun);
            written
        };
        if let Err(wait) = self.leave_while(typed).await? {
            return peer.frame(&refusal::retry(&too_fast(), client_message_id, wait)).await;
        }

        let stored =
            self.hub.0.store.accept(&self.identity, conversation, &text, client_message_id, limits.queued_turns).await;
        let (seat, accepted) = match stored {
            Ok(stored) => stored,
            Err(error) => match error.kind() {
                Kind::NotFound | Kind::Forbidden | Kind::Unauthenticated => return Err(Close::put_out(&error)),
                Kind::Busy | Kind::Unavailable | Kind::Internal | Kind::Invalid | Kind::Conflict => {
                    if error.kind() == Kind::Internal {
                        error!(conversation.id = %conversation, ?error, "message not stored");
                    } else {
                        debug!(conversation.id = %conversation, ?error, "message not accepted");
                    }
                    return peer.frame(&refusal::retry(&error, client_message_id, Duration::from_secs(1))).await;
                }
            },
        };
        metrics.reached(Stage::Stored, begun);
        self.sit(peer, seat).await?;
        let turn_id = TurnId::from(accepted.id);
        let answer = ServerFrame::Accepted {
            message_id: accepted.id,
            seq: accepted.seq,
            turn_id,
            client_message_id,
            duplicate: accepted.earlier.is_some(),
        };
        if !Span::current().is_disabled() {
            Span::current().record("turn.id", turn_id.to_string());
        }
        if accepted.waits() {
            // Again for a repeat whose turn still waits: the first time may have ended before its hints were given.
            self.hub.0.dispatcher.hint(accepted.job(&seat));
        }
        if accepted.is_news() {
            self.publish(typing(Some(self.id)));
            self.publish(accepted.message(&seat, text).into_frame(conversation));
        }
        let epoch = self.epoch;
        if accepted.seq > self.last_seq + 1 {
            self.catch_up_before(peer, accepted.seq).await?;
        }
        self.last_seq = self.last_seq.max(accepted.seq);
        if self.seat.owner == self.identity.user_id {
            // Whoever writes has read what stands before it.
            self.seat.read_seq = self.seat.read_seq.max(accepted.seq);
        }
        peer.frame(&answer).await?;
        metrics.reached(Stage::Accepted, begun);
        if self.epoch > epoch {
            // A reset was told on the way, and may have taken this message along: whoever reads again now knows.
            peer.frame(&ServerFrame::Reset { epoch: self.epoch }).await?;
        }
        match accepted.earlier {
            // No answer comes: this is one.
            None if accepted.in_stead => {
                let state = TurnState::Escalated;
                peer.frame(&ServerFrame::Turn { turn_id, state, code: None, message_id: None }).await
            }
            None => {
                self.begun(turn_id, Some(begun));
                Ok(())
            }
            Some(Earlier { turn: Turn { id, state, code }, reply }) => {
                if !state.ended() {
                    self.begun(id, None);
                }
                peer.frame(&ServerFrame::Turn { turn_id: id, state, code, message_id: reply }).await
            }
        }
    }

    /// Whether a person answers here in the agent's stead, as far as this socket knows.
    fn in_stead(&self) -> bool {
        self.seat.status == Status::Escalated && self.seat.owner != self.identity.user_id
    }

    /// The text, if it can be a message and a message can be taken.
    fn acceptable(&self, text: String) -> Result<Text, Error> {
        let limits = self.hub.0.limits;
        let text = Text::parse(text, limits.text_chars)?;
        if !self.in_stead() && self.hub.0.dispatcher.unsent() >= limits.unsent_hints {
            debug!("the queue takes no hints, and we have accepted what we may");
            return Err(no_queue());
        }
        Ok(text)
    }

    /// Takes leave to do something that costs a transaction, or tells how long until there is leave.
    async fn leave(&self) -> Result<(), Duration> {
        self.hub.0.buckets.take(self.seat.tenant(), self.identity.user_id).await
    }

    /// Takes leave, and has `typing` written while Redis is asked; where the answer is known to be no, it is not written.
    async fn leave_while(
        &self,
        typing: impl Future<Output = Result<(), Close>>,
    ) -> Result<Result<(), Duration>, Close> {
        let mut leave = pin!(self.leave());
        Ok(match poll_immediate(leave.as_mut()).await {
            Some(Err(wait)) => Err(wait),
            Some(Ok(())) => Ok(typing.await?),
            None => {
                let (typed, leave) = tokio::join!(typing, leave);
                typed?;
                leave
            }
        })
    }

    /// Ends a turn that waits, or asks its worker to. The conversation's sockets hear of it over the bus.
    async fn stop(&mut self, peer: &mut Peer, turn_id: TurnId) -> Result<(), Close> {
        if let Err(wait) = self.leave().await {
            return peer.frame(&refusal::retry(&too_fast(), None, wait)).await;
        }
        let stopped = self.hub.0.store.stop(&self.identity, self.seat.conversation, turn_id).await;
        match stopped.map(|(_, stopped)| stopped) {
            Ok(Stop::Asked) => {
                self.open.iter_mut().filter(|open| open.turn == turn_id).for_each(|open| open.stopping = true);
                // The row says it; this only makes its worker look there sooner.
                let hint = webchat_stop_key(self.seat.tenant(), turn_id);
                let left = timeout(STOP_HINT_PATIENCE, self.hub.0.publisher.leave_hint(&hint)).await;
                if !matches!(left, Ok(Ok(()))) {
                    debug!(turn.id = %turn_id, "stop not hinted; its worker finds it in the turn's row");
                }
                Ok(())
            }
            Ok(Stop::Stopped { next }) => {
                End::Stopped.frames(turn_id).into_iter().for_each(|frame| self.publish(frame));
                next.into_iter().for_each(|job| self.hub.0.dispatcher.hint(*job));
                Ok(())
            }
            Ok(Stop::EndedBefore { turn: Turn { id, state, code }, reply }) => {
                peer.frame(&ServerFrame::Turn { turn_id: id, state, code, message_id: reply }).await
            }
            Ok(Stop::NoSuchTurn) => {
                let error = Error::new(Code::NotFound, "There is no such turn.");
                peer.frame(&refusal::about_turn(&error, turn_id)).await
            }
            Err(error) if error.kind() == Kind::Unavailable => peer.frame(&refusal::about_turn(&error, turn_id)).await,
            Err(error) => Err(Close::put_out(&error)),
        }
    }

    /// A fresh token for the same person.
    async fn refresh(&mut self, peer: &mut Peer, auth: &Auth) -> Result<(), Close> {
        if let Err(wait) = self.leave().await {
            return peer.frame(&refusal::retry(&too_fast(), None, wait)).await;
        }
        let (token, identity) = self.hub.identify(auth).await.map_err(|error| Close::of(&error))?;
        if identity.user_id != self.identity.user_id {
            return Err(Close::Forbidden);
        }
        let seat = self.hub.0.store.seat(&identity, self.seat.conversation, Action::Stay).await;
        let seat = seat.map_err(|error| Close::put_out(&error))?;
        handshake::agree(auth, &seat).map_err(|error| Close::of(&error))?;
        self.expires = expiry(&identity);
        self.token = token;
        self.identity = Identity { role_hint: Some(seat.member.caller.role), ..identity };
        self.seat = seat;
        // Everything that is written to this socket comes in order; nothing was missed, nothing is replayed.
        self.ready(peer, false).await
    }
}

fn too_fast() -> Error {
    Error::new(Code::RateLimited, "Too much at once; wait a moment.")
}

fn no_queue() -> Error {
    Error::unavailable("the queue takes no hints")
}
