//! `hub serve` holds the sockets; `hub migrate` brings the database to the newest schema.

use std::process::ExitCode;

use chat_core::{
    config::{self, Database, Edge, Env},
    store::migrate::migrate,
};
use hub::{Hub, router};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = config::log_filter().unwrap_or_else(|| "info".to_owned());
    tracing_subscriber::fmt().json().with_env_filter(EnvFilter::new(filter)).with_writer(std::io::stderr).init();
    let mut arguments = std::env::args().skip(1);
    let outcome = match (arguments.next().as_deref(), arguments.next()) {
        (Some("serve"), None) => serve().await,
        (Some("migrate"), None) => bring_up_to_date().await,
        _ => Err("usage: hub serve | hub migrate".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error}: {error:?}");
            ExitCode::FAILURE
        }
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
