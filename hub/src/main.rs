//! `hub serve` holds the sockets; `hub migrate` brings the database to the newest schema; `hub seal` seals a tenant's
//! secret for its column; `hub admin` is for operators.

use std::process::ExitCode;

use chat_core::{
    bus::Publisher,
    config::{self, Database, Edge, Env, Redis, Sealing, Times},
    log,
    store::{erasure::Whom, migrate::migrate, owner::Owner},
};
use clap::{Parser, Subcommand};
use hub::{
    Hub,
    admin::{self, erase::erase},
    router,
    seal::seal,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::info;

/// The hub of the web chat. Settings come from the environment.
#[derive(Parser)]
#[command(name = "hub")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Hold the sockets, until SIGTERM or Ctrl-C.
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
    #[command(subcommand)]
    Admin(admin::Command),
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::parse().command;
    // `seal` and `admin` answer on standard output.
    log::run(std::io::stderr, Box::pin(run(command))).await
}

async fn run(command: Command) -> Outcome {
    match command {
        Command::Serve => serve().await,
        Command::Migrate => bring_up_to_date().await,
        Command::Seal { tenant, purpose } => seal_a_secret(&tenant, &purpose),
        Command::Admin(command) => administer(command).await,
    }
}

/// Serves until SIGTERM or Ctrl-C.
async fn serve() -> Outcome {
    let mut env = Env::new(&config::process);
    let edge = Edge::read(&mut env);
    let edge = env.finish(edge)?;
    let hub = Hub::from_env().await?;
    let listener = TcpListener::bind(&edge.listen).await?;
    info!(address = %listener.local_addr()?, "listening");
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
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
async fn administer(command: admin::Command) -> Outcome {
    let mut env = Env::new(&config::process);
    let (database, redis, times) = (Database::read(&mut env, 1), Redis::read(&mut env), Times::read(&mut env));
    let (database, redis, times) = env.finish((database, redis, times))?;
    let (whom, meant) = match command {
        admin::Command::EraseTenant { tenant, name } => (Whom::Tenant(tenant), name),
        admin::Command::EraseUser { user, email } => (Whom::User(user), email),
    };
    let mut owner = Owner::connect(&database.url).await?;
    erase(&mut owner, &Publisher::new(&redis)?, whom, &meant, &times, std::io::stdout().lock()).await?;
    owner.close().await?;
    Ok(())
}

/// Seals what comes on standard input, and needs nothing but `SECRETS_KEY` for it.
fn seal_a_secret(tenant: &str, purpose: &str) -> Outcome {
    let mut env = Env::new(&config::process);
    let sealing = Sealing::read(&mut env);
    let sealing = env.finish(sealing)?;
    seal(&sealing, tenant, purpose, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(())
}
