//! Who sits in a conversation, and by what.
//!
//! A socket asks with each ping whether its person may still be there, as the person. Thousands of silent ones would ask
//! for nothing else all day, a transaction each. So a hub calls the [roll](chat_core::store::roll) of a company instead,
//! no less often; whoever was found there as they were need not ask with their next ping, and whoever was not is made to
//! ask at once.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_core::{
    ids::UserId,
    store::{
        door::Seat,
        roll::{Footing, Present},
    },
    token::{Subject, Verified},
};
use tokio::time::Instant;

/// Somebody who sits in a conversation.
pub struct Sitting {
    /// Who.
    pub(crate) person: UserId,
    /// A plain mutex: held to compare or to write down, never across an await.
    known: Mutex<Known>,
}

#[derive(Clone, Copy)]
struct Known {
    /// By what they sit there, as it was last read. None: they are not on the roll.
    footing: Option<Footing>,
    read_seq: i64,
    /// When it was last asked, for all together, and they were found as they are known here.
    found: Instant,
}

impl Sitting {
    /// Whoever has just come in through the door, with this token. On the roll are the portal's own people: who an outside
    /// issuer's words mean is a question of their own, and a platform_admin is no member.
    #[must_use]
    pub fn new(seat: &Seat, token: &Verified) -> Self {
        let on_the_roll = matches!(token.subject, Subject::User(_));
        let footing = seat.footing().filter(|_| on_the_roll);
        let known = Known { footing, read_seq: seat.read_seq, found: Instant::now() };
        Self { person: seat.member.caller.user_id, known: Mutex::new(known) }
    }

    pub(crate) fn is_on_the_roll(&self) -> bool {
        self.known().footing.is_some()
    }

    /// They have been through the door again, to this seat.
    pub(crate) fn takes(&self, seat: &Seat) {
        let mut known = self.known();
        known.footing = seat.footing().filter(|_| known.footing.is_some());
        known.read_seq = seat.read_seq;
    }

    /// Their name was called, with this answer to a question of that moment. False: they do not sit there by what is known
    /// here, and must ask at once. Who has only missed how far was read hears of it when they next ask.
    pub(crate) fn answers(&self, found: Option<Present>, asked: Instant) -> bool {
        let mut known = self.known();
        let Some(present) = found.filter(|present| known.footing == Some(present.footing)) else { return false };
        if present.read_seq == known.read_seq {
            known.found = asked;
        }
        true
    }

    /// Whether they were found there within this time, and need not ask.
    pub(crate) fn found_within(&self, time: Duration) -> bool {
        let known = self.known();
        known.footing.is_some() && known.found.elapsed() < time
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
