//! `cargo bench-chat`: chats through real sockets, in a closed loop, against the store alone.
//!
//! One run measures both on the same machine: first accept, claim and finish called directly, one after the other as a
//! chat needs them; then whole chats with the echo model. The client is included. Postgres is durable (`fsync` and
//! `synchronous_commit` on). The figures that travel between machines are the ratios.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use chat_core::{
    config::{self, Database, Memory, Secret, Times, Titles},
    ids::{ConversationId, MessageId},
    store::{Store, migrate::migrate, turns::Completion},
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use clap::Parser;
use futures::future::try_join_all;
use harness::{
    app,
    clients::{Rest, Socket},
    demo::{self, Agent, Demo, Size, User},
    mint::Mint,
    product::{Product, QueueKind, Setting, real_channels},
    series::Series,
    services::{Options, Services},
};
use orchestrator::model::Builtin;
use serde_json::json;
use tokio::{net::TcpListener, time::Instant};

/// Chats through real sockets, against the store alone.
#[derive(Parser)]
struct Cli {
    /// How many sockets chat at once; several runs, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    sockets: Vec<usize>,
    /// Length of each measurement, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where to write the figures as JSON.
    #[arg(long)]
    json: Option<std::path::PathBuf>,
}

/// What everybody says.
const SAID: &str = "How are you today? I have a question.";

/// What one caller, or all of them together, measured.
#[derive(Default)]
struct Figures {
    typing: Series,
    accepted: Series,
    response: Series,
}

/// One caller: a person with an agent.
struct Caller<'a> {
    user: &'a User,
    agent: &'a Agent,
    token: String,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let say = |step: &str| eprintln!("  {step}");
    let services = Services::start(&Options { durable: true, max_connections: 100 }, &say).await?;
    services.postgres.create_database("bench", None).await?;
    let owner_url = services.postgres.owner_url("bench");
    migrate(&Secret::from(owner_url.clone())).await?;
    let most = cli.sockets.iter().copied().max().unwrap_or(1);
    let demo = demo::seed(&owner_url, Size { tenants: 4, users: most.div_ceil(4), agents: 1 }).await?;
    let mint = Mint::new();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let setting = Setting {
        database_url: services.postgres.app_url("bench"),
        redis: services.redis.entrance.clone(),
        queue: QueueKind::Local(None),
        token: mint.settings(),
        allowed_origins: Vec::new(),
        trusted_proxies: 0,
        portal: config::Portal::default(),
        local_portal: None,
        limits: app::lifted(),
        times: Times::default(),
        memory: Memory::default(),
        titles: Titles { turns: 0 },
        notices: config::Notices::default(),
        sealing: config::Sealing::default(),
        model: Arc::new(Builtin),
        channels: real_channels(),
        pool_size: 8,
    };
    let mut product = Product::start(&setting, listener).await?;
    product.answers().await?;
    let callers = callers(&demo, &mint)?;
    let length = Duration::from_secs(cli.seconds);

    println!("queue: in-process; Postgres durable; {} s a run; times in ms", cli.seconds);
    println!(
        "{:>8} {:>14} {:>9} {:>9} {:>14} {:>9} {:>7} {:>15} {:>15} {:>15}",
        "", "store alone", "", "", "chats", "", "", "typing", "accepted", "response"
    );
    println!(
        "{:>8} {:>14} {:>9} {:>9} {:>14} {:>9} {:>7} {:>15} {:>15} {:>15}",
        "sockets", "chats/s", "p50", "p99", "chats/s", "of store", "", "p50/p99", "p50/p99", "p50/p99"
    );
    let mut report = Vec::new();
    for &sockets in &cli.sockets {
        let callers = &callers[..sockets];
        eprintln!("  {sockets} sockets: the store alone");
        let (mut alone, alone_rate) = store_alone(&setting, &product, callers, length).await?;
        eprintln!("  {sockets} sockets: chats");
        let (mut figures, rate) = chats(&product, callers, length).await?;
        println!(
            "{sockets:>8} {alone_rate:>14.0} {:>9.2} {:>9.2} {rate:>14.0} {:>9.2} {:>7} {:>15} {:>15} {:>15}",
            alone.quantile(0.5),
            alone.quantile(0.99),
            rate / alone_rate,
            "",
            figures.typing.pair(),
            figures.accepted.pair(),
            figures.response.pair(),
        );
        report.push(json!({
            "sockets": sockets,
            "store": {"chats_per_second": alone_rate, "chat_ms": alone.json()},
            "chats_per_second": rate,
            "of_store": rate / alone_rate,
            "typing_ms": figures.typing.json(),
            "accepted_ms": figures.accepted.json(),
            "response_ms": figures.response.json(),
        }));
    }
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report)?).context("writing the figures")?;
    }
    product.stop().await?;
    services.stop().await
}

/// Everybody but the platform_admin, with the agent of their company.
fn callers<'a>(demo: &'a Demo, mint: &Mint) -> Result<Vec<Caller<'a>>> {
    let hours = Duration::from_secs(12 * 3_600);
    demo.users
        .iter()
        .filter(|user| user.tenant.is_some())
        .map(|user| {
            let agent = demo.agents.iter().find(|agent| Some(agent.tenant) == user.tenant);
            let token = mint.token(user.id, user.role, user.tenant, hours);
            Ok(Caller { user, agent: agent.context("each company has an agent")?, token })
        })
        .collect()
}

/// Accept, claim, finish, without sockets, bus and queue: the time of all three, and how many a second.
async fn store_alone(
    setting: &Setting,
    product: &Product,
    callers: &[Caller<'_>],
    length: Duration,
) -> Result<(Series, f64)> {
    let url = Secret::from(setting.database_url.clone());
    let store = Store::connect(&Database { url, pool_size: setting.pool_size }).await?;
    let (begun, times) = (Instant::now(), Times::default());
    let mut runs = Vec::new();
    for caller in callers {
        let rest = Rest::new(&product.rest(), Some(&caller.token));
        let tenant = caller.agent.tenant;
        let conversation: ConversationId = rest.open(tenant, caller.agent.id).await?.parse()?;
        let (user_id, role_hint) = (caller.user.id, Some(caller.user.role));
        let who = Identity { user_id, expires_at: Timestamp::now(), role_hint, tenant_hint: None };
        let text = Text::parse(SAID.to_owned(), 100)?;
        let store = store.clone();
        runs.push(tokio::spawn(async move {
            let mut series = Series::default();
            while begun.elapsed() < length {
                let since = Instant::now();
                store.accept(&who, conversation, &text, None, 100).await?;
                let claim = store
                    .claim(tenant, conversation, &times, &Memory::default())
                    .await?
                    .context("nobody else claims")?;
                store.finish(&claim, MessageId::new(), SAID, Completion::Whole).await?;
                series.add(since);
            }
            anyhow::Ok(series)
        }));
    }
    let mut all = Vec::new();
    for series in try_join_all(runs).await? {
        all.extend(series?.0);
    }
    let rate = rate(all.len(), begun);
    Ok((Series(all), rate))
}

/// Whole chats: a message, its `typing`, `accepted` and `response`, then the next.
async fn chats(product: &Product, callers: &[Caller<'_>], length: Duration) -> Result<(Figures, f64)> {
    let mut sockets = Vec::new();
    for caller in callers {
        let rest = Rest::new(&product.rest(), Some(&caller.token));
        let conversation = rest.open(caller.agent.tenant, caller.agent.id).await?;
        sockets.push(Socket::join(&product.ws(), &conversation, &caller.token).await?.0.trusting());
    }
    let begun = Instant::now();
    let runs = sockets.into_iter().map(|mut socket| {
        tokio::spawn(async move {
            let mut figures = Figures::default();
            while begun.elapsed() < length {
                let since = Instant::now();
                socket.message(SAID, None).await?;
                socket.expect("typing").await?;
                figures.typing.add(since);
                socket.expect("accepted").await?;
                figures.accepted.add(since);
                socket.expect("response").await?;
                figures.response.add(since);
            }
            anyhow::Ok(figures)
        })
    });
    let mut all = Figures::default();
    for figures in try_join_all(runs).await? {
        let figures = figures?;
        all.typing.0.extend(figures.typing.0);
        all.accepted.0.extend(figures.accepted.0);
        all.response.0.extend(figures.response.0);
    }
    let rate = rate(all.response.0.len(), begun);
    Ok((all, rate))
}

#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn rate(count: usize, since: Instant) -> f64 {
    count as f64 / since.elapsed().as_secs_f64()
}
