//! `hub serve` holds the sockets; `hub migrate` brings the database to the newest schema; `hub seal` seals a tenant's
//! secret for its column.

use std::process::ExitCode;

use chat_core::{
    config::{self, Database, Edge, Env, Sealing},
    log,
    store::migrate::migrate,
};
use hub::{Hub, router, seal::seal};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::info;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    // `seal` answers on standard output.
    log::run(std::io::stderr, Box::pin(command())).await
}

async fn command() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve"] => serve().await,
        ["migrate"] => bring_up_to_date().await,
        ["seal", tenant, purpose] => seal_a_secret(tenant, purpose),
        _ => Err("usage: hub serve | hub migrate | hub seal TENANT PURPOSE".into()),
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

/// Seals what comes on standard input, and needs nothing but `SECRETS_KEY` for it.
fn seal_a_secret(tenant: &str, purpose: &str) -> Outcome {
    let mut env = Env::new(&config::process);
    let sealing = Sealing::read(&mut env);
    let sealing = env.finish(sealing)?;
    seal(&sealing, tenant, purpose, std::io::stdin().lock(), std::io::stdout().lock())?;
    Ok(())
}
