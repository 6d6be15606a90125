//! `cargo faults`: shows that nothing is lost and nothing comes twice, whatever fails.
//!
//! Runs the deployed binaries with a proxy on every link, puts seeded faults in while clients talk, heals them, and
//! compares what clients saw, what the store holds and what the model was asked. Fails unless all six counters are zero,
//! everything was said, and every kind of fault has hit somebody.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use chat_core::Code;
use clap::Parser;
use harness::{
    campaign::{self, PATIENCE, Plan, defences::REMOVALS, faults::Kind, judge::Counters, stack::Build},
    lambda::{binaries, sabotaged_binaries},
};

/// Messages that a user has open at once: enough for turns to wait behind each other.
const USUALLY_OPEN: usize = 3;

/// Faults, seeded and healed, under load; and whether anything was lost.
#[derive(Parser)]
struct Cli {
    /// Messages that users send.
    #[arg(long, default_value_t = 500)]
    messages: usize,
    /// Faults; of each kind about as many.
    #[arg(long, default_value_t = Kind::ALL.len())]
    faults: usize,
    /// With the same one the same faults come in the same order. By default another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Kinds of faults, separated by commas; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where to write what was found, as JSON; the six counters are under `counters`.
    #[arg(long)]
    json: Option<PathBuf>,
    /// A folder for the logs of the hubs, in detail.
    #[arg(long)]
    logs: Option<PathBuf>,
    /// A folder of binaries to run; by default they are built of this checkout.
    #[arg(long)]
    binaries: Option<PathBuf>,
    /// A folder of binaries with which hubs come up again that were down: a deployment, hub after hub.
    #[arg(long)]
    rolled_to: Option<PathBuf>,
    /// Instead: take one defence out after the other, in binaries built for that, and show that a counter tells. With a
    /// word, only defences whose name holds it.
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    prove: Option<String>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let terminal = std::io::stderr().is_terminal();
    let progress = |line: &str| {
        if terminal {
            // One line that is written again and again.
            eprint!("\r\x1b[2K  {line}");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {line}");
        }
    };
    if let Some(name) = &cli.prove {
        return prove(name, seed, &progress).await;
    }
    let kinds = kinds(&cli.only)?;
    let folder = match cli.binaries {
        Some(folder) => folder,
        None => {
            eprintln!("  seed {seed}; building what runs");
            binaries().await?
        }
    };
    let build = Build { folder, rolled_to: cli.rolled_to, settings: Vec::new(), sql: "", logs: cli.logs };
    let plan = Plan {
        messages: cli.messages,
        faults: cli.faults,
        kinds: kinds.clone(),
        open: USUALLY_OPEN,
        patience: PATIENCE,
        seed,
        build,
    };
    let outcome = campaign::run(&plan, &|step| eprintln!("  {step}"), &progress).await;
    if terminal {
        eprint!("\r\x1b[2K");
    }
    let report = outcome.with_context(|| format!("seed {seed}"))?;
    println!("{report}");
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_string_pretty(&report.json())?).context("writing what was found")?;
    }
    let missed: Vec<&str> = kinds
        .iter()
        .filter(|kind| report.faults.get(kind).is_none_or(|faults| faults.hit == 0))
        .map(|kind| kind.name())
        .collect();
    if report.messages.attempted < plan.messages {
        eprintln!("only {} of {} messages were sent", report.messages.attempted, plan.messages);
    }
    if !missed.is_empty() {
        eprintln!("never hit anybody: {}", missed.join(", "));
    }
    let defects = report.errors.iter().any(|(code, _)| *code == Code::Internal);
    let shown = report.messages.attempted >= plan.messages && missed.is_empty() && !defects;
    Ok(if report.counters.clean() && shown { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes one defence out after the other.
async fn prove(name: &str, seed: u64, progress: &dyn Fn(&str)) -> Result<ExitCode> {
    eprintln!("  seed {seed}; building binaries whose defences can be taken out");
    let folder = sabotaged_binaries(&[]).await?;
    let mut all_told = true;
    println!("{:<24} {:<60} counters with it, and without", "defence", "without it");
    for removal in REMOVALS.iter().filter(|removal| removal.name.contains(name)) {
        let seen =
            removal.show(&folder, seed, progress).await.with_context(|| format!("{}, seed {seed}", removal.name))?;
        all_told &= seen.told;
        let list = |counters: Counters| {
            let counts: Vec<String> = counters
                .each()
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| format!("{name} {count}"))
                .collect();
            if counts.is_empty() { "all 0".to_owned() } else { counts.join(", ") }
        };
        progress("");
        let verdict = if seen.told { "" } else { "   NOT TOLD" };
        println!("{:<24} {:<60} {}; {}{verdict}", removal.name, removal.otherwise, list(seen.with), list(seen.without));
    }
    Ok(if all_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The kinds with these names; without any, all.
fn kinds(names: &[String]) -> Result<Vec<Kind>> {
    if names.is_empty() {
        return Ok(Kind::ALL.to_vec());
    }
    let known = || Kind::ALL.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
    names
        .iter()
        .map(|name| match Kind::ALL.iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(*kind),
            None => bail!("there is no fault called {name}; there are {}", known()),
        })
        .collect()
}
