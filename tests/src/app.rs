//! What a test stands on: one set of services for all tests of the process, a database for each.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use chat_core::{
    config::{self, Limits, Memory, Secret, Times, Titles, log_filter},
    store::migrate::migrate,
};
use orchestrator::{figures::Figures, model::Builtin};
use tokio::{
    net::TcpListener,
    sync::OnceCell,
    time::{Instant, sleep},
};
use tokio_postgres::{Client, NoTls};
use tracing_subscriber::EnvFilter;

use crate::{
    clients::{PATIENCE, Rest, Socket},
    demo::{self, Agent, Demo, Size, User},
    local_portal::LocalPortal,
    mint::Mint,
    product::{Product, QueueKind, Setting, real_channels},
    services::{Options, Services},
};

/// The name of the database that each test's is copied from.
const TEMPLATE: &str = "template_chat";

/// How long a token of a test's user holds.
const HOUR: Duration = Duration::from_secs(3_600);

/// What a test finds in its product: `acme` and `globex`.
const TWO_COMPANIES: Size = Size { tenants: 2, users: 2, agents: 2 };

/// The services, started by the first test that needs them. Nobody drops a static: when the process ends, however it
/// does, the services' watchdog ends them.
static SERVICES: OnceCell<Services> = OnceCell::const_new();

/// The services of this process, with the template database ready.
///
/// # Errors
/// What is missing on this machine, and how to get it.
pub async fn services() -> Result<&'static Services> {
    SERVICES
        .get_or_try_init(|| async {
            let filter = log_filter().unwrap_or_else(|| "warn".to_owned());
            let log = tracing_subscriber::fmt().with_test_writer().with_env_filter(EnvFilter::new(filter));
            log.try_init().map_err(|error| anyhow!("the log of the tests: {error}"))?;
            let options = Options { durable: false, max_connections: 400 };
            let services = Services::start(&options, &|_| {}).await?;
            make_template(&services).await?;
            Ok(services)
        })
        .await
}

async fn make_template(services: &Services) -> Result<()> {
    services.postgres.create_database(TEMPLATE, None).await?;
    migrate(&Secret::from(services.postgres.owner_url(TEMPLATE))).await?;
    Ok(())
}

/// The product on a database of its own, with two companies of two people and two agents each, and a platform_admin.
///
/// Its tenants are new, and every name in Redis begins with its tenant: so tests share a Redis without meeting.
pub struct App {
    /// The running product.
    pub product: Product,
    /// Who is in it.
    pub demo: Demo,
    /// Whose tokens are good.
    pub mint: Mint,
    /// How it was set; for a second product on the same database.
    pub setting: Setting,
    /// The owner's URL, to look behind the walls.
    pub owner_url: String,
    finished: bool,
}

impl App {
    /// Starts one.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// Starts one whose setting `change` has had a hand in.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub async fn with(change: impl FnOnce(&mut Setting)) -> Result<Self> {
        Self::of(TWO_COMPANIES, change).await
    }

    /// Starts one with another demo in it.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub async fn of(size: Size, change: impl FnOnce(&mut Setting)) -> Result<Self> {
        Self::start_on(services().await?, size, |setting, _, _| change(setting)).await
    }

    /// Starts one where people sign in, at `/`: `change` finds a portal in its setting.
    ///
    /// # Errors
    /// What is missing on this machine.
    pub async fn with_portal(change: impl FnOnce(&mut Setting)) -> Result<Self> {
        let change = |setting: &mut Setting, demo: &Demo, mint: &Mint| {
            setting.local_portal = Some(LocalPortal::new(demo, mint));
            change(setting);
        };
        Self::start_on(services().await?, TWO_COMPANIES, change).await
    }

    /// Starts one on services of its own, which the test may break.
    ///
    /// # Errors
    /// What cannot be reached.
    pub async fn on(services: &Services, change: impl FnOnce(&mut Setting)) -> Result<Self> {
        make_template(services).await?;
        Self::start_on(services, TWO_COMPANIES, |setting, _, _| change(setting)).await
    }

    async fn start_on(
        services: &Services,
        size: Size,
        change: impl FnOnce(&mut Setting, &Demo, &Mint),
    ) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("chat_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        services.postgres.create_database(&name, Some(TEMPLATE)).await?;
        let owner_url = services.postgres.owner_url(&name);
        let demo = demo::seed(&owner_url, size).await?;
        let mint = Mint::new();
        let mut setting = Setting {
            database_url: services.postgres.app_url(&name),
            redis: services.redis.entrance.clone(),
            queue: QueueKind::Local(None),
            token: mint.settings(),
            allowed_origins: vec!["https://portal.example".to_owned()],
            trusted_proxies: 0,
            portal: config::Portal::default(),
            metrics: config::Metrics::default(),
            local_portal: None,
            limits: lifted(),
            times: Times::default(),
            memory: Memory::default(),
            // A title is one more call of the model, which tests of other things would have to count.
            titles: Titles { turns: 0 },
            model: Arc::new(Builtin),
            notices: config::Notices::default(),
            sealing: config::Sealing::default(),
            channels: real_channels(),
            figures: Figures::default(),
            pool_size: 4,
        };
        change(&mut setting, &demo, &mint);
        let product = Product::start(&setting, TcpListener::bind(("127.0.0.1", 0)).await?).await?;
        Ok(Self { product, demo, mint, setting, owner_url, finished: false })
    }

    /// A second product on the same database and Redis, with another queue.
    ///
    /// # Errors
    /// What cannot be reached.
    pub async fn second(&self, queue: QueueKind) -> Result<Product> {
        let setting = Setting { queue, ..self.setting.clone() };
        Product::start(&setting, TcpListener::bind(("127.0.0.1", 0)).await?).await
    }

    /// The user with this handle: `root`, `ada@acme` (its admin), `ben@acme`, `ada@globex`, `ben@globex`.
    #[must_use]
    pub fn user(&self, handle: &str) -> &User {
        self.demo.user(handle).expect("a handle of the demo")
    }

    /// One of the agents of a user's company.
    #[must_use]
    pub fn agent_of(&self, user: &User) -> &Agent {
        self.demo.agents.iter().find(|agent| Some(agent.tenant) == user.tenant).expect("each company has agents")
    }

    /// A token for a user.
    #[must_use]
    pub fn token(&self, user: &User) -> String {
        self.mint.token(user.id, user.role, user.tenant, HOUR)
    }

    /// REST as a user.
    #[must_use]
    pub fn rest(&self, handle: &str) -> Rest {
        Rest::new(&self.product.rest(), Some(&self.token(self.user(handle))))
    }

    /// A user's conversation with the first agent of their company.
    ///
    /// # Errors
    /// If it was refused.
    pub async fn conversation(&self, handle: &str) -> Result<String> {
        let agent = self.agent_of(self.user(handle));
        self.rest(handle).open(agent.tenant, agent.id).await
    }

    /// A socket of a user in a conversation, ready.
    ///
    /// # Errors
    /// If it is not let in.
    pub async fn socket(&self, handle: &str, conversation: &str) -> Result<Socket> {
        Ok(Socket::join(&self.product.ws(), conversation, &self.token(self.user(handle))).await?.0)
    }

    /// A connection as the owner, who sees every row.
    ///
    /// # Errors
    /// If Postgres cannot be reached.
    pub async fn owner(&self) -> Result<Client> {
        connect(&self.owner_url).await
    }

    /// A connection as the app role, whom the walls hold.
    ///
    /// # Errors
    /// If Postgres cannot be reached.
    pub async fn app_role(&self) -> Result<Client> {
        connect(&self.setting.database_url).await
    }

    /// Waits for every turn to end, and so ends the test. The product itself ends with the test's runtime.
    ///
    /// # Errors
    /// If turns stay open.
    pub async fn finish(mut self) -> Result<()> {
        self.finished = true;
        let owner = self.owner().await?;
        until("every turn to end", || async {
            let open = "select count(*) from turns where state in ('queued', 'running')";
            Ok(owner.query_one(open, &[]).await?.get::<_, i64>(0) == 0)
        })
        .await
    }
}

impl Drop for App {
    fn drop(&mut self) {
        assert!(self.finished || std::thread::panicking(), "a test must end with `finish`, which looks for open turns");
    }
}

/// Connects to a database.
///
/// # Errors
/// If Postgres cannot be reached.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Limits that no test meets by accident; a test of a limit sets its own.
#[must_use]
pub fn lifted() -> Limits {
    Limits {
        address_unauthenticated: 1_000_000,
        user_sockets: 1_000_000,
        tenant_sockets: 1_000_000,
        sockets_wait_ms: 3_000,
        socket_frames_per_second: 1_000_000_000,
        socket_frames_burst: 1_000_000_000,
        user_messages_per_minute: 1_000_000_000,
        user_messages_burst: 1_000_000_000,
        queued_turns: 1_000_000,
        ..Limits::default()
    }
}

/// Waits until a condition holds.
///
/// # Errors
/// If it does not hold in time.
#[expect(clippy::disallowed_methods, reason = "the one place where tests wait between two looks")]
pub async fn until<F: Future<Output = Result<bool>>>(what: &str, mut holds: impl FnMut() -> F) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await.with_context(|| format!("waiting for {what}"))? {
        if Instant::now() > deadline {
            bail!("waited in vain for {what}");
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
