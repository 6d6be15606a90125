//! The orchestrator: SQS wakes it, it claims a turn, runs the agent, stores the reply and publishes it.
//!
//! A message on its way through: [`batch`] (the records, side by side) → [`routes`] (where its answer goes) →
//! [`turn`] (claim, run, finish, next hint) → [`escalation`] (or a person) → [`agent`] and [`model`] (the answer itself).
//! While it is written, [`lease`] holds the turn and [`telling`] brings the words of its [`draft`] to the sockets. What the
//! models take is paid for by [`spend`]. A message of another channel than the web has a turn of its own kind, [`channel`],
//! whose answer is sent by its route. No transaction is open while a model or a channel is called.

pub mod agent;
pub mod batch;
pub mod channel;
pub mod draft;
pub mod escalation;
pub mod figures;
mod lease;
mod memory;
pub mod model;
pub mod notice;
mod outside;
pub mod routes;
pub mod spend;
mod telling;
mod title;
pub mod tools;
pub mod turn;

use std::sync::Arc;

use chat_core::{
    bus::Publisher,
    config::{self, Env, Limits, Memory, Times, Titles},
    queue::{Queue, Sqs},
    sealed::Sealer,
    store::Store,
};

use figures::Figures;
use model::{Model, Models, keys::TenantKeys, provider::Patience};
use notice::Notices;
use routes::delivery::{self, Channels};

/// Connections an environment holds: it runs a batch of turns side by side, each in short transactions.
pub const POOL_SIZE: usize = 2;

/// What every turn needs. Cheap to clone.
#[derive(Clone)]
pub struct Orchestrator {
    /// The facts.
    pub store: Store,
    /// Hints of work, for the turn that waits behind the one just ended.
    pub queue: Arc<dyn Queue>,
    /// Hints of news.
    pub publisher: Publisher,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// The services behind the channels that are not the web.
    pub channels: Channels,
    /// The times of a turn's life.
    pub times: Times,
    /// What agents are reminded of.
    pub memory: Memory,
    /// What conversations are called.
    pub titles: Titles,
    /// Tells tenants outside that a person is wanted.
    pub notices: Arc<Notices>,
    /// What operators watch.
    pub figures: Figures,
}

impl Orchestrator {
    /// Builds it from the environment, and connects in the background, while the first event is on its way.
    ///
    /// # Errors
    /// The settings that are missing or malformed, by name.
    pub fn from_env(figures: Figures) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut env = Env::new(&config::process);
        let database = config::Database::read(&mut env, POOL_SIZE);
        let redis = config::Redis::read(&mut env);
        let queue = config::Queue::read(&mut env);
        let times = Times::read(&mut env);
        let model = config::Model::read(&mut env);
        let (memory, titles) = (Memory::read(&mut env), Titles::read(&mut env));
        let (notices, sealing) = (config::Notices::read(&mut env), config::Sealing::read(&mut env));
        let channels = config::Channels::read(&mut env);
        let text_chars = Limits::read(&mut env).text_chars;
        let (database, redis, queue, times, model, memory) =
            env.finish((database, redis, queue, times, model, memory))?;
        let store = Store::new(&database)?;
        store.warm();
        let keys = TenantKeys::new(store.clone(), Sealer::new(&sealing));
        let models = Models::new(&model, Patience::within(times.turn)).with_keys(keys).with_figures(figures.clone());
        models.warm();
        Ok(Self {
            store,
            queue: Arc::new(Sqs::from_settings(&queue)),
            publisher: Publisher::new(&redis)?,
            model: Arc::new(models),
            channels: Channels::new(&channels, &sealing, text_chars, delivery::Patience::within(times.turn)),
            times,
            memory,
            titles,
            notices: Arc::new(Notices::new(&notices, &sealing)),
            figures,
        })
    }
}
