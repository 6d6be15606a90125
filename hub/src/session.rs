//! One socket, from its first frame to its last, in one task.
//!
//! Joining leaves no hole: subscribe and wait for the confirmation, while the mailbox collects; read everything after
//! what the client has seen; go live, passing over what was read already. From then on a frame with a `seq` is written
//! only as the next one; where a number is missing, the store is read.

use std::{sync::Arc, time::Duration};

use axum::extract::ws::{Message as Frame, WebSocket};
use chat_core::{
    Error, Kind,
    bus::{News, Subscription},
    conversation::{Origin, Turn, TurnState},
    event::{Auth, ClientFrame, ServerFrame},
    ids::{ClientMessageId, ConversationId, SocketId, TurnId},
    keys::webchat_response_key,
    store::{
        door::Seat,
        messages::{Page, Position},
        turns::End,
    },
    text::Text,
    timestamp::Timestamp,
    token::{Identity, LEEWAY_SECONDS},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, error};

use crate::{
    Hub,
    close::Close,
    fanout::Event,
    handshake::{self, Entered},
    held::Hold,
    registry::{Place, Presence},
    write,
};

/// Longest wait for Redis to confirm a subscription. After it the socket goes on, and looks again when it is confirmed.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(2);

/// Longest wait for a peer's answer to our close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Pings in a row that may stay without any sign of life.
const SILENT_PINGS: u32 = 2;

/// Frames in a row that may be unreadable.
const BAD_FRAMES: u32 = 10;

/// Messages read at once when catching up.
const CATCH_UP: i64 = 200;

/// The window over which sockets come back after this hub went away, in milliseconds.
const RECONNECT_WINDOW_MS: u64 = 5_000;

/// Serves a socket until it ends, and says goodbye.
pub async fn serve(hub: Hub, mut socket: WebSocket, conversation: Option<ConversationId>, _place: Place) {
    let close = match Box::pin(join(&hub, &mut socket, conversation)).await {
        Ok(mut session) => session.live(&mut socket).await,
        Err(close) => close,
    };
    debug!(?close, "socket ends");
    if let Some(frame) = close.frame() {
        let goodbye = async {
            socket.send(Frame::Close(Some(frame))).await.ok()?;
            // Leaving with unread bytes would reset the connection and take the close frame along.
            while socket.recv().await?.is_ok() {}
            None::<()>
        };
        let _ = timeout(CLOSE_PATIENCE, goodbye).await;
    }
}

/// A socket that was let in.
struct Session {
    hub: Hub,
    id: SocketId,
    identity: Identity,
    /// When the token ends for good, by the monotonic clock.
    expires: Instant,
    seat: Seat,
    presence: Presence,
    subscription: Subscription<Event>,
    hold: Hold,
    /// Turns whose end this socket has not seen.
    open: Vec<TurnId>,
    /// The newest `seq` written to this socket.
    last_seq: i64,
    /// The epoch this socket shows.
    epoch: i32,
    ping: Interval,
    silent_pings: u32,
    bad_frames: u32,
}

/// Lets a socket in: authenticates, subscribes, sends what was missed, says `ready`.
async fn join(hub: &Hub, socket: &mut WebSocket, conversation: Option<ConversationId>) -> Result<Session, Close> {
    let Entered { identity, seat, seen } = handshake::enter(hub, socket, conversation).await?;
    let presence = hub.0.registry.enter(identity.user_id).map_err(|error| Close::from(&error))?;
    let topic = webchat_response_key(seat.tenant(), seat.conversation);
    let subscription = hub.0.subscriber.subscribe(topic, SUBSCRIBE_PATIENCE).await;
    // Whatever happened before the confirmation is in the store now, and the rest comes to the mailbox.
    let standing = hub.0.store.standing(&identity, seat.conversation).await;
    let (seat, turns) = standing.map_err(|error| Close::of(&error))?;
    let hold = hub.0.held.hold(&seat, subscription.topic().clone());

    let period = Duration::from_millis(hub.0.limits.ping_ms);
    let mut ping = interval(period);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.reset();
    let mut session = Session {
        hub: hub.clone(),
        id: SocketId::new(),
        expires: expiry(&identity),
        identity,
        seat,
        presence,
        subscription,
        hold,
        open: Vec::new(),
        last_seq: seat.last_seq,
        epoch: seat.epoch,
        ping,
        silent_pings: 0,
        bad_frames: 0,
    };
    let resumed = match seen {
        None => false,
        Some((last_seq, epoch)) if seat.knows(last_seq, epoch) => {
            session.last_seq = last_seq;
            session.resume(socket, &turns).await?;
            true
        }
        Some(_) => {
            write::frame(socket, &ServerFrame::Reset { epoch: seat.epoch }).await?;
            false
        }
    };
    session.ready(socket, resumed).await?;
    Ok(session)
}

impl Session {
    /// Serves until the socket ends, and returns why.
    async fn live(&mut self, socket: &mut WebSocket) -> Close {
        loop {
            let leaving = self.hub.0.leaving.clone();
            let step = tokio::select! {
                frame = socket.recv() => match frame {
                    Some(Ok(frame)) => Box::pin(self.hear(socket, frame)).await,
                    Some(Err(error)) => Err(error.into()),
                    None => Err(Close::Gone),
                },
                news = self.subscription.next() => match news {
                    Some(News::Event(event)) => self.relay(socket, event).await,
                    Some(News::Gap) => Box::pin(self.repair(socket)).await,
                    None => Err(Close::TooSlow),
                },
                _ = self.ping.tick() => self.check_life(socket).await,
                () = sleep_until(self.expires) => Err(Close::Unauthenticated),
                () = leaving.cancelled() => {
                    let delay_ms = rand::random_range(0..RECONNECT_WINDOW_MS);
                    write::frame(socket, &ServerFrame::Reconnect { delay_ms }).await.and(Err(Close::Restart))
                }
            };
            if let Err(close) = step {
                return close;
            }
        }
    }

    /// A frame of the client.
    async fn hear(&mut self, socket: &mut WebSocket, frame: Frame) -> Result<(), Close> {
        self.silent_pings = 0;
        let text = match frame {
            Frame::Text(text) => text,
            Frame::Binary(_) => return Err(Close::Binary),
            Frame::Ping(_) | Frame::Pong(_) => return Ok(()),
            Frame::Close(_) => return Err(Close::Gone),
        };
        let frame = match ClientFrame::parse(&text) {
            Ok(frame) => frame,
            Err(error) => return self.unreadable(socket, &error).await,
        };
        self.bad_frames = 0;
        match frame {
            ClientFrame::Message { text, client_message_id } => self.message(socket, text, client_message_id).await,
            ClientFrame::Stop { turn_id } => self.stop(socket, turn_id).await,
            ClientFrame::Auth(auth) => self.refresh(socket, &auth).await,
            ClientFrame::Unknown => {
                let error = Error::new(chat_core::Code::UnknownFrame, "There is no frame of this type.");
                write::frame(socket, &write::refusal(&error, None)).await
            }
        }
    }

    async fn unreadable(&mut self, socket: &mut WebSocket, error: &serde_json::Error) -> Result<(), Close> {
        self.bad_frames += 1;
        if self.bad_frames >= BAD_FRAMES {
            return Err(Close::BadFrames);
        }
        let error = Error::new(chat_core::Code::BadFrame, format!("This frame cannot be read: {error}"));
        write::frame(socket, &write::refusal(&error, None)).await
    }

    /// A message: `typing` at once, then stored, then `accepted`; the two hints go out in between.
    async fn message(
        &mut self,
        socket: &mut WebSocket,
        text: String,
        client_message_id: Option<ClientMessageId>,
    ) -> Result<(), Close> {
        if let Err(wait) = self.presence.send() {
            let error = Error::new(chat_core::Code::RateLimited, "Too many messages; wait a moment.");
            return write::frame(socket, &write::retry(&error, client_message_id, wait)).await;
        }
        let limits = self.hub.0.limits;
        let text = match Text::parse(text, limits.text_chars) {
            Ok(text) => text,
            Err(error) => return write::frame(socket, &write::refusal(&error, client_message_id)).await,
        };
        let typing = |via| ServerFrame::Typing { conversation_id: self.seat.conversation, origin: Origin::Agent, via };
        write::frame(socket, &typing(None)).await?;
        self.publish(typing(Some(self.id)));

        let conversation = self.seat.conversation;
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
                    return write::frame(socket, &write::retry(&error, client_message_id, Duration::from_secs(1)))
                        .await;
                }
            },
        };
        self.seat = seat;
        let turn_id = TurnId::from(accepted.id);
        let answer = ServerFrame::Accepted {
            message_id: accepted.id,
            seq: accepted.seq,
            turn_id,
            client_message_id,
            duplicate: accepted.earlier.is_some(),
        };
        if let Some(earlier) = accepted.earlier {
            let Turn { id, state, code } = earlier.turn;
            write::frame(socket, &answer).await?;
            return write::frame(socket, &ServerFrame::Turn { turn_id: id, state, code, message_id: earlier.reply })
                .await;
        }
        let seq = accepted.seq;
        self.hub.0.dispatcher.hint(accepted.job(&seat));
        self.publish(ServerFrame::Message { message: accepted.message(&seat, text) });
        if seq > self.last_seq + 1 {
            self.catch_up(socket, seq - 1).await?;
        }
        self.last_seq = self.last_seq.max(seq);
        self.begun(turn_id);
        write::frame(socket, &answer).await
    }

    /// Ends a turn that waits, or asks its worker to. The conversation's sockets hear of it over the bus.
    async fn stop(&mut self, socket: &mut WebSocket, turn_id: TurnId) -> Result<(), Close> {
        match self.hub.0.store.stop(&self.identity, self.seat.conversation, turn_id).await {
            Ok((_, TurnState::Running, _)) => Ok(()),
            Ok((_, TurnState::Stopped, next)) => {
                End::Stopped.frames(turn_id).into_iter().for_each(|frame| self.publish(frame));
                next.into_iter().for_each(|job| self.hub.0.dispatcher.hint(job));
                Ok(())
            }
            Ok((_, state, _)) => {
                write::frame(socket, &ServerFrame::Turn { turn_id, state, code: None, message_id: None }).await
            }
            Err(error) => write::frame(socket, &write::refusal(&error, None)).await,
        }
    }

    /// A fresh token for the same person.
    async fn refresh(&mut self, socket: &mut WebSocket, auth: &Auth) -> Result<(), Close> {
        let identity = self.hub.identify(auth)?;
        if identity.user_id != self.identity.user_id {
            return Err(Close::Forbidden);
        }
        let seat = self.hub.0.store.seat(&identity, self.seat.conversation).await;
        let seat = seat.map_err(|error| Close::put_out(&error))?;
        handshake::agree(auth, &seat)?;
        self.expires = expiry(&identity);
        self.identity = Identity { role_hint: Some(seat.member.caller.role), ..identity };
        self.seat = seat;
        self.ready(socket, auth.last_seq.is_some()).await
    }

    /// Something was published.
    async fn relay(&mut self, socket: &mut WebSocket, event: Arc<Event>) -> Result<(), Close> {
        if event.via == Some(self.id) {
            return Ok(());
        }
        if let ServerFrame::Reset { epoch } = event.frame {
            if epoch <= self.epoch {
                return Ok(());
            }
            self.epoch = epoch;
            self.hold.heard_epoch(epoch);
        }
        if let Some(seq) = event.frame.seq() {
            if seq > self.last_seq + 1 {
                Box::pin(self.repair(socket)).await?;
            }
            self.hold.heard(seq);
            if seq <= self.last_seq {
                return Ok(());
            }
            self.last_seq = seq;
        }
        self.note(&event.frame);
        write::text(socket, event.text.clone()).await
    }

    /// Keeps count of the turns that this socket waits for.
    fn note(&mut self, frame: &ServerFrame) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the other frames begin and end nothing")]
        match frame {
            ServerFrame::Message { message } => match message.turn {
                Some(turn) if !turn.state.ended() => self.begun(turn.id),
                _ => {}
            },
            ServerFrame::Response { turn_id: Some(turn), .. } => self.ended(*turn),
            ServerFrame::Turn { turn_id, state, .. } if state.ended() => self.ended(*turn_id),
            _ => {}
        }
    }

    fn begun(&mut self, turn: TurnId) {
        self.open.push(turn);
        self.hold.waits_for(self.open.len());
    }

    fn ended(&mut self, turn: TurnId) {
        self.open.retain(|open| *open != turn);
        self.hold.waits_for(self.open.len());
    }

    /// Sends what a client missed, and the ends that it may have missed of messages it had seen. What could have been
    /// open when it left is among the newest turns.
    async fn resume(&mut self, socket: &mut WebSocket, turns: &[(i64, Turn)]) -> Result<(), Close> {
        let seen = self.last_seq;
        self.catch_up(socket, self.seat.last_seq).await?;
        for (_, turn) in turns.iter().rev().filter(|(seq, _)| *seq <= seen) {
            if !turn.state.ended() {
                self.begun(turn.id);
            } else if turn.state != TurnState::Answered {
                self.tell_end(socket, turn).await?;
            }
        }
        Ok(())
    }

    /// Tells how a turn ended, other than by its reply.
    async fn tell_end(&mut self, socket: &mut WebSocket, turn: &Turn) -> Result<(), Close> {
        let Turn { id, state, code } = *turn;
        match (state, code) {
            (TurnState::Failed, Some(code)) => {
                for frame in End::Failed(code).frames(id) {
                    write::frame(socket, &frame).await?;
                }
                Ok(())
            }
            _ => write::frame(socket, &ServerFrame::Turn { turn_id: id, state, code, message_id: None }).await,
        }
    }

    /// Brings this socket to where the store is: after a gap, or when a number is missing.
    async fn repair(&mut self, socket: &mut WebSocket) -> Result<(), Close> {
        let standing = self.hub.0.store.standing(&self.identity, self.seat.conversation).await;
        let (seat, turns) = standing.map_err(|error| Close::put_out(&error))?;
        self.seat = seat;
        self.hold.heard_epoch(seat.epoch);
        if seat.epoch > self.epoch {
            self.epoch = seat.epoch;
            self.open.clear();
            write::frame(socket, &ServerFrame::Reset { epoch: seat.epoch }).await?;
        }
        self.catch_up(socket, seat.last_seq).await?;
        self.hold.heard(seat.last_seq);
        for open in std::mem::take(&mut self.open) {
            match turns.iter().find(|(_, turn)| turn.id == open) {
                Some((_, turn)) if !turn.state.ended() => self.open.push(open),
                Some((_, turn)) if turn.state != TurnState::Answered => self.tell_end(socket, turn).await?,
                Some(_) | None => {}
            }
        }
        self.hold.waits_for(self.open.len());
        Ok(())
    }

    /// Writes what is stored after `last_seq`, up to `until`. Numbers whose messages a reset has taken are passed over.
    async fn catch_up(&mut self, socket: &mut WebSocket, until: i64) -> Result<(), Close> {
        let conversation = self.seat.conversation;
        while self.last_seq < until {
            let after = Page::After(Position::Seq(self.last_seq));
            let page = self.hub.0.store.messages(&self.identity, conversation, after, CATCH_UP).await;
            let (_, messages, more) = page.map_err(|error| Close::of(&error))?;
            for message in messages.into_iter().take_while(|message| message.seq <= until) {
                self.last_seq = message.seq;
                let frame = message.into_frame(conversation);
                self.note(&frame);
                write::frame(socket, &frame).await?;
            }
            if !more {
                self.last_seq = self.last_seq.max(until);
            }
        }
        Ok(())
    }

    async fn ready(&mut self, socket: &mut WebSocket, resumed: bool) -> Result<(), Close> {
        let frame = ServerFrame::Ready {
            conversation_id: self.seat.conversation,
            last_seq: self.last_seq,
            epoch: self.epoch,
            resumed,
            expires_at: self.identity.expires_at,
            status: self.seat.status,
        };
        write::frame(socket, &frame).await
    }

    async fn check_life(&mut self, socket: &mut WebSocket) -> Result<(), Close> {
        if self.silent_pings >= SILENT_PINGS {
            return Err(Close::Gone);
        }
        self.silent_pings += 1;
        write::message(socket, Frame::Ping(Vec::new().into())).await
    }

    fn publish(&self, frame: ServerFrame) {
        self.hub.0.outbox.publish(self.subscription.topic().clone(), frame);
    }
}

/// When a token ends for good: its end and the leeway, from now on by the monotonic clock.
fn expiry(identity: &Identity) -> Instant {
    let left = identity.expires_at.unix_micros() - Timestamp::now().unix_micros();
    let left = left.saturating_add_unsigned(LEEWAY_SECONDS * 1_000_000);
    // A token may hold for a century; the timer need not.
    let left = Duration::from_micros(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(30 * 24 * 3_600));
    Instant::now() + left
}
