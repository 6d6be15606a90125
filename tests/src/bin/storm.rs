//! `cargo storm`: cuts requests, sockets and workers of many companies off at random, and searches everything that anybody
//! gets for what is another company's. Fails unless that is nothing.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a report")]

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use harness::storm::{self, Plan};

/// Cut off at random: is anything foreign seen?
#[derive(Parser)]
struct Cli {
    /// How long.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// People at the same time.
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// Companies.
    #[arg(long, default_value_t = 10)]
    tenants: usize,
    /// With the same one everybody does the same, if not at the same moments. By default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Where to write the counters, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let Cli { seconds, clients, tenants, seed, json } = Cli::parse();
    let seed = seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    eprintln!("  seed {seed}");
    let terminal = std::io::stderr().is_terminal();
    let progress = |line: &str| {
        if terminal {
            // One line that is written again and again.
            eprint!("\r\x1b[2K  {line}");
            let _ = std::io::stderr().flush();
        }
    };
    let plan = Plan { time: Duration::from_secs(seconds), clients, tenants, seed };
    let report = storm::run(&plan, &progress).await.with_context(|| format!("seed {seed}"))?;
    if terminal {
        eprint!("\r\x1b[2K");
    }
    println!("{report}");
    if let Some(path) = json {
        std::fs::write(&path, serde_json::to_string_pretty(&report.json())?).context("writing the counters")?;
    }
    Ok(if report.foreign.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
