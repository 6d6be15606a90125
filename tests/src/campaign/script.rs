//! What the model of a campaign does: decided by its seed, by the message, and by the weather.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::ledger::marks;
use crate::model::{Act, Asked, ScriptedModel};

/// What every reply begins with; the message that it answers follows.
pub const REPLY: &str = "You said: ";

/// How the provider is today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// As providers are: now and then slow, busy or broken.
    Fair,
    /// Each answer takes a second.
    Slow,
    /// 429, with a time to wait.
    Busy,
    /// 500.
    Broken,
    /// The first answer to a message takes a second and ends in the middle or is whole, as it comes; a second one comes
    /// at once. Whoever was thought dead has something to say when it comes back.
    Treacherous,
    /// No word.
    Silent,
    /// Answers end in the middle.
    Cutting,
    /// Answers that are no JSON.
    Garbled,
}

/// Bad weather.
pub const BAD: &[Weather] =
    &[Weather::Slow, Weather::Busy, Weather::Broken, Weather::Silent, Weather::Cutting, Weather::Garbled];

/// The model.
pub struct Script {
    model: ScriptedModel,
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    weather: Mutex<Weather>,
    /// Calls, by the mark of the message that was asked.
    calls: Mutex<HashMap<String, usize>>,
    foreign: AtomicUsize,
}

impl Script {
    /// Starts it.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn start(seed: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            seed,
            weather: Mutex::new(Weather::Fair),
            calls: Mutex::default(),
            foreign: AtomicUsize::new(0),
        });
        let decides = Arc::clone(&shared);
        let model = ScriptedModel::start(move |asked| decides.act(asked)).await?;
        Ok(Self { model, shared })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// If its URL has no address.
    pub fn address(&self) -> Result<SocketAddr> {
        let url = self.model.base_url();
        let address = url.trim_start_matches("http://").split('/').next();
        address.and_then(|address| address.parse().ok()).with_context(|| format!("an address in {url}"))
    }

    /// Changes the weather.
    pub fn weather(&self, weather: Weather) {
        *lock(&self.shared.weather) = weather;
    }

    /// Calls for each message that was asked about.
    #[must_use]
    pub fn calls(&self) -> Vec<usize> {
        lock(&self.shared.calls).values().copied().collect()
    }

    /// How often a prompt held the words of another conversation.
    #[must_use]
    pub fn foreigns(&self) -> usize {
        self.shared.foreign.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn act(&self, asked: &Asked) -> Act {
        let mark = marks(&asked.message).next().unwrap_or("nobody").to_owned();
        let ours = mark.split_once('.').map_or("", |(conversation, _)| conversation);
        let said = asked.said.iter().flat_map(|(_, text)| marks(text));
        if said.filter_map(|mark| mark.split_once('.')).any(|(conversation, _)| conversation != ours) {
            self.foreign.fetch_add(1, Ordering::Relaxed);
        }
        let nth = {
            let mut calls = lock(&self.calls);
            let calls = calls.entry(mark.clone()).or_default();
            *calls += 1;
            *calls
        };
        let mut random = StdRng::seed_from_u64(self.seed ^ hash(&mark) ^ (nth as u64) << 48);
        let answer = |pause_ms: u64| Act::Answer {
            text: format!("{REPLY}{}", asked.message),
            pieces: 3,
            pause: Duration::from_millis(pause_ms),
        };
        let busy = || Act::Refuse { status: 429, retry_after: Some("1".to_owned()) };
        let cut = |pause_ms: u64| Act::CutAfter {
            text: format!("{REPLY}{}", asked.message),
            pieces: 2,
            pause: Duration::from_millis(pause_ms),
        };
        let weather = *lock(&self.weather);
        match weather {
            Weather::Fair => match random.random_range(0..1_000) {
                // Faster than anybody can subscribe.
                0..300 => answer(0),
                300..900 => answer(random.random_range(1..40)),
                900..960 => answer(random.random_range(100..300)),
                960..970 => busy(),
                970..980 => Act::Refuse { status: 503, retry_after: None },
                980..990 => cut(5),
                990..996 => Act::Garbage,
                _ => Act::Hang,
            },
            Weather::Slow => answer(350),
            Weather::Busy => busy(),
            Weather::Broken => Act::Refuse { status: 500, retry_after: None },
            // One that was asked before answers: who is silent for good would only fill the time.
            Weather::Silent if nth == 1 => Act::Hang,
            Weather::Cutting if nth == 1 => cut(5),
            Weather::Treacherous if nth == 1 && random.random_bool(0.5) => cut(400),
            Weather::Treacherous if nth == 1 => answer(300),
            Weather::Silent | Weather::Cutting | Weather::Treacherous => answer(0),
            Weather::Garbled => Act::Garbage,
        }
    }
}

/// FNV-1a: the same on every machine and in every version, so that a seed tells the same story again.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
