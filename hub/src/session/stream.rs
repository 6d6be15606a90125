//! A reply that is being written, as this socket shows it: told from where it is, without a gap or a repeat.

use std::{sync::Arc, time::Duration};

use chat_core::{event::ServerFrame, ids::TurnId};
use tokio::time::timeout;
use tracing::debug;

use super::Session;
use crate::{
    close::Close,
    fanout::Event,
    metrics::{Passed, Stage},
    peer::Peer,
};

/// Longest wait for Redis to bring the text so far.
const PARTIAL_PATIENCE: Duration = Duration::from_secs(1);

/// How much of a running reply this socket was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Streamed {
    turn: TurnId,
    /// Which claim of the turn writes.
    attempt: i32,
    /// In Unicode code points; `None` if it cannot go on from there, and a new beginning or the whole reply must come.
    until: Option<usize>,
}

/// What to do with a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Write it.
    Write,
    /// Pass over it: it was told, or is of an older attempt.
    Known,
    /// Read the text so far: something before it is missing.
    Missing,
}

impl Streamed {
    /// Whose reply it is.
    pub(super) fn turn(&self) -> TurnId {
        self.turn
    }

    fn verdict(told: Option<Self>, attempt: i32, offset: usize) -> Verdict {
        match told {
            Some(told) if attempt < told.attempt => Verdict::Known,
            _ if offset == 0 => Verdict::Write,
            Some(Self { attempt: same, until, .. }) if same == attempt => match until {
                Some(until) if offset == until => Verdict::Write,
                Some(until) if offset > until => Verdict::Missing,
                Some(_) | None => Verdict::Known,
            },
            Some(_) | None => Verdict::Missing,
        }
    }
}

impl Session {
    /// A piece of a running reply was published. Pieces of a turn that this socket does not wait for, or no longer, are
    /// nothing to it.
    pub(super) async fn delta(&mut self, peer: &mut Peer, event: &Arc<Event>) -> Result<(), Close> {
        let ServerFrame::Delta { turn_id: turn, attempt, offset, .. } = event.frame else { return Ok(()) };
        if !self.waits_for(turn) {
            self.hub.0.metrics.passed(Passed::Unwanted);
            return Ok(());
        }
        let told = self.streamed.filter(|told| told.turn == turn);
        match Streamed::verdict(told, attempt, offset) {
            Verdict::Known => {
                self.hub.0.metrics.passed(Passed::Known);
                Ok(())
            }
            Verdict::Missing => {
                self.hub.0.metrics.passed(Passed::Gap);
                Box::pin(self.so_far(peer, turn, attempt)).await
            }
            Verdict::Write => {
                self.first_words(told, turn);
                self.streamed = Some(Streamed { turn, attempt, until: Some(offset + event.chars) });
                peer.news(event).await
            }
        }
    }

    /// Notes when the first words of a reply came, to whose message came by this socket.
    fn first_words(&self, told: Option<Streamed>, turn: TurnId) {
        let since = || self.open.iter().find(|open| open.turn == turn).and_then(|open| open.since);
        if told.is_none()
            && let Some(since) = since()
        {
            self.hub.0.metrics.reached(Stage::FirstDelta, since);
        }
    }

    /// Tells the text so far of a turn that runs. What was published since is in the mailbox, or comes there; what of it
    /// the text holds already is passed over. `attempt` is the least that is worth telling.
    pub(super) async fn so_far(&mut self, peer: &mut Peer, turn: TurnId, attempt: i32) -> Result<(), Close> {
        let reading = self.hub.0.publisher.partial(self.seat.tenant(), turn);
        let found = if self.hub.0.subscriber.hears(self.subscription.topic()) {
            timeout(PARTIAL_PATIENCE, reading).await.map_err(|_| "no answer of Redis in time".to_owned())
        } else {
            Err("no connection to Redis".to_owned())
        };
        let partial = match found.and_then(|found| found.map_err(|error| format!("{error:?}"))) {
            Ok(partial) => partial.filter(|partial| partial.attempt >= attempt),
            Err(error) => {
                debug!(turn.id = %turn, error, "text so far not read; the whole reply comes");
                None
            }
        };
        let until = partial.as_ref().map(|partial| partial.text.chars().count());
        let attempt = partial.as_ref().map_or(attempt, |partial| partial.attempt);
        self.streamed = Some(Streamed { turn, attempt, until });
        let Some(partial) = partial else { return Ok(()) };
        peer.frame(&ServerFrame::Delta { turn_id: turn, attempt, offset: 0, text: partial.text }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_is_written_where_the_last_one_ended_or_at_the_beginning() {
        let turn = TurnId::new();
        let told = |attempt, until| Some(Streamed { turn, attempt, until });
        for (told, attempt, offset, verdict) in [
            (None, 1, 0, Verdict::Write),
            (None, 1, 5, Verdict::Missing),
            (told(1, Some(5)), 1, 5, Verdict::Write),
            (told(1, Some(5)), 1, 3, Verdict::Known),
            (told(1, Some(5)), 1, 9, Verdict::Missing),
            (told(1, Some(5)), 1, 0, Verdict::Write),
            (told(2, Some(5)), 1, 0, Verdict::Known),
            (told(2, Some(5)), 1, 5, Verdict::Known),
            (told(1, Some(5)), 2, 0, Verdict::Write),
            (told(1, Some(5)), 2, 5, Verdict::Missing),
            (told(1, None), 1, 5, Verdict::Known),
            (told(1, None), 1, 0, Verdict::Write),
        ] {
            assert_eq!(Streamed::verdict(told, attempt, offset), verdict, "{told:?} {attempt} {offset}");
        }
    }
}
