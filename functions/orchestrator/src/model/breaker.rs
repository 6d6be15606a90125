//! Who failed several times in a row is left alone for a while, so that turns go to the next model at once instead of
//! waiting for the same failure.
//!
//! One for each provider, in each process: what an environment has learned it need not tell another, and there are as
//! many as there are providers in the settings.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When a breaker opens and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Habits {
    /// Failures in a row that open it. More than the tries of one prompt: one message alone decides nothing.
    pub failures: u32,
    /// How long it stays open the first time. It doubles each time the probe after it fails.
    pub pause: Duration,
    /// The longest it stays open.
    pub longest: Duration,
}

impl Default for Habits {
    /// Five failures, so the second message to a dead provider finds it out. Five seconds, since most outages are
    /// restarts; at most two minutes, so that nobody is away for much longer than they were.
    fn default() -> Self {
        Self { failures: 5, pause: Duration::from_secs(5), longest: Duration::from_secs(120) }
    }
}

/// The breaker of one provider.
pub(super) struct Breaker {
    habits: Habits,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// Everybody may pass; so many failed in a row.
    Closed(u32),
    /// Nobody may until then; the pause was that long.
    Open(Instant, Duration),
    /// One is on its way to see.
    Probing,
}

impl Breaker {
    pub(super) fn new(habits: Habits) -> Arc<Self> {
        Arc::new(Self { habits, state: Mutex::new(State::Closed(0)) })
    }

    /// A permit to call, or `None` while the provider is left alone. After the pause it is given to one, who finds out
    /// for all.
    pub(super) fn admit(self: &Arc<Self>, now: Instant) -> Option<Permit> {
        let mut state = self.state();
        let probe = match *state {
            State::Closed(_) => None,
            State::Open(until, pause) if now >= until => Some(pause),
            State::Open(..) | State::Probing => return None,
        };
        if probe.is_some() {
            *state = State::Probing;
        }
        Some(Permit { breaker: Arc::clone(self), probe })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call that may be made. Dropped without a word, it says nothing about the provider, and the next one may probe.
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    /// The pause before the probe that this is, if it is one.
    probe: Option<Duration>,
}

impl Permit {
    /// The provider has begun to answer. A probe has found out what it was to find out, and others need not wait for its
    /// end.
    pub(super) fn begins(&mut self) {
        if self.probe.take().is_some() {
            *self.breaker.state() = State::Closed(0);
        }
    }

    /// The provider is there.
    pub(super) fn good(mut self) {
        self.probe = None;
        *self.breaker.state() = State::Closed(0);
    }

    /// The provider failed.
    pub(super) fn bad(mut self, now: Instant) {
        let Habits { failures, pause: first, longest } = self.breaker.habits;
        let mut state = self.breaker.state();
        *state = match (*state, self.probe) {
            (State::Probing, Some(pause)) => {
                let pause = pause.saturating_mul(2).min(longest);
                State::Open(now + pause, pause)
            }
            (State::Closed(before), _) if before + 1 < failures => State::Closed(before + 1),
            (State::Closed(_), _) => State::Open(now + first, first),
            // One that was called before it opened has nothing to add.
            (state @ (State::Open(..) | State::Probing), _) => state,
        };
        drop(state);
        self.probe = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(pause) = self.probe else { return };
        let mut state = self.breaker.state();
        if matches!(*state, State::Probing) {
            *state = State::Open(Instant::now(), pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HABITS: Habits = Habits { failures: 3, pause: Duration::from_secs(5), longest: Duration::from_secs(12) };

    fn fails(breaker: &Arc<Breaker>, now: Instant) {
        breaker.admit(now).expect("a permit").bad(now);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_probe_after_pauses_that_double() {
        let (breaker, start) = (Breaker::new(HABITS), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        fails(&breaker, start);
        fails(&breaker, start);
        breaker.admit(start).unwrap().good();
        fails(&breaker, start);
        fails(&breaker, start);
        assert!(breaker.admit(start).is_some(), "a success began a new row");
        fails(&breaker, start);
        for (opened, pause) in [(0, 5), (5, 10), (15, 12), (27, 12)] {
            assert!(breaker.admit(at(opened + pause - 1)).is_none(), "left alone for {pause} s");
            let probe = breaker.admit(at(opened + pause)).expect("one may look");
            assert!(breaker.admit(at(opened + pause)).is_none(), "and only one");
            probe.bad(at(opened + pause));
        }
        let mut probe = breaker.admit(at(51)).unwrap();
        probe.begins();
        assert!(breaker.admit(at(51)).is_some(), "its answer need not be over");
        probe.good();
        fails(&breaker, at(51));
        assert!(breaker.admit(at(51)).is_some(), "closed, with nothing held against it");
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_its_place_to_the_next() {
        let (breaker, start) = (Breaker::new(HABITS), Instant::now());
        let early = breaker.admit(start).unwrap();
        (0..3).for_each(|_| fails(&breaker, start));
        early.bad(start);
        let later = start + Duration::from_secs(5);
        drop(breaker.admit(later).expect("one may look"));
        let again = breaker.admit(later).expect("the place is free");
        assert!(breaker.admit(later).is_none());
        again.bad(later);
        assert!(breaker.admit(later + Duration::from_secs(9)).is_none(), "the pause has doubled");
    }
}
