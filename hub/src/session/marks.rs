//! How far the conversation's owner has read. Marks come as fast as somebody scrolls; they are written down at most once a
//! second, the newest alone.

use std::time::Duration;

use chat_core::{Code, Error, Kind, event::ServerFrame};
use tokio::time::Instant;
use tracing::debug;

use super::Session;
use crate::{close::Close, peer::Peer, refusal};

/// Time between two marks that are written down.
const PACE: Duration = Duration::from_secs(1);

/// The mark that waits.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The newest there was.
    newest: i64,
    /// When it is to be written down; `None` if it was.
    pub(super) due: Option<Instant>,
    /// Not before this.
    rests: Option<Instant>,
}

impl Marks {
    /// Takes a mark, which may be an old one.
    fn take(&mut self, seq: i64, now: Instant) {
        self.newest = self.newest.max(seq);
        let due = self.rests.map_or(now, |rests| rests.max(now));
        self.due.get_or_insert(due);
    }

    /// The mark to write down now; another one has to wait.
    fn give(&mut self, now: Instant) -> i64 {
        self.due = None;
        self.rests = Some(now + PACE);
        self.newest
    }
}

impl Session {
    /// A mark of the client.
    pub(super) async fn mark(&mut self, peer: &mut Peer, seq: i64) -> Result<(), Close> {
        if self.seat.owner != self.identity.user_id {
            let error =
                Error::new(Code::Forbidden, "Only the person whose conversation it is marks what they have read.");
            return peer.frame(&refusal::frame(&error, None)).await;
        }
        if seq > self.seat.read_seq {
            self.marks.take(seq, Instant::now());
        }
        Ok(())
    }

    /// Writes down the mark that is due. The conversation's sockets hear of it over the bus, this one too.
    pub(super) async fn write_mark(&mut self) -> Result<(), Close> {
        let seq = self.marks.give(Instant::now());
        let conversation = self.seat.conversation;
        match self.hub.0.store.mark_read(&self.identity, conversation, seq).await {
            Ok((_, state)) if state.moved => {
                self.publish(ServerFrame::Read { conversation_id: conversation, seq: state.read_seq });
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == Kind::Unavailable => {
                debug!(conversation.id = %conversation, ?error, "a mark is not written down; trying again");
                self.marks.due = Some(Instant::now() + 2 * PACE);
                Ok(())
            }
            Err(error) => Err(Close::put_out(&error)),
        }
    }

    /// Writes down what waits when the socket ends: whoever reads and leaves at once has read.
    pub(super) async fn last_mark(&mut self) {
        if self.marks.due.is_some() {
            // Whoever has been put out has nothing to mark any more.
            let _ = self.write_mark().await;
        }
    }

    /// The owner has read on; tells the client, unless it knows.
    pub(super) async fn marked(&mut self, peer: &mut Peer, seq: i64) -> Result<(), Close> {
        if seq <= self.seat.read_seq {
            return Ok(());
        }
        self.seat.read_seq = seq;
        peer.frame(&ServerFrame::Read { conversation_id: self.seat.conversation, seq }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn marks_are_written_down_once_a_second_and_the_newest_counts() {
        let (mut marks, now) = (Marks::default(), Instant::now());
        marks.take(3, now);
        assert_eq!(marks.due, Some(now), "the first one at once");
        assert_eq!(marks.give(now), 3);
        marks.take(5, now);
        marks.take(4, now + PACE / 2);
        assert_eq!(marks.due, Some(now + PACE), "the next one a second later");
        assert_eq!(marks.give(now + PACE), 5);
        assert_eq!(marks.due, None);
    }
}
