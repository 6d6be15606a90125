//! `cargo bench-all`: the project's benchmarks, against the machine they run on. BENCHMARKS.md says what they showed.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use harness::bench::{chat, cold, crowd, idle, line, pressure, relay, rest, storm};
use serde_json::{Map, Value};

/// The project's benchmarks. Without a name, all of them.
#[derive(Parser)]
#[command(name = "cargo bench-all")]
struct Cli {
    #[command(subcommand)]
    which: Option<Which>,
    /// Length of each measurement, in seconds.
    #[arg(long, global = true, default_value_t = 10)]
    seconds: u64,
    /// Where to write the figures as JSON.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand, Clone)]
enum Which {
    /// Chats a second and their times.
    Chat {
        /// How many sockets chat at once; several runs, separated by commas.
        #[arg(long, value_delimiter = ',', default_value = "1,16,64,256,1024")]
        sockets: Vec<usize>,
        /// Shares of the best rate, in percent, at which chats then begin by the clock.
        #[arg(long, value_delimiter = ',', default_value = "25,50,75,90")]
        shares: Vec<u32>,
        /// Hubs as processes of their own, with an SQS-compatible queue; 0 is one in this process, with its own queue.
        #[arg(long, default_value_t = 0)]
        hubs: usize,
        /// Connections to Postgres of the hub, and of the orchestrator.
        #[arg(long, default_value_t = 8)]
        pool: usize,
    },
    /// What a silent socket costs.
    Idle {
        /// How many; several runs, separated by commas.
        #[arg(long, value_delimiter = ',', default_value = "1000,5000,15000")]
        sockets: Vec<usize>,
        /// Then so many hubs with 15,000 each; 1 for none.
        #[arg(long, default_value_t = 6)]
        hubs: usize,
    },
    /// A hub is killed.
    Storm {
        /// How many sockets it has.
        #[arg(long, default_value_t = 15_000)]
        sockets: usize,
    },
    /// From PUBLISH to sockets.
    Relay {
        /// How many, with a conversation each.
        #[arg(long, default_value_t = 10_000)]
        sockets: usize,
        /// Hubs that they are spread over.
        #[arg(long, default_value_t = 1)]
        hubs: usize,
        /// Deliveries a second; several runs, separated by commas.
        #[arg(long, value_delimiter = ',', default_value = "1000,5000,10000,50000")]
        rates: Vec<u64>,
        /// Sockets of the one conversation.
        #[arg(long, default_value_t = 1_000)]
        together: usize,
    },
    /// Slow readers, a greedy company, more than there is room for.
    Pressure,
    /// Lists and pages of history.
    Rest {
        /// Messages of the conversations.
        #[arg(long, value_delimiter = ',', default_value = "100,10000,1000000")]
        histories: Vec<i64>,
        /// Conversations of the lists.
        #[arg(long, value_delimiter = ',', default_value = "10,10000")]
        lists: Vec<usize>,
    },
    /// From a function's start to its first poll.
    Cold {
        /// How often each is started.
        #[arg(long, default_value_t = 20)]
        times: usize,
    },
    /// Sockets in a process of their own; what the others start.
    #[command(hide = true)]
    Crowd,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    if matches!(cli.which, Some(Which::Crowd)) {
        return crowd::serve().await;
    }
    let wanted = match &cli.which {
        Some(which) => vec![which.clone()],
        None => ["chat", "idle", "storm", "relay", "pressure", "rest", "cold"]
            .into_iter()
            .map(|name| Cli::try_parse_from(["bench", name]).map(|cli| cli.which.expect("it was named")))
            .collect::<std::result::Result<_, _>>()?,
    };
    let mut report = Map::new();
    for which in wanted {
        let (name, figures) = run(which, cli.seconds).await?;
        report.insert(name.to_owned(), figures);
    }
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report)?).context("writing the figures")?;
        line(&format!("\n{}", path.display()));
    }
    Ok(())
}

async fn run(which: Which, seconds: u64) -> Result<(&'static str, Value)> {
    Ok(match which {
        Which::Chat { sockets, shares, hubs, pool } => {
            ("chat", chat::run(&sockets, &shares, hubs, pool, seconds).await?)
        }
        Which::Idle { sockets, hubs } => ("idle", idle::run(&sockets, hubs, seconds).await?),
        Which::Storm { sockets } => ("storm", storm::run(sockets).await?),
        Which::Relay { sockets, hubs, rates, together } => {
            ("relay", relay::run(sockets, hubs, &rates, together, seconds).await?)
        }
        Which::Pressure => ("pressure", pressure::run(seconds).await?),
        Which::Rest { histories, lists } => ("rest", rest::run(&histories, &lists, seconds).await?),
        Which::Cold { times } => ("cold", cold::run(times).await?),
        Which::Crowd => unreachable!("it serves another one"),
    })
}
