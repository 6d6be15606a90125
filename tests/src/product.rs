//! The REST function, the hub and the orchestrator in one process, on one port.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Result;
use aws_sdk_sqs::config::{BehaviorVersion, Credentials, Region};
use chat_core::{
    bus::{Buckets, Publisher},
    config::{self, Limits, Memory, Secret, Times, Titles},
    queue::{Local, Mischief, Queue, Sqs},
    store::{Store, sweep::Pace},
    token::Verifier,
};
use conversations::Api;
use dead_letters::DeadLetters;
use hub::{Hub, Parts};
use orchestrator::{
    Orchestrator,
    figures::Figures,
    model::Model,
    notice::Notices,
    routes::delivery::{Channels, Patience},
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    app,
    clients::http,
    local_portal::LocalPortal,
    pump::{self, Functions},
    services::{Entrance, User},
};

/// Hints that the in-process queue holds; what does not fit is left to the sweep.
const LOCAL_QUEUE: usize = 65_536;

/// What a product stands on, and how it behaves.
#[derive(Clone)]
pub struct Setting {
    /// Postgres, as the app role.
    pub database_url: String,
    /// Redis, where each part comes in as its own user.
    pub redis: Entrance,
    /// Where hints of work go.
    pub queue: QueueKind,
    /// Whose tokens are good.
    pub token: config::Token,
    /// Pages that may connect.
    pub allowed_origins: Vec<String>,
    /// Proxies in front of it.
    pub trusted_proxies: usize,
    /// What the chat page is told.
    pub portal: config::Portal,
    /// Who may read the hub's figures.
    pub metrics: config::Metrics,
    /// Where people sign in, if they can. Its page may then show the chat.
    pub local_portal: Option<LocalPortal>,
    /// What a peer can grow.
    pub limits: Limits,
    /// The times of a turn's life.
    pub times: Times,
    /// What agents are reminded of.
    pub memory: Memory,
    /// What conversations are called.
    pub titles: Titles,
    /// Who answers.
    pub model: Arc<dyn Model>,
    /// How tenants are told outside that a person is wanted.
    pub notices: config::Notices,
    /// What seals tenants' secrets.
    pub sealing: config::Sealing,
    /// The services behind the channels that are not the web.
    pub channels: Channels,
    /// Where the orchestrator's figures go.
    pub figures: Figures,
    /// Connections of the REST handlers, of the hub and of the orchestrator, each.
    pub pool_size: usize,
}

/// The services behind the channels where nobody gave others: their real addresses, and no key for a token.
#[must_use]
pub fn real_channels() -> Channels {
    let settings = config::Channels::read(&mut config::Env::new(&|_| None));
    let patience = Patience::within(Times::default().turn);
    Channels::new(&settings, &config::Sealing::default(), app::lifted().text_chars, patience)
}

/// Which queue.
#[derive(Clone)]
pub enum QueueKind {
    /// In this process.
    Local(Option<Mischief>),
    /// An SQS-compatible server.
    Sqs(SqsAddress),
}

/// A queue on an SQS-compatible server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SqsAddress {
    /// The server.
    pub endpoint: String,
    /// The queue on it.
    pub queue_url: String,
    /// Where its records go that fail too often.
    pub dead_letters_url: String,
}

/// A running product.
pub struct Product {
    /// Where it listens.
    pub address: SocketAddr,
    /// The hub.
    pub hub: Hub,
    /// The orchestrator, for a test that plays the queue itself.
    pub orchestrator: Orchestrator,
    /// What the queue's dead letters wake.
    pub dead_letters: DeadLetters,
    /// The hints it sends.
    pub queue: Arc<dyn Queue>,
    store: Store,
    stop: CancellationToken,
    server: JoinHandle<std::io::Result<()>>,
    pump: JoinHandle<()>,
}

impl Product {
    /// Starts it on a listener.
    ///
    /// # Errors
    /// What cannot be reached.
    pub async fn start(setting: &Setting, listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let database =
            config::Database { url: Secret::from(setting.database_url.clone()), pool_size: setting.pool_size };
        let redis = |user| setting.redis.settings(user);
        let publisher = |user| Publisher::new(&redis(user));
        let (queue, source): (Arc<dyn Queue>, pump::Source) = match &setting.queue {
            QueueKind::Local(mischief) => {
                let (queue, inbox) = Local::new(LOCAL_QUEUE, *mischief);
                (Arc::new(queue), pump::Source::Local(inbox))
            }
            QueueKind::Sqs(address) => {
                let client = sqs_client(&address.endpoint);
                let queue = Sqs::new(client.clone(), address.queue_url.clone());
                (Arc::new(queue), pump::Source::Sqs(client, address.clone()))
            }
        };
        let store = Store::connect(&database).await?;
        let orchestrator = Orchestrator {
            store: Store::connect(&database).await?,
            queue: Arc::clone(&queue),
            publisher: publisher(User::Orchestrator)?,
            model: Arc::clone(&setting.model),
            channels: setting.channels.clone(),
            times: setting.times,
            memory: setting.memory,
            titles: setting.titles,
            notices: Arc::new(Notices::new(&setting.notices, &setting.sealing)),
            figures: setting.figures.clone(),
        };
        let dead_letters = DeadLetters {
            store: orchestrator.store.clone(),
            queue: Arc::clone(&queue),
            publisher: publisher(User::DeadLetters)?,
            pace: Pace::new(&setting.times),
        };
        let (mut portal, mut allowed_origins) = (setting.portal.clone(), setting.allowed_origins.clone());
        if setting.local_portal.is_some() {
            portal.hosts.push(format!("http://{address}"));
            allowed_origins.push(format!("http://{address}"));
        }
        let hub = Hub::start(Parts {
            store: store.clone(),
            queue: Arc::clone(&queue),
            publisher: publisher(User::Hub)?,
            redis: redis(User::Hub),
            token: setting.token.clone(),
            edge: config::Edge {
                listen: address.to_string(),
                allowed_origins: allowed_origins.clone(),
                trusted_proxies: setting.trusted_proxies,
            },
            portal,
            metrics: setting.metrics.clone(),
            limits: setting.limits,
            times: setting.times,
        })?;
        let publisher = publisher(User::Conversations)?;
        let api = Api {
            store: store.clone(),
            queue: Arc::clone(&queue),
            buckets: Buckets::new(&publisher, &setting.limits),
            publisher,
            verifier: Arc::new(Verifier::new(&setting.token)?),
            limits: setting.limits,
            allowed_origins,
        };
        let local = setting.local_portal.as_ref().map(|portal| portal.routes(address)).unwrap_or_default();
        let router = hub::router(hub.clone()).merge(conversations::router(api)).merge(local);
        let server = tokio::spawn(hub.clone().serve(listener, router, stop.clone().cancelled_owned()));
        let functions = Functions { orchestrator: orchestrator.clone(), dead_letters: dead_letters.clone() };
        let pump = tokio::spawn(pump::run(source, functions, stop.clone()));
        Ok(Self { address, hub, orchestrator, dead_letters, queue, store, stop, server, pump })
    }

    /// Where REST is.
    #[must_use]
    pub fn rest(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where the sockets are.
    #[must_use]
    pub fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Returns once both halves answer.
    ///
    /// # Errors
    /// If one does not in time.
    pub async fn answers(&self) -> Result<()> {
        let http = http();
        for probe in ["/readyz".to_owned(), format!("{}/readyz", conversations::BASE)] {
            app::until(&probe, || async {
                let asked = http.get(format!("{}{probe}", self.rest())).send().await;
                Ok(asked.is_ok_and(|answer| answer.status().is_success()))
            })
            .await?;
        }
        Ok(())
    }

    /// Says goodbye to the sockets and ends.
    ///
    /// # Errors
    /// What the server failed with.
    pub async fn stop(&mut self) -> Result<()> {
        self.stop.cancel();
        (&mut self.server).await??;
        (&mut self.pump).await?;
        self.store.close();
        self.orchestrator.store.close();
        Ok(())
    }
}

/// A client of an SQS-compatible server: made-up credentials, and nothing read from the environment.
#[must_use]
pub fn sqs_client(endpoint: &str) -> aws_sdk_sqs::Client {
    let config = aws_sdk_sqs::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("local", "local", None, None, "local"))
        .endpoint_url(endpoint)
        .build();
    aws_sdk_sqs::Client::from_conf(config)
}
