//! The conversations that this hub holds, and how far it has heard of each.
//!
//! A lost last hint shows in nothing that comes after it, since nothing does. So what was heard is compared with the
//! store, in batches: conversations that wait for an answer often (`HUB_LOOK_MS`), all of them now and then
//! (`HUB_LOOK_ALL_MS`). Where the store is ahead the conversation's sockets are made to look. So are those of whoever sits
//! there by what is no more, which is found out for all of a company together ([`sitting`](crate::sitting)).

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{
    ids::{ConversationId, TenantId},
    keys::Topic,
    store::{conversations::Progress, door::Seat},
};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, warn};

use crate::{Hub, sitting::Sitting};

/// Conversations, or those who sit there, of one query.
const TOGETHER: usize = 500;

/// After which time a roll is called again that could not be.
const CALLED_AGAIN: Duration = Duration::from_secs(1);

/// The conversations of this hub.
#[derive(Default)]
pub struct Held {
    conversations: Arc<Mutex<HashMap<ConversationId, Entry>>>,
}

struct Entry {
    /// Those who sit in it.
    sitting: Vec<Arc<Sitting>>,
    heard: Arc<Heard>,
}

/// How far this hub has heard of a conversation.
pub struct Heard {
    tenant: TenantId,
    topic: Topic,
    /// The newest `seq` that came over the bus, or that a look at the store brought.
    seq: AtomicI64,
    epoch: AtomicI32,
    /// Where the store was at the last look; being behind that is no mere delay any more.
    store_was_at: AtomicI64,
    /// A message was sent since the store last said that none waits.
    waits: AtomicBool,
    /// Turns that sockets here have not seen the end of.
    unended: AtomicUsize,
}

/// Somebody whose name is called.
struct Called {
    conversation: ConversationId,
    heard: Arc<Heard>,
    sitting: Arc<Sitting>,
}

/// A socket's hold on its conversation.
pub struct Hold {
    conversations: Arc<Mutex<HashMap<ConversationId, Entry>>>,
    conversation: ConversationId,
    heard: Arc<Heard>,
    sitting: Arc<Sitting>,
    unended: usize,
}

impl Held {
    /// Holds the conversation of a seat that was taken after listening to `topic` began. Only the first holder's seat
    /// says how far was heard: a later one may have read what an earlier one missed.
    #[must_use]
    pub fn hold(&self, seat: &Seat, topic: Topic, sitting: Sitting) -> Hold {
        let sitting = Arc::new(sitting);
        let mut conversations = lock(&self.conversations);
        let entry = conversations.entry(seat.conversation).or_insert_with(|| Entry {
            sitting: Vec::with_capacity(1),
            heard: Arc::new(Heard {
                tenant: seat.tenant(),
                topic,
                seq: AtomicI64::new(seat.last_seq),
                epoch: AtomicI32::new(seat.epoch),
                store_was_at: AtomicI64::new(seat.last_seq),
                waits: AtomicBool::new(true),
                unended: AtomicUsize::new(0),
            }),
        });
        entry.sitting.push(Arc::clone(&sitting));
        let (conversations, heard) = (Arc::clone(&self.conversations), Arc::clone(&entry.heard));
        Hold { conversations, conversation: seat.conversation, heard, sitting, unended: 0 }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.conversations).len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those to look at, by tenant.
    fn due(&self, all: bool) -> HashMap<TenantId, Vec<(ConversationId, Arc<Heard>)>> {
        let mut due: HashMap<_, Vec<_>> = HashMap::new();
        for (conversation, entry) in lock(&self.conversations).iter() {
            // Taken back before the store is asked: a message sent meanwhile sets it again.
            if entry.heard.waits.swap(false, Ordering::Relaxed) || all {
                let heard = Arc::clone(&entry.heard);
                due.entry(heard.tenant).or_default().push((*conversation, heard));
            }
        }
        due
    }

    /// Everybody who sits somewhere and is on the roll, by tenant.
    fn roll(&self) -> HashMap<TenantId, Vec<Called>> {
        let mut roll: HashMap<_, Vec<_>> = HashMap::new();
        for (conversation, Entry { sitting, heard }) in lock(&self.conversations).iter() {
            for sitting in sitting.iter().filter(|sitting| sitting.is_on_the_roll()) {
                let (heard, sitting) = (Arc::clone(heard), Arc::clone(sitting));
                let called = Called { conversation: *conversation, heard, sitting };
                roll.entry(called.heard.tenant).or_default().push(called);
            }
        }
        roll
    }
}

impl Hold {
    /// Whoever holds it, as they sit there.
    #[must_use]
    pub fn sitting(&self) -> &Sitting {
        &self.sitting
    }

    /// News with this `seq` came over the bus, or a look at the store has brought everything up to it.
    pub fn heard(&self, seq: i64) {
        self.heard.seq.fetch_max(seq, Ordering::Relaxed);
    }

    /// News of this epoch came.
    pub fn heard_epoch(&self, epoch: i32) {
        self.heard.epoch.fetch_max(epoch, Ordering::Relaxed);
    }

    /// Whoever holds it waits for the ends of this many turns.
    pub fn waits_for(&mut self, unended: usize) {
        self.heard.unended.fetch_add(unended, Ordering::Relaxed);
        self.heard.unended.fetch_sub(self.unended, Ordering::Relaxed);
        self.unended = unended;
        if unended > 0 {
            self.heard.waits.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.heard.unended.fetch_sub(self.unended, Ordering::Relaxed);
        let mut conversations = lock(&self.conversations);
        let Some(entry) = conversations.get_mut(&self.conversation) else { return };
        entry.sitting.retain(|sitting| !Arc::ptr_eq(sitting, &self.sitting));
        if entry.sitting.is_empty() {
            conversations.remove(&self.conversation);
        }
    }
}

impl Heard {
    /// Whether the store is ahead of what was heard. Without a connection to the bus at once, else only if it was
    /// already at the last look: what was just committed may be on its way.
    fn behind(&self, store: &Progress, connected: bool) -> bool {
        let seq = self.seq.load(Ordering::Relaxed);
        let was_at = self.store_was_at.swap(store.last_seq, Ordering::Relaxed);
        let ahead = if connected { was_at } else { store.last_seq };
        // Nothing waits in the store, yet somebody here waits: an end went untold.
        let untold = !store.open && self.unended.load(Ordering::Relaxed) > 0;
        if store.open || untold || seq < store.last_seq {
            self.waits.store(true, Ordering::Relaxed);
        }
        seq < ahead || (untold && was_at == store.last_seq) || store.epoch > self.epoch.load(Ordering::Relaxed)
    }
}

impl Hub {
    /// Compares what was heard with the store, until the hub leaves: conversations that wait for an answer after each
    /// `look`, all of them after each `look_all`, and with them those who sit there.
    pub(crate) async fn look_after(self, look: Duration, look_all: Duration) {
        let (mut some, mut every) = (interval(look), interval(look_all));
        some.set_missed_tick_behavior(MissedTickBehavior::Delay);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Called less often than they would ask, it would spare nobody.
        let spares = look_all <= Duration::from_millis(self.0.limits.ping_ms);
        loop {
            let all = tokio::select! {
                biased;
                () = self.0.leaving.cancelled() => return,
                _ = every.tick() => {
                    // Those that wait are among all. And two looks in a row would take news on their way for lost.
                    some.reset();
                    true
                }
                _ = some.tick() => false,
            };
            for (tenant, held) in self.0.held.due(all) {
                for batch in held.chunks(TOGETHER) {
                    self.look(tenant, batch).await;
                }
            }
            if all && spares && !self.call_the_roll().await {
                every.reset_after(CALLED_AGAIN);
            }
        }
    }

    /// Calls the roll of each company; false where one could not be called. Whoever is missing is made to look, and so goes
    /// through the door again.
    async fn call_the_roll(&self) -> bool {
        let mut all_called = true;
        for (tenant, roll) in self.0.held.roll() {
            for batch in roll.chunks(TOGETHER) {
                let asked = Instant::now();
                let (conversations, persons): (Vec<_>, Vec<_>) =
                    batch.iter().map(|called| (called.conversation, called.sitting.person)).unzip();
                let found = match self.0.store.roll(tenant, &conversations, &persons).await {
                    Ok(found) => found,
                    Err(error) => {
                        warn!(?error, "a roll was not called; each socket asks for itself");
                        all_called = false;
                        continue;
                    }
                };
                let missing = batch.iter().zip(found).filter(|(called, found)| !called.sitting.answers(*found, asked));
                let topics: HashSet<&Topic> = missing.map(|(called, _)| &called.heard.topic).collect();
                for topic in topics {
                    debug!(%topic, "somebody sits there by what is no more");
                    self.0.subscriber.nudge(topic);
                }
            }
        }
        all_called
    }

    async fn look(&self, tenant: TenantId, batch: &[(ConversationId, Arc<Heard>)]) {
        let ids: Vec<ConversationId> = batch.iter().map(|(id, _)| *id).collect();
        let progress = match self.0.store.progress(tenant, &ids).await {
            Ok(progress) => progress,
            Err(error) => return warn!(?error, "held conversations not compared; the next look comes"),
        };
        let of: HashMap<ConversationId, &Arc<Heard>> = batch.iter().map(|(id, heard)| (*id, heard)).collect();
        for store in &progress {
            let Some(heard) = of.get(&store.id) else { continue };
            if heard.behind(store, self.0.subscriber.hears(&heard.topic)) {
                debug!(conversation.id = %store.id, "news were missed");
                self.0.subscriber.nudge(&heard.topic);
            }
        }
    }
}

fn lock(conversations: &Mutex<HashMap<ConversationId, Entry>>) -> MutexGuard<'_, HashMap<ConversationId, Entry>> {
    conversations.lock().unwrap_or_else(PoisonError::into_inner)
}
