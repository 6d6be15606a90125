//! What a socket is told of: what was published, and what the store has where something was missed.

use std::{sync::Arc, time::Duration};

use chat_core::{
    Code,
    conversation::{Turn, TurnState},
    event::ServerFrame,
    ids::TurnId,
    sabotage::{Defence, out},
    store::{
        door::Action,
        messages::{Page, Position},
        turns::End,
    },
    trace, trace_span,
};
use tokio::time::Instant;
use tracing::Instrument;

use super::{Open, Session};
use crate::{close::Close, fanout::Event, peer::Peer};

/// Messages read at once when catching up.
const CATCH_UP: i64 = 200;

/// Looks in a row at most while numbers are missing: one tells the reset that took them, the next finds nothing missing.
/// More than that takes somebody who resets as fast as we look.
const LOOKS: u32 = 4;

impl Session {
    /// Something was published.
    pub(super) async fn relay(&mut self, peer: &mut Peer, event: Arc<Event>) -> Result<(), Close> {
        if event.via == Some(self.id) {
            return Ok(());
        }
        if let ServerFrame::Reset { epoch } = event.frame {
            // The store says whether that is so, and tells this socket.
            return if epoch > self.epoch { Box::pin(self.repair(peer)).await } else { Ok(()) };
        }
        if let ServerFrame::Read { seq, .. } = event.frame {
            return self.marked(peer, seq).await;
        }
        if matches!(event.frame, ServerFrame::Delta { .. }) {
            return self.delta(peer, &event).await;
        }
        if let Some(seq) = event.frame.seq() {
            if self.look_again.is_some() {
                // A reset may wait to be told first; the look that comes finds this one, too.
                return Ok(());
            }
            if seq > self.last_seq + 1 {
                Box::pin(self.repair(peer)).await?;
            }
            if seq != self.last_seq + 1 {
                // Written already, or not to be found in the store.
                self.hold.heard(seq.min(self.last_seq));
                return Ok(());
            }
            self.hold.heard(seq);
            self.last_seq = seq;
        }
        self.note(&event.frame);
        match &event.traceparent {
            None => peer.news(&event).await?,
            // Rare, and boxed like all that is.
            Some(parent) => {
                let span = trace::under(trace_span!("relay", otel.kind = "consumer"), Some(parent));
                Box::pin(peer.news(&event).instrument(span)).await?;
            }
        }
        let ServerFrame::Status { status, .. } = event.frame else { return Ok(()) };
        self.seat.status = status;
        // Whose conversation it is not may be here only while it waits for a person.
        if self.seat.owner == self.identity.user_id { Ok(()) } else { Box::pin(self.still_in(peer)).await }
    }

    /// Keeps count of the turns that this socket waits for.
    fn note(&mut self, frame: &ServerFrame) {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the other frames begin and end nothing")]
        match frame {
            ServerFrame::Message { message } => {
                if message.author_id.is_none() {
                    // Whoever writes has read what stands before it.
                    self.seat.read_seq = self.seat.read_seq.max(message.seq);
                }
                match message.turn {
                    Some(turn) if !turn.state.ended() => self.begun(turn.id, None),
                    _ => {}
                }
            }
            ServerFrame::Response { turn_id: Some(turn), .. } => self.ended(*turn, TurnState::Answered, None),
            ServerFrame::Turn { turn_id, state, code, .. } if state.ended() => self.ended(*turn_id, *state, *code),
            _ => {}
        }
    }

    /// A turn waits whose message came a while ago, if it came by this socket.
    pub(super) fn begun(&mut self, turn: TurnId, since: Option<Instant>) {
        if !self.waits_for(turn) {
            self.open.push(Open { turn, since, stopping: false });
        }
        self.hold.waits_for(self.open.len());
    }

    /// Whether this socket has yet to see a turn's end.
    pub(super) fn waits_for(&self, turn: TurnId) -> bool {
        self.open.iter().any(|open| open.turn == turn)
    }

    /// A turn is over. One that was stopped is told by its reply first, where it has one: then only whoever asked for it
    /// knows at this point.
    fn ended(&mut self, turn: TurnId, state: TurnState, why: Option<Code>) {
        let known = self.open.iter().position(|open| open.turn == turn).map(|place| self.open.remove(place));
        if let Some(Open { since: Some(since), stopping, .. }) = known {
            let state = if stopping && state == TurnState::Answered { TurnState::Stopped } else { state };
            self.hub.0.metrics.ended(state, why, since);
        }
        self.streamed = self.streamed.filter(|streamed| streamed.turn() != turn);
        self.hold.waits_for(self.open.len());
    }

    /// Sends what a client missed, and the ends that it may have missed of messages it had seen. What could have been
    /// open when it left is among the newest turns.
    pub(super) async fn resume(&mut self, peer: &mut Peer, turns: &[(i64, Turn)]) -> Result<(), Close> {
        let seen = self.last_seq;
        if !out(Defence::Reread) && self.catch_up(peer, self.seat.last_seq).await? == Numbers::Missing {
            self.look(peer, i64::MAX).await?;
        }
        let missed = turns
            .iter()
            .rev()
            .filter(|(seq, turn)| *seq <= seen && turn.state.ended() && turn.state != TurnState::Answered);
        for (_, Turn { id, state, code }) in missed {
            // Only the fact: it may be an old one, which nobody waits for any more.
            let frame = ServerFrame::Turn { turn_id: *id, state: *state, code: *code, message_id: None };
            peer.frame(&frame).await?;
        }
        Ok(())
    }

    /// Tells how a turn ended, other than by its reply.
    async fn tell_end(&mut self, peer: &mut Peer, turn: &Turn) -> Result<(), Close> {
        let Turn { id, state, code } = *turn;
        self.ended(id, state, code);
        match (state, code) {
            (TurnState::Failed, Some(code)) => {
                for frame in End::Failed(code).frames(id) {
                    peer.frame(&frame).await?;
                }
                Ok(())
            }
            _ => peer.frame(&ServerFrame::Turn { turn_id: id, state, code, message_id: None }).await,
        }
    }

    /// Brings this socket to where the store is: after a gap, or when a number is missing. If the store cannot be
    /// reached, a little later: closing would only bring the same question from elsewhere.
    pub(super) async fn repair(&mut self, peer: &mut Peer) -> Result<(), Close> {
        self.look_again = None;
        let hub = self.hub.clone();
        let turn_to_look = hub.0.repairs.acquire().await;
        let looked = self.look(peer, i64::MAX).await;
        // What follows asks Redis; if that is silent, only this socket shall wait for it.
        drop(turn_to_look);
        if matches!(looked, Err(Close::Overloaded)) {
            self.look_again = Some(Instant::now() + Duration::from_millis(rand::random_range(500..2_000)));
            return Ok(());
        }
        self.running_so_far(peer, &looked?).await
    }

    /// Brings this socket to where the store is, up to a place; what comes after it this socket hears otherwise. Returns
    /// what became of the newest messages.
    async fn look(&mut self, peer: &mut Peer, until: i64) -> Result<Vec<(i64, Turn)>, Close> {
        let mut looks = 0;
        let mut waited_for = self.open.clone();
        let epoch = self.epoch;
        let (until, turns) = loop {
            let standing = self.hub.0.store.standing(&self.identity, self.seat.conversation).await;
            let (seat, turns) = standing.map_err(|error| Close::put_out(&error))?;
            self.sit(peer, seat).await?;
            self.hold.heard_epoch(seat.epoch);
            if seat.epoch > self.epoch {
                self.epoch = seat.epoch;
                self.open.clear();
                waited_for.clear();
                self.streamed = None;
                peer.frame(&ServerFrame::Reset { epoch: seat.epoch }).await?;
            }
            let until = seat.last_seq.min(until);
            let numbers = self.catch_up(peer, until).await?;
            looks += 1;
            // What is missing was taken by a reset: the one just told, or one that came between the two reads and has to
            // be told before anything else is.
            if numbers == Numbers::AllThere || looks == LOOKS {
                break (until, turns);
            }
        };
        self.hold.heard(until);
        for Open { turn: id, .. } in waited_for {
            // A reply that came on the way says it; but of one that was stopped, only this says so.
            match turns.iter().find(|(_, turn)| turn.id == id) {
                Some((_, turn)) if !turn.state.ended() => {}
                Some((_, turn)) if turn.state != TurnState::Answered => self.tell_end(peer, turn).await?,
                // Its reply was told on the way; or its message was taken by a reset, and its turn stopped with it.
                Some(_) => self.ended(id, TurnState::Answered, None),
                None => self.ended(id, TurnState::Stopped, None),
            }
        }
        if self.epoch > epoch {
            // A message of ours may have been accepted behind the reset, before we heard of that.
            turns.iter().filter(|(_, turn)| !turn.state.ended()).for_each(|(_, turn)| self.begun(turn.id, None));
        }
        self.hold.waits_for(self.open.len());
        Ok(turns)
    }

    /// Tells the text so far of the turn that runs, if this socket waits for it.
    pub(super) async fn running_so_far(&mut self, peer: &mut Peer, turns: &[(i64, Turn)]) -> Result<(), Close> {
        let running = turns.iter().find(|(_, turn)| turn.state == TurnState::Running && self.waits_for(turn.id));
        match running {
            Some((_, turn)) => self.so_far(peer, turn.id, 0).await,
            None => Ok(()),
        }
    }

    /// Brings this socket up to its own message, which it hears of by `accepted`.
    pub(super) async fn catch_up_before(&mut self, peer: &mut Peer, seq: i64) -> Result<(), Close> {
        match self.catch_up(peer, seq - 1).await? {
            Numbers::AllThere => Ok(()),
            Numbers::Missing => self.look(peer, seq - 1).await.map(drop),
        }
    }

    /// Writes what is stored after `last_seq`, up to `until`. Numbers whose messages a reset has taken are passed over.
    async fn catch_up(&mut self, peer: &mut Peer, until: i64) -> Result<Numbers, Close> {
        let conversation = self.seat.conversation;
        let mut numbers = Numbers::AllThere;
        while self.last_seq < until {
            let after = Page::After(Position::Seq(self.last_seq));
            let page = self.hub.0.store.messages(&self.identity, conversation, after, CATCH_UP, Action::Stay).await;
            let (_, messages, more) = page.map_err(|error| Close::put_out(&error))?;
            let beyond = messages.last().is_some_and(|last| last.seq > until);
            for message in messages.into_iter().take_while(|message| message.seq <= until) {
                if message.seq > self.last_seq + 1 {
                    numbers = Numbers::Missing;
                }
                self.last_seq = message.seq;
                let frame = message.into_frame(conversation);
                self.note(&frame);
                peer.frame(&frame).await?;
            }
            if (!more || beyond) && self.last_seq < until {
                numbers = Numbers::Missing;
                self.last_seq = until;
            }
        }
        Ok(numbers)
    }
}

/// Whether every number was there that was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    AllThere,
    Missing,
}
