//! `cargo local`: the whole product on this machine.
//!
//! Starts private Postgres and Redis (and an SQS-compatible server, if asked), migrates, makes a demo, serves REST and
//! hub in this process, and prints how to talk to it. However it ends, nothing is left running.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who started it")]

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use chat_core::{
    config::{self, Database, Env, Limits, Memory, Sealing, Secret, Times, Titles, log_filter},
    sealed::Sealer,
    store::{Store, migrate::migrate},
};
use clap::{Args, Parser, Subcommand, ValueEnum};
use harness::{
    app, cache,
    card::{AgentCard, Card, Pids, UserCard},
    demo::{self, Demo, Size},
    local_portal::LocalPortal,
    mint::Mint,
    product::{Product, QueueKind, Setting, real_channels},
    pump,
    services::{Options, Services, User},
    terminal,
};
use orchestrator::model::{Builtin, Model, Models, keys::TenantKeys, provider::Patience};
use tokio::{
    io::BufReader,
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    time::Instant,
};
use tracing_subscriber::EnvFilter;

/// How long the printed tokens hold.
const TOKENS_VALID: Duration = Duration::from_secs(12 * 3_600);

/// Where the stack listens if it can, so that a bookmark of the chat stays good.
const USUAL_PORT: u16 = 8787;

/// What somebody says who wants a person: then an admin finds the conversation in the inbox.
const PERSON: &str = "a human";

/// People shown on screen; the ready file has all.
const SHOWN: usize = 8;

/// The whole product on this machine.
#[derive(Parser)]
#[command(name = "cargo local")]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    start: Start,
}

#[derive(Subcommand)]
enum Command {
    /// Mint a token for a user of the running stack.
    Token {
        /// A handle, such as ben@acme, or an id.
        user: String,
    },
    /// Print the settings under which the functions run against the running stack, for an env file.
    Env,
    /// Hold a conversation in this terminal, through the real socket.
    Chat {
        /// Who you are.
        #[arg(long = "as", default_value = "ben@acme")]
        user: String,
        /// Whom you talk to: a part of the agent's name.
        #[arg(long)]
        agent: Option<String>,
    },
}

#[derive(Args)]
struct Start {
    /// What carries the hints of work.
    #[arg(long, value_enum, default_value = "local")]
    queue: Queue,
    /// Companies of the demo.
    #[arg(long, default_value_t = 2)]
    tenants: usize,
    /// People of each company.
    #[arg(long, default_value_t = 3)]
    users: usize,
    /// AI employees of each company.
    #[arg(long, default_value_t = 2)]
    agents: usize,
    /// The port to listen on; any free one if 0. Without it 8787, or a free one if that is taken.
    #[arg(long)]
    port: Option<u16>,
    /// Hold callers to the product's limits, which are lifted otherwise.
    #[arg(long)]
    limits: bool,
    /// Write addresses, tokens and ids to this file, as JSON, once everything answers.
    #[arg(long)]
    ready_file: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Queue {
    /// A queue in this process.
    Local,
    /// A real SQS-compatible server, through the AWS SDK.
    Sqs,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = log_filter().unwrap_or_else(|| "warn".to_owned());
    tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr).init();
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => run(&cli.start).await,
        Some(Command::Token { user }) => token(&user),
        Some(Command::Env) => environment(),
        Some(Command::Chat { user, agent }) => talk(&user, agent.as_deref()).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo local: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(start: &Start) -> Result<()> {
    let begun = Instant::now();
    let say = |step: &str| eprintln!("{:5.1} s  {step}", begun.elapsed().as_secs_f32());
    // Durable, unlike the tests': what is measured here is what a deployment would do.
    let mut services = Services::start(&Options { durable: true, max_connections: 100 }, &say).await?;
    let queue = match start.queue {
        Queue::Local => QueueKind::Local(None),
        Queue::Sqs => {
            let endpoint = services.start_sqs(&cache(), &say).await?.endpoint();
            say("creating the queue and its dead letters");
            QueueKind::Sqs(pump::create_queue(&endpoint, "chat-turns").await?)
        }
    };
    say("migrating");
    services.postgres.create_database("chat", None).await?;
    let owner_url = services.postgres.owner_url("chat");
    migrate(&Secret::from(owner_url.clone())).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    say("making the demo");
    let demo =
        demo::seed(&owner_url, Size { tenants: start.tenants, users: start.users, agents: start.agents }).await?;
    demo::set_escalation(&owner_url, PERSON).await?;

    let model = model(&services.postgres.app_url("chat"), &owner_url).await?;

    let listener = listen(start.port, &say).await?;
    let mint = Mint::new();
    let setting = Setting {
        database_url: services.postgres.app_url("chat"),
        redis: services.redis.entrance.clone(),
        queue,
        token: mint.settings(),
        allowed_origins: Vec::new(),
        trusted_proxies: 0,
        portal: config::Portal::default(),
        metrics: config::Metrics::default(),
        local_portal: Some(LocalPortal::new(&demo, &mint)),
        limits: if start.limits { Limits::default() } else { app::lifted() },
        times: Times::default(),
        memory: Memory::default(),
        titles: Titles::default(),
        model,
        notices: config::Notices { allow_private: true, ..config::Notices::default() },
        sealing: config::Sealing::default(),
        channels: real_channels(),
        figures: orchestrator::figures::Figures::default(),
        pool_size: 8,
    };
    let mut product = Product::start(&setting, listener).await?;
    let pids = Pids { local: std::process::id(), postgres: services.postgres.pid(), redis: services.redis.pid() };
    let card = card(&product, &setting, owner_url, pids, &demo, &mint);
    product.answers().await?;
    say("ready");

    let laid = Card { secret: Some(mint.secret().to_owned()), ..card.clone() }.lay(&Card::usual_place())?;
    let ready = start.ready_file.as_deref().map(|path| card.lay(path)).transpose()?;
    greet(&card);
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    // A second Ctrl-C ends us at once; the watchdog does the rest.
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    say("stopping");
    drop((laid, ready));
    product.stop().await?;
    services.stop().await?;
    say("nothing is left running");
    Ok(())
}

/// Listens on the port that was asked for; where none was, on the usual one or else on a free one.
async fn listen(port: Option<u16>, say: &dyn Fn(&str)) -> Result<TcpListener> {
    let at = |port| TcpListener::bind(("127.0.0.1", port));
    match (port, at(port.unwrap_or(USUAL_PORT)).await) {
        (None, Err(_)) => {
            say(&format!("port {USUAL_PORT} is taken: on a free one instead"));
            at(0).await.context("listening")
        }
        (_, listener) => listener.with_context(|| format!("listening on port {}", port.unwrap_or(USUAL_PORT))),
    }
}

/// Who answers: whom `MODEL_*` names, as in a deployment, and then for all agents of the demo; else `echo`.
async fn model(database_url: &str, owner_url: &str) -> Result<Arc<dyn Model>> {
    let mut env = Env::new(&config::process);
    let settings = (config::Model::read(&mut env), Sealing::read(&mut env));
    let (model, sealing) = env.finish(settings)?;
    if model.provider.is_none() && model.others.is_empty() {
        return Ok(Arc::new(Builtin));
    }
    ensure!(model.default.is_some(), "MODEL_DEFAULT is missing: the model that the demo's agents are to have");
    demo::set_model(owner_url, "default").await?;
    let database = Database { url: Secret::from(database_url.to_owned()), pool_size: 2 };
    let store = Store::connect(&database).await?;
    let keys = TenantKeys::new(store, Sealer::new(&sealing));
    Ok(Arc::new(Models::new(&model, Patience::within(Times::default().turn)).with_keys(keys)))
}

fn card(product: &Product, setting: &Setting, owner_url: String, pids: Pids, demo: &Demo, mint: &Mint) -> Card {
    Card {
        rest: product.rest(),
        ws: product.ws(),
        database_url: setting.database_url.clone(),
        owner_database_url: owner_url,
        redis: setting.redis.clone(),
        pids,
        users: demo
            .users
            .iter()
            .map(|user| UserCard {
                id: user.id,
                handle: user.handle.clone(),
                role: user.role,
                tenant_id: user.tenant,
                token: mint.token(user.id, user.role, user.tenant, TOKENS_VALID),
            })
            .collect(),
        agents: demo
            .agents
            .iter()
            .map(|agent| AgentCard { id: agent.id, tenant_id: agent.tenant, name: agent.name.clone() })
            .collect(),
        queue: match &setting.queue {
            QueueKind::Local(_) => None,
            QueueKind::Sqs(address) => Some(address.clone()),
        },
        secret: None,
    }
}

/// Tells how to talk to it.
fn greet(card: &Card) {
    println!("\nChat    {}/   (in a browser)\n", card.rest);
    println!("REST    {}{}", card.rest, conversations::BASE);
    println!("Socket  {}/chat/ws/{{conversation_id}}\n", card.ws);
    for user in card.users.iter().take(SHOWN) {
        let tenant = user.tenant_id.map_or_else(|| "every tenant".to_owned(), |id| format!("tenant {id}"));
        println!("{}  ({}, {tenant})\n{}\n", user.handle, user.role, user.token);
    }
    if card.users.len() > SHOWN {
        println!("… and {} more; `cargo local token USER` mints a token.\n", card.users.len() - SHOWN);
    }
    if let (Some(user), Some(agent)) = (card.users.get(1), card.agents.first()) {
        println!("Open a conversation:\n");
        println!("curl -s {}{}/conversations \\", card.rest, conversations::BASE);
        println!("  -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \\", user.token);
        println!("  -d '{{\"tenant_id\": \"{}\", \"agent_id\": \"{}\"}}'\n", agent.tenant_id, agent.id);
    }
    println!("Chat in a browser:          {}/", card.rest);
    println!("Chat in a second terminal:  cargo local chat");
    println!("Ctrl-C stops everything.");
}

fn token(user: &str) -> Result<()> {
    let card = Card::of_running_stack()?;
    let user = card.user(user)?;
    let mint = Mint::with(card.secret.clone().context("the running stack keeps its secret to itself")?);
    println!("{}", mint.token(user.id, user.role, user.tenant_id, TOKENS_VALID));
    Ok(())
}

fn environment() -> Result<()> {
    let card = Card::of_running_stack()?;
    let queue = card.queue.context("the functions need a queue they can reach; start with: cargo local --queue sqs")?;
    for (name, value) in [
        ("DATABASE_URL", card.database_url),
        // One file for all functions: so as one who may do what each may.
        ("REDIS_URL", card.redis.url(User::Harness)),
        ("QUEUE_URL", queue.queue_url),
        ("JWT_SECRET", card.secret.context("the running stack keeps its secret to itself")?),
        ("AWS_ENDPOINT_URL_SQS", queue.endpoint),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ACCESS_KEY_ID", "local".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "local".to_owned()),
    ] {
        println!("{name}={value}");
    }
    Ok(())
}

async fn talk(user: &str, agent: Option<&str>) -> Result<()> {
    let card = Card::of_running_stack()?;
    let user = card.user(user)?;
    terminal::chat(&card, user, agent, BufReader::new(tokio::io::stdin()), &mut std::io::stdout()).await?;
    // A read of standard input cannot be cancelled; its thread must not keep us.
    std::process::exit(0)
}
