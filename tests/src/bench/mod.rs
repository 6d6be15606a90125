//! What `cargo bench-all` measures, and what it stands on.
//!
//! Each figure that travels between machines is a ratio to something measured in the same run. Postgres is durable
//! (`fsync` and `synchronous_commit` on), and the clients are included unless a table says otherwise.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{
    config::{self, Memory, Secret, Times, Titles},
    store::migrate::migrate,
};
use orchestrator::model::Builtin;
use tokio_postgres::Client;

use crate::{
    app,
    demo::{self, Demo, Size},
    hub_process::{self, HubProcess},
    mint::Mint,
    product::{QueueKind, Setting, SqsAddress, real_channels},
    services::{Options, Services},
};

pub mod chat;
pub mod cold;
pub mod crowd;
pub mod idle;
pub mod machine;
pub mod pressure;
pub mod relay;
pub mod rest;
pub mod storm;

/// How long a token of a benchmark holds.
const HOURS: Duration = Duration::from_secs(12 * 3_600);

/// Private services with a database of this product, and people in it.
pub struct Stack {
    /// The services.
    pub services: Services,
    /// Who is in it.
    pub demo: Demo,
    /// Who signs for them.
    pub mint: Mint,
    /// How a product on it behaves; its queue is in the product's own process.
    pub setting: Setting,
    /// The database, as its owner.
    pub owner: Client,
}

impl Stack {
    /// Starts it.
    ///
    /// # Errors
    /// What cannot be started.
    pub async fn start(size: Size) -> Result<Self> {
        let say = |step: &str| tell(step);
        let services = Services::start(&Options { durable: true, max_connections: 200 }, &say).await?;
        services.postgres.create_database("bench", None).await?;
        let owner_url = services.postgres.owner_url("bench");
        migrate(&Secret::from(owner_url.clone())).await?;
        let demo = demo::seed(&owner_url, size).await?;
        let mint = Mint::new();
        let setting = Setting {
            database_url: services.postgres.app_url("bench"),
            redis: services.redis.entrance.clone(),
            queue: QueueKind::Local(None),
            token: mint.settings(),
            allowed_origins: Vec::new(),
            trusted_proxies: 0,
            portal: config::Portal::default(),
            local_portal: None,
            metrics: config::Metrics::default(),
            limits: app::lifted(),
            times: Times::default(),
            memory: Memory::default(),
            titles: Titles { turns: 0 },
            notices: config::Notices::default(),
            sealing: config::Sealing::default(),
            model: Arc::new(Builtin),
            channels: real_channels(),
            figures: orchestrator::figures::Figures::default(),
            pool_size: 8,
        };
        let owner = app::connect(&owner_url).await?;
        Ok(Self { services, demo, mint, setting, owner })
    }

    /// Starts a hub of its own process on it, as it is deployed. No message may be sent there: its queue leads nowhere.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn hub(&self) -> Result<HubProcess> {
        let nowhere = "http://127.0.0.1:9".to_owned();
        let queue =
            SqsAddress { queue_url: format!("{nowhere}/queue"), dead_letters_url: String::new(), endpoint: nowhere };
        let setting = Setting { queue: QueueKind::Sqs(queue), ..self.setting.clone() };
        HubProcess::start(&program("hub")?, &hub_process::environment(&setting)?).await
    }

    /// So many conversations that stand already, each of somebody's own, with a token of theirs.
    ///
    /// # Errors
    /// What Postgres refuses.
    pub async fn entrants(&self, count: usize) -> Result<Vec<crowd::Entrant>> {
        let open = "insert into web_conversations (id, tenant_id, agent_id, user_id)
                    select gen_random_uuid(), r.tenant_id, a.id, r.user_id
                    from user_tenant_roles r join agents a using (tenant_id) on conflict do nothing";
        self.owner.execute(open, &[]).await.context("opening conversations")?;
        let of = "select id::text, user_id::text from web_conversations order by id limit $1";
        let rows = self.owner.query(of, &[&i64::try_from(count)?]).await?;
        ensure!(rows.len() == count, "there are {} conversations", rows.len());
        let user = |id: &str| self.demo.users.iter().find(|user| user.id.to_string() == id).context("one of ours");
        let people: std::collections::HashMap<String, String> = rows
            .iter()
            .map(|row| {
                let who = user(row.get(1))?;
                Ok((who.id.to_string(), self.mint.token(who.id, who.role, who.tenant, HOURS)))
            })
            .collect::<Result<_>>()?;
        Ok(rows.iter().map(|row| (row.get(0), people[row.get::<_, &str>(1)].clone())).collect())
    }

    /// The database as the product reaches it.
    #[must_use]
    pub fn database(&self) -> config::Database {
        config::Database { url: Secret::from(self.setting.database_url.clone()), pool_size: self.setting.pool_size }
    }

    /// Transactions that Postgres has committed so far.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub async fn commits(&self) -> Result<i64> {
        // Sessions tell of theirs within a second or so.
        let of = "select xact_commit from pg_stat_database where datname = current_database()";
        Ok(self.owner.query_one(of, &[]).await?.get(0))
    }

    /// Ends it.
    ///
    /// # Errors
    /// What does not end.
    pub async fn stop(self) -> Result<()> {
        drop(self.owner);
        self.services.stop().await
    }
}

/// A program that was built beside this one.
///
/// # Errors
/// If it was not.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.is_file(), "{} is not built: cargo build --release --workspace --bins", path.display());
    Ok(path)
}

/// Lets time pass, in which something is measured or settles; nothing here waits for a condition that way.
#[expect(clippy::disallowed_methods, reason = "a benchmark measures over a time")]
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Says what is being done, for people who wait.
#[expect(clippy::print_stderr, reason = "it talks to the person who started it")]
pub fn tell(step: &str) {
    eprintln!("  {step}");
}

/// Prints a line of a table.
#[expect(clippy::print_stdout, reason = "a table is what they print")]
pub fn line(text: &str) {
    println!("{text}");
}

/// So many in so much time, a second.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub fn rate(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
