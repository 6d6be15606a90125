//! The product as it is deployed, on one machine: two hubs behind a balancer, environments of three functions, Postgres,
//! Redis, an SQS-compatible server and a scripted model; a proxy on every link.

use std::{
    io::Write as _,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use chat_core::{config::Secret, store::migrate::migrate};
use tokio::{
    sync::Mutex,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    links::{Backends, Links},
    pool::Pool,
    script::Script,
    source::{Mischief, Source},
};
use crate::{
    app,
    balancer::Balancer,
    cache,
    demo::{self, Demo, Size},
    hub_process::HubProcess,
    mint::Mint,
    product::SqsAddress,
    pump::create_queue_hiding,
    services::{Options, Services, User, free_port},
    wire::Wire,
};

/// Hubs.
pub const HUBS: usize = 2;

/// Environments of the orchestrator; of the REST function; of the dead-letter function.
const ORCHESTRATORS: usize = 6;
const FRONTS: usize = 3;
const UNDERTAKERS: usize = 1;

/// How often a hub that does not come up is started again.
const STARTS: u32 = 6;

/// Longest life of a hub after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(25);

/// The times of a campaign, shortened so that a fault is over in seconds, in the same order as in production; the start of
/// every process checks that. Timeouts that are no settings (a script's 8 s) stay, and are longer than the lease here.
const TIMES: &[(&str, &str)] = &[
    ("TURN_LEASE_MS", "2000"),
    ("TURN_RENEW_MS", "600"),
    ("TURN_DEADLINE_MS", "12000"),
    ("TURN_ATTEMPTS", "3"),
    ("FUNCTION_TIMEOUT_MS", "13000"),
    ("QUEUE_VISIBILITY_MS", "14000"),
    ("SWEEP_FIRST_MS", "400"),
    ("SWEEP_LONGEST_MS", "3000"),
    ("TURN_QUEUE_AGE_MS", "30000"),
    ("HUB_LOOK_MS", "700"),
    ("HUB_LOOK_ALL_MS", "4000"),
    ("LIMIT_USER_MESSAGES_PER_MINUTE", "100000"),
    ("LIMIT_USER_MESSAGES_BURST", "10000"),
];

/// After this from when it came to its turn, a message without an end is stuck: the queue age, the longest turn, and time
/// for a sweep and a look.
pub const STUCK_AFTER: Duration = Duration::from_secs(30 + 12 + 8);

/// Everything that runs.
pub struct Stack {
    /// Postgres, Redis and the queue.
    pub services: Services,
    /// Who is in it.
    pub demo: Demo,
    /// Whose tokens are good.
    pub mint: Mint,
    /// In front of the hubs.
    pub balancer: Balancer,
    /// The hubs.
    pub hubs: Vec<Hub>,
    /// The function that the queue wakes.
    pub orchestrators: Arc<Pool>,
    /// REST.
    pub fronts: Arc<Pool>,
    /// What dead letters wake.
    undertakers: Arc<Pool>,
    /// Between the event sources and the queue.
    pub source: Wire,
    /// How deliveries go wrong.
    pub mischief: Arc<Mischief>,
    /// Records that nobody can read, each of which has to become a dead letter.
    pub poisoned: AtomicI64,
    /// The model.
    pub script: Script,
    /// The queue of hints.
    pub queue: SqsAddress,
    /// The owner's URL, who sees every row.
    pub owner_url: String,
    stop: CancellationToken,
    sources: Vec<JoinHandle<()>>,
}

/// A hub, with links of its own.
pub struct Hub {
    /// Its links; they outlive the process.
    pub links: Links,
    address: SocketAddr,
    program: PathBuf,
    /// What comes up in its place.
    next: PathBuf,
    environment: Vec<(&'static str, String)>,
    log: Option<PathBuf>,
    process: Mutex<Option<HubProcess>>,
}

/// The binaries that a campaign runs, and what it changes about them.
#[derive(Debug, Clone)]
pub struct Build {
    /// The folder of the binaries.
    pub folder: PathBuf,
    /// The folder of those with which hubs that were down come up again, where that is another: a deployment.
    pub rolled_to: Option<PathBuf>,
    /// Settings beside the usual ones, or instead of them.
    pub settings: Vec<(&'static str, String)>,
    /// Statements that the owner role executes before the start.
    pub sql: &'static str,
    /// A folder for the hubs' logs, in detail.
    pub logs: Option<PathBuf>,
}

impl Stack {
    /// Starts everything.
    ///
    /// # Errors
    /// What is missing on this machine, or does not come up.
    pub async fn start(build: &Build, size: Size, seed: u64, say: &dyn Fn(&str)) -> Result<Self> {
        let mut services = Services::start(&Options { durable: true, max_connections: 200 }, say).await?;
        let endpoint = services.start_sqs(&cache(), say).await?.endpoint();
        services.postgres.create_database("chat", None).await?;
        let owner_url = services.postgres.owner_url("chat");
        migrate(&Secret::from(owner_url.clone())).await?;
        app::connect(&owner_url).await?.batch_execute(build.sql).await?;
        let demo = demo::seed(&owner_url, size).await?;
        let script = Script::start(seed).await?;
        app::connect(&owner_url).await?.batch_execute("update agents set model = 'scripted'").await?;
        let mint = Mint::new();
        let sqs: SocketAddr = endpoint.trim_start_matches("http://").parse()?;
        // Of two with one name the later one counts.
        let times = TIMES.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let mut settings: Vec<_> = times.chain(build.settings.iter().cloned()).collect();
        let visibility = settings.iter().rev().find(|(name, _)| *name == "QUEUE_VISIBILITY_MS");
        let visibility = Duration::from_millis(visibility.context("it is among the times")?.1.parse()?);
        let queue = create_queue_hiding(&endpoint, "turns", visibility).await?;
        settings.extend([
            ("QUEUE_URL", queue.queue_url.clone()),
            ("JWT_SECRET", mint.secret().to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "local".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
            ("MODEL_PROVIDER", "openai".to_owned()),
            ("MODEL_API_KEY", "scripted".to_owned()),
            ("RUST_LOG", if build.logs.is_some() { "debug,hyper=warn,h2=warn,aws=warn" } else { "error" }.to_owned()),
        ]);
        let backends = Backends {
            database_url: services.postgres.app_url("chat"),
            redis: services.redis.entrance.clone(),
            queue: sqs,
            model: script.address()?,
            settings: Arc::new(settings),
        };
        say("starting the functions and two hubs");
        let pool = |name: &'static str, size| {
            let (folder, backends) = (build.folder.clone(), backends.clone());
            async move { Ok::<_, anyhow::Error>(Arc::new(Pool::start(folder.join(name), &backends, size).await?)) }
        };
        let (orchestrators, fronts, undertakers) = tokio::try_join!(
            pool("orchestrator", ORCHESTRATORS),
            pool("conversations", FRONTS),
            pool("dead_letters", UNDERTAKERS)
        )?;
        let mut hubs = Vec::new();
        for number in 0..HUBS {
            hubs.push(Hub::start(build, &backends, number).await?);
        }
        let balancer = Balancer::before(hubs.iter().map(|hub| hub.address).collect()).await?;
        let source = Wire::before(sqs).await?;
        let (stop, mischief) = (CancellationToken::new(), Arc::new(Mischief::default()));
        let sources = [(&queue.queue_url, &orchestrators), (&queue.dead_letters_url, &undertakers)]
            .into_iter()
            .map(|(url, function)| Source {
                endpoint: format!("http://{}", source.address),
                url: url.clone(),
                function: Arc::clone(function),
                mischief: Arc::clone(&mischief),
                seed,
            })
            .map(|source| tokio::spawn(source.run(stop.clone())))
            .collect();
        Ok(Self {
            services,
            demo,
            mint,
            balancer,
            hubs,
            orchestrators,
            fronts,
            undertakers,
            source,
            mischief,
            poisoned: AtomicI64::new(0),
            script,
            queue,
            owner_url,
            stop,
            sources,
        })
    }

    /// The links of every process.
    pub fn links(&self) -> impl Iterator<Item = &Links> {
        let pools = [&self.orchestrators, &self.fronts, &self.undertakers];
        let functions = pools.into_iter().flat_map(|pool| pool.environments().iter().map(|env| &env.links));
        self.hubs.iter().map(|hub| &hub.links).chain(functions)
    }

    /// Everybody's link to the queue, the event sources' included.
    pub fn queue_links(&self) -> impl Iterator<Item = &Wire> {
        self.links().map(|links| &links.queue).chain([&self.source])
    }

    /// Kills Redis with all that it holds, and starts another.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn replace_redis(&mut self) -> Result<()> {
        self.services.replace_redis().await?;
        let redis = SocketAddr::from(([127, 0, 0, 1], self.services.redis.port()));
        for links in self.links() {
            links.redis.lead_to(redis);
            links.redis.sever();
        }
        Ok(())
    }

    /// Ends everything.
    ///
    /// # Errors
    /// If something does not.
    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        for source in self.sources {
            source.await?;
        }
        for hub in &self.hubs {
            hub.kill().await?;
        }
        self.services.stop().await
    }
}

impl Hub {
    async fn start(build: &Build, backends: &Backends, number: usize) -> Result<Self> {
        let links = Links::to(backends).await?;
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let mut environment = links.environment(backends, User::Hub)?;
        environment.push(("LISTEN", address.to_string()));
        let program = build.folder.join("hub");
        let next = build.rolled_to.as_ref().unwrap_or(&build.folder).join("hub");
        let log = build.logs.as_ref().map(|logs| logs.join(format!("hub-{number}.log")));
        let hub = Self { links, address, program, next, environment, log, process: Mutex::default() };
        hub.launch(&hub.program).await?;
        Ok(hub)
    }

    /// Starts a process where the last one was, and waits until it takes sockets.
    ///
    /// # Errors
    /// If it does not.
    pub async fn come_up(&self) -> Result<()> {
        self.launch(&self.next).await
    }

    #[expect(clippy::disallowed_methods, reason = "backs off as whoever runs a hub does")]
    async fn launch(&self, program: &Path) -> Result<()> {
        // While no hub listened there, a connection of somebody else may have got its port for a moment.
        let mut tries = 0;
        let process = loop {
            match HubProcess::start(program, &self.environment).await {
                Err(error) if tries < STARTS => warn!(?error, "a hub does not come up; trying again"),
                started => break started?,
            }
            tries += 1;
            sleep(Duration::from_millis(500)).await;
        };
        *self.process.lock().await = Some(process);
        Ok(())
    }

    /// Kills the process.
    ///
    /// # Errors
    /// If none runs.
    pub async fn kill(&self) -> Result<()> {
        let mut process = self.process.lock().await.take().context("no hub runs")?;
        process.signal("KILL")?;
        let status = process.exit().await?;
        self.keep_log(&process)?;
        ensure!(status.signal() == Some(9), "a hub had ended by itself, with {status}; it said:\n{}", process.said());
        Ok(())
    }

    /// Asks the process to go, and waits until it has. Returns its exit code.
    ///
    /// # Errors
    /// If it stays.
    pub async fn terminate(&self) -> Result<Option<i32>> {
        let mut process = self.process.lock().await.take().context("no hub runs")?;
        process.signal("TERM")?;
        let status = timeout(DRAIN, process.exit()).await.context("a hub stays after SIGTERM")??;
        self.keep_log(&process)?;
        Ok(status.code())
    }

    fn keep_log(&self, process: &HubProcess) -> Result<()> {
        let Some(path) = &self.log else { return Ok(()) };
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(log.write_all(process.said().as_bytes())?)
    }
}
