//! One socket or stream, from its first frame to its last, in one task.
//!
//! Joining leaves no hole: subscribe and wait for the confirmation, while the mailbox collects; read everything after
//! what the client has seen; go live, passing over what was read already. From then on a frame with a `seq` is written
//! only as the next one; where a number is missing, the store is read.

mod marks;
mod news;
mod rate;
mod says;
mod stream;

use std::time::Duration;

use axum::extract::ws::WebSocket;
use chat_core::{
    Code, Error, Kind,
    bus::{News, Presence, Subscription},
    conversation::Turn,
    event::{Auth, ServerFrame},
    ids::{ConversationId, SocketId, TurnId},
    keys::webchat_response_key,
    sabotage::{Defence, out},
    store::door::{Action, Seat},
    timestamp::Timestamp,
    token::{Identity, LEEWAY_SECONDS, Verified},
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until};
use tracing::debug;

use marks::Marks;
use rate::Frames;
use stream::Streamed;

use crate::{
    Hub,
    close::Close,
    fanout::Event,
    handshake::{self, Entered},
    held::Hold,
    leaving,
    metrics::Heard,
    peer::Peer,
    refusal::{self, FULL_PATIENCE},
    registry::Place,
    server::Guest,
    sitting::Sitting,
};

/// Longest wait for Redis to confirm a subscription. After it the socket goes on, and looks again when it is confirmed.
const SUBSCRIBE_PATIENCE: Duration = Duration::from_secs(2);

/// Pings in a row that may stay without any sign of life.
const SILENT_PINGS: u32 = 2;

/// Serves a socket until it ends, and says goodbye.
pub(crate) async fn serve(
    hub: Hub,
    socket: WebSocket,
    conversation: Option<ConversationId>,
    _place: Place,
    guest: Box<Guest>,
) {
    let mut peer = Peer::socket(socket, &hub.0.metrics);
    let joined = tokio::select! {
        joined = Box::pin(join(&hub, &mut peer, conversation)) => joined,
        () = hub.0.leaving.cancelled() => Err(Close::Restart),
    };
    let close = match joined {
        Ok(mut session) => {
            guest.gate.open();
            // No stranger any more.
            drop(guest);
            let close = session.live(&mut peer).await;
            Box::pin(session.last_mark()).await;
            close
        }
        Err(close) => close,
    };
    debug!(?close, "socket ends");
    Box::pin(peer.goodbye(close)).await;
}

/// Tells a reader who was let in, until the stream ends, and says goodbye.
pub(crate) async fn tell(hub: &Hub, admitted: Admitted, mut peer: Peer, begun: Instant) {
    let greeted = tokio::select! {
        greeted = Box::pin(admitted.greet(&mut peer, begun)) => greeted,
        () = hub.0.leaving.cancelled() => Err(Close::Restart),
    };
    let close = match greeted {
        Ok(mut session) => session.live(&mut peer).await,
        Err(close) => close,
    };
    debug!(?close, "stream ends");
    Box::pin(peer.goodbye(close)).await;
}

/// A socket that was let in, or a stream.
struct Session {
    hub: Hub,
    id: SocketId,
    /// What their token says.
    token: Verified,
    identity: Identity,
    /// When the token ends for good, by the monotonic clock.
    expires: Instant,
    seat: Seat,
    /// Counted while it lives.
    _presence: Presence,
    subscription: Subscription<Event>,
    hold: Hold,
    /// Turns whose end this socket has not seen.
    open: Vec<Open>,
    /// The reply that is being written, as far as this socket was told.
    streamed: Option<Streamed>,
    /// The newest `seq` written to this socket.
    last_seq: i64,
    /// The epoch this socket shows.
    epoch: i32,
    ping: Interval,
    silent_pings: u32,
    bad_frames: u32,
    frames: Frames,
    marks: Marks,
    /// When to look at the store again, after it could not be reached.
    look_again: Option<Instant>,
    /// When this socket shall go elsewhere, once its hub goes away.
    leave: Option<Instant>,
}

/// A turn whose end a socket has not seen.
#[derive(Debug, Clone, Copy)]
struct Open {
    turn: TurnId,
    /// When its message came, if it came by this socket.
    since: Option<Instant>,
    /// This socket asked for it to be stopped.
    stopping: bool,
}

/// Counted among those that are in from where it is made.
impl Drop for Session {
    fn drop(&mut self) {
        self.hub.0.metrics.sockets.dec();
    }
}

/// Lets a socket in: authenticates, subscribes, sends what was missed, says `ready`.
async fn join(hub: &Hub, peer: &mut Peer, conversation: Option<ConversationId>) -> Result<Session, Close> {
    let begun = Instant::now();
    let auth = handshake::auth(hub, peer).await?;
    hub.0.metrics.heard(Heard::Auth);
    match admit(hub, &auth, conversation).await {
        Ok(admitted) => admitted.greet(peer, begun).await,
        Err(error) => {
            if error.kind() == Kind::Busy {
                // A close frame has no room for a time.
                peer.frame(&refusal::retry(&error, None, FULL_PATIENCE)).await?;
            }
            Err(Close::of(&error))
        }
    }
}

/// Somebody who was let in and has heard nothing yet.
pub(crate) struct Admitted {
    session: Session,
    /// The newest `seq` they have seen, and its epoch.
    seen: Option<(i64, Option<i32>)>,
    /// What became of the newest messages.
    turns: Vec<(i64, Turn)>,
}

/// Lets in whom a token names, if they may be here: counts them, subscribes, and reads how things stand.
///
/// # Errors
/// Why they may not, or cannot at the moment.
pub(crate) async fn admit(hub: &Hub, auth: &Auth, conversation: Option<ConversationId>) -> Result<Admitted, Error> {
    let Entered { token, identity, seat, seen } = handshake::enter(hub, auth, conversation).await?;
    let presence = hub.0.counted.enter(seat.tenant(), identity.user_id).await?;
    let topic = webchat_response_key(seat.tenant(), seat.conversation);
    let listening = hub.0.subscriber.subscribe(topic, SUBSCRIBE_PATIENCE);
    let reading = hub.0.store.standing(&identity, seat.conversation);
    // Whatever happened before the confirmation is in the store then, and the rest comes to the mailbox.
    let (subscription, standing) = if out(Defence::SubscribeFirst) {
        let standing = reading.await;
        (listening.await, standing)
    } else {
        (listening.await, reading.await)
    };
    let (seat, turns) = standing?;
    let hold = hub.0.held.hold(&seat, subscription.topic().clone(), Sitting::new(&seat, &token));

    let period_ms = hub.0.limits.ping_ms;
    // The first one somewhere in the first period, so that sockets that came together do not ask together.
    let first = Instant::now() + Duration::from_millis(rand::random_range(period_ms / 2..=period_ms));
    let mut ping = interval_at(first, Duration::from_millis(period_ms));
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    hub.0.metrics.sockets.inc();
    let mut session = Session {
        hub: hub.clone(),
        id: SocketId::new(),
        expires: expiry(&identity),
        token,
        identity,
        seat,
        _presence: presence,
        subscription,
        hold,
        open: Vec::new(),
        streamed: None,
        last_seq: seat.last_seq,
        epoch: seat.epoch,
        ping,
        silent_pings: 0,
        bad_frames: 0,
        frames: Frames::new(&hub.0.limits),
        marks: Marks::default(),
        look_again: None,
        leave: None,
    };
    for (_, turn) in turns.iter().filter(|(_, turn)| !turn.state.ended()) {
        session.begun(turn.id, None);
    }
    Ok(Admitted { session, seen, turns })
}

impl Admitted {
    /// Tells what was missed, and that they are in.
    async fn greet(self, peer: &mut Peer, begun: Instant) -> Result<Session, Close> {
        let Self { mut session, seen, turns } = self;
        let seat = session.seat;
        let known = seen.filter(|(last_seq, epoch)| seat.knows(*last_seq, *epoch));
        session.last_seq = known.map_or(seat.last_seq, |(last_seq, _)| last_seq);
        peer.begins(session.epoch, session.last_seq);
        if known.is_some() {
            session.resume(peer, &turns).await?;
        } else if seen.is_some() {
            peer.frame(&ServerFrame::Reset { epoch: seat.epoch }).await?;
        }
        session.ready(peer, known.is_some()).await?;
        session.hub.0.metrics.joined(begun);
        session.running_so_far(peer, &turns).await?;
        Ok(session)
    }
}

impl Session {
    /// Serves until the socket ends, and returns why. What has come is seen through to its end: a hub that goes away is
    /// noticed between two frames, so a message that is being stored then is answered first. What is rare is boxed: the task
    /// of a socket is as large as the largest thing it ever awaits.
    async fn live(&mut self, peer: &mut Peer) -> Close {
        loop {
            let away = self.hub.0.leaving.clone();
            let step = tokio::select! {
                frame = peer.recv() => match frame {
                    Some(Ok(frame)) => Box::pin(self.hear(peer, frame)).await,
                    Some(Err(error)) => Err(error.into()),
                    None => Err(Close::Gone),
                },
                news = self.subscription.next() => match news {
                    Some(News::Event(event)) => self.relay(peer, event).await,
                    Some(News::Gap) => Box::pin(self.repair(peer)).await,
                    None => Err(Close::TooSlow),
                },
                _ = self.ping.tick() => Box::pin(self.check_life(peer)).await,
                () = sleep_until(self.look_again.unwrap_or(self.expires)), if self.look_again.is_some() => {
                    Box::pin(self.repair(peer)).await
                }
                () = sleep_until(self.marks.due.unwrap_or(self.expires)), if self.marks.due.is_some() => {
                    Box::pin(self.write_mark()).await
                }
                () = sleep_until(self.expires) => Err(Close::Unauthenticated),
                () = away.cancelled(), if self.leave.is_none() => {
                    let hub = &self.hub.0;
                    let longer = leaving::moment(hub.sockets.len(), hub.limits.leaves_per_second);
                    self.leave = Some(Instant::now() + longer);
                    Ok(())
                }
                () = sleep_until(self.leave.unwrap_or(self.expires)), if self.leave.is_some() => {
                    let frame = ServerFrame::Reconnect { delay_ms: leaving::delay_ms() };
                    peer.frame(&frame).await.and(Err(Close::Restart))
                }
            };
            if let Err(close) = step {
                return close;
            }
        }
    }

    /// Whoever was let in may have been put out since.
    async fn still_in(&mut self, peer: &mut Peer) -> Result<(), Close> {
        let store = &self.hub.0.store;
        let seat = async {
            // What an issuer's words mean here may have been taken back, too.
            if store.recognize(&self.token).await?.user_id != self.identity.user_id {
                return Err(Error::new(Code::Unauthenticated, "The token names somebody else now."));
            }
            store.seat(&self.identity, self.seat.conversation, Action::Stay).await
        };
        match seat.await {
            Ok(seat) => self.sit(peer, seat).await,
            Err(error) if error.kind() == Kind::Unavailable => Ok(()),
            Err(error) => Err(Close::put_out(&error)),
        }
    }

    /// Takes a seat that was read from the store, and tells who answers and how far was read where that was news: the
    /// frame that said so was lost. Where an operator had this person's sockets closed since this one came in, it ends;
    /// whoever may come in again comes by the present number.
    async fn sit(&mut self, peer: &mut Peer, seat: Seat) -> Result<(), Close> {
        if seat.put_out != self.seat.put_out {
            return Err(Close::PutOut);
        }
        self.hold.sitting().takes(&seat);
        let mut read_seq = self.seat.read_seq;
        if seat.epoch != self.epoch {
            // A reset leaves nothing to read, and is told before anything else is.
            read_seq = read_seq.max(seat.read_seq);
        } else if seat.read_seq <= self.last_seq {
            self.marked(peer, seat.read_seq).await?;
            read_seq = self.seat.read_seq;
        }
        // Else it is a mark by a message that this socket has yet to hear of.
        let known = std::mem::replace(&mut self.seat, Seat { read_seq, ..seat }).status;
        if known == seat.status {
            return Ok(());
        }
        peer.frame(&ServerFrame::Status { status: seat.status, by: None }).await
    }

    async fn ready(&mut self, peer: &mut Peer, resumed: bool) -> Result<(), Close> {
        let frame = ServerFrame::Ready {
            conversation_id: self.seat.conversation,
            last_seq: self.last_seq,
            epoch: self.epoch,
            resumed,
            expires_at: self.identity.expires_at,
            status: self.seat.status,
            read_seq: self.seat.read_seq,
        };
        peer.frame(&frame).await
    }

    async fn check_life(&mut self, peer: &mut Peer) -> Result<(), Close> {
        if self.silent_pings >= SILENT_PINGS {
            return Err(Close::Gone);
        }
        self.silent_pings += u32::from(peer.answers());
        peer.ping().await?;
        if self.hold.sitting().found_within(self.ping.period()) {
            return Ok(());
        }
        self.still_in(peer).await
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a function's future holds from its first poll to its last.
    fn size_of_future<A, B, C, D, E, F>(_: fn(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    /// Each socket is one such task for its whole life: a byte more here is a megabyte of a million.
    #[test]
    fn the_task_of_a_socket_stays_small() {
        let bytes = size_of_future(serve);
        assert!(bytes <= 3_096, "{bytes} bytes");
    }
}
