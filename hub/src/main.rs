//! `hub serve` holds the sockets; `hub migrate` brings the database to the newest schema; `hub seal` seals a tenant's
//! secret for its column; `hub admin` is for operators.

use std::{io::Write, process::ExitCode};

use chat_core::{
    Error, Kind,
    bus::Publisher,
    config::{self, Container, Database, Edge, Env, Redis, Sealing, Times},
    log,
    queue::{Queue, Sqs},
    store::{admin::Operator, erasure::Whom, migrate::migrate, owner::Owner},
};
use clap::{Parser, Subcommand};
use hub::{
    Hub,
    admin::{self, Desk, erase::erase},
    notice_to_leave, router,
    seal::seal,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::info;

/// glibc's allocator gives nothing back of what many sockets left between those that stay (BENCHMARKS.md, "idle").
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The hub of the web chat. Settings come from the environment.
#[derive(Parser)]
#[command(name = "hub")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold the sockets, until SIGTERM, Ctrl-C or, on ECS, the notice that the task is to stop.
    Serve,
    /// Bring the database to the newest schema, as the owner role.
    Migrate,
    /// Seal a tenant's secret, from standard input, for its column.
    Seal {
        /// The tenant's id.
        tenant: String,
        /// What it is for, such as `model:openai`.
        purpose: String,
    },
    /// Change the data, as the owner role.
    Admin(Box<admin::Admin>),
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let command = match Cli::try_parse() {
        Ok(cli) => cli.command,
        Err(asked) => return explain(&asked),
    };
    // `seal` and `admin` answer on standard output.
    let admin = match command {
        Command::Serve => return log::run_traced("chat-hub", std::io::stderr, Box::pin(serve())).await,
        Command::Migrate => return log::run(std::io::stderr, Box::pin(bring_up_to_date())).await,
        Command::Seal { tenant, purpose } => {
            return log::run(std::io::stderr, async { seal_a_secret(&tenant, &purpose) }).await;
        }
        Command::Admin(admin) => admin,
    };
    // An operator reads a sentence, where a log has a line.
    let mut refused = None;
    let administered = async {
        refused = administer(*admin).await.err();
        Ok(())
    };
    let logged = log::run(std::io::stderr, Box::pin(administered)).await;
    let Some(error) = refused else { return logged };
    let _ = writeln!(std::io::stderr(), "error: {}", sentence(&*error));
    ExitCode::FAILURE
}

/// Prints help, or what is wrong with the arguments.
fn explain(asked: &clap::Error) -> ExitCode {
    let _ = asked.print();
    if asked.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What is wrong with what an operator wants, or else what went wrong, with its cause.
fn sentence(error: &(dyn std::error::Error + Send + Sync + 'static)) -> String {
    match error.downcast_ref::<Error>() {
        Some(ours) if matches!(ours.kind(), Kind::Unavailable | Kind::Internal) => format!("{ours:?}"),
        Some(_) | None => error.to_string(),
    }
}

/// Serves until SIGTERM, Ctrl-C or a notice to leave.
async fn serve() -> Outcome {
    let mut env = Env::new(&config::process);
    let (edge, container) = (Edge::read(&mut env), Container::read(&mut env));
    let (edge, container) = env.finish((edge, container))?;
    let hub = Hub::from_env().await?;
    let listener = TcpListener::bind(&edge.listen).await?;
    info!(address = %listener.local_addr()?, "listening");
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
            Ok(()) = notice_to_leave::given(&container) => {}
        }
    };
    hub.clone().serve(listener, router(hub), shutdown).await?;
    Ok(())
}

/// Migrates as the owner role, which `DATABASE_URL` names for this command.
async fn bring_up_to_date() -> Outcome {
    let mut env = Env::new(&config::process);
    let database = Database::read(&mut env, 1);
    let database = env.finish(database)?;
    let applied = migrate(&database.url).await?;
    info!(?applied, "the schema is up to date");
    Ok(())
}

/// Does what an operator wants, as the owner role.
async fn administer(admin: admin::Admin) -> Outcome {
    use admin::Command as Wants;
    let mut env = Env::new(&config::process);
    let (database, sealing) = (Database::read(&mut env, 1), Sealing::read(&mut env));
    // Facts alone need no Redis.
    let with_redis = matches!(admin.command, Wants::EraseTenant { .. } | Wants::EraseUser { .. } | Wants::Sockets(_));
    let redis = with_redis.then(|| (Redis::read(&mut env), Times::read(&mut env)));
    let with_queue = matches!(admin.command, Wants::DeadLetter(admin::dead_letter::Command::Redrive { .. }));
    let queue = with_queue.then(|| config::Queue::read(&mut env));
    let (database, sealing, redis, queue) = env.finish((database, sealing, redis, queue))?;
    let by = Operator(admin.by.or_else(|| config::process("USER")).unwrap_or_else(|| "unknown".to_owned()));
    let owner = Owner::connect(&database.url).await?;
    let mut desk = Desk { owner, by, json: admin.json, out: std::io::stdout().lock() };
    let (input, at) = (std::io::stdin(), &mut desk);
    match admin.command {
        Wants::Tenant(command) => admin::tenant::run(command, at).await?,
        Wants::User(command) => admin::user::run(command, at).await?,
        Wants::Identity(command) => admin::identity::run(command, at).await?,
        Wants::Member(command) => admin::member::run(command, at).await?,
        Wants::Agent(command) => admin::agent::run(command, at).await?,
        Wants::Channel(command) => admin::channel::run(command, at, &sealing, input).await?,
        Wants::ModelKey(command) => admin::model_key::run(command, at, &sealing, input).await?,
        Wants::Budget(command) => admin::budget::run(command, at).await?,
        Wants::Retention(command) => admin::retention::run(command, at).await?,
        Wants::DeadLetter(command) => {
            let queue = queue.as_ref().map(Sqs::from_settings);
            admin::dead_letter::run(command, at, queue.as_ref().map(|queue| queue as &dyn Queue)).await?;
        }
        Wants::Turn(command) => admin::turn::run(command, at).await?,
        Wants::Sockets(command) => {
            let (redis, _) = redis.expect("read for this command");
            admin::sockets::run(command, at, &Publisher::new(&redis)?).await?;
        }
        Wants::EraseTenant { tenant, name } => erase_whom(at, redis, Whom::Tenant(tenant), &name).await?,
        Wants::EraseUser { user, email } => erase_whom(at, redis, Whom::User(user), &email).await?,
    }
    desk.owner.close().await?;
    Ok(())
}

async fn erase_whom(
    desk: &mut Desk<impl Write>,
    redis: Option<(Redis, Times)>,
    whom: Whom,
    meant: &str,
) -> Result<(), Error> {
    let (redis, times) = redis.expect("read for this command");
    erase(&mut desk.owner, &Publisher::new(&redis)?, whom, meant, &times, &mut desk.out).await
}

/// Seals what comes on standard input, and needs nothing but `SECRETS_KEY` for it.
fn seal_a_secret(tenant: &str, purpose: &str) -> Outcome {
    let mut env = Env::new(&config::process);
    let sealing = Sealing::read(&mut env);
    let sealing = env.finish(sealing)?;
    seal(&sealing, tenant, purpose, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(())
}
