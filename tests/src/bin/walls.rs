//! `cargo walls`: shows that each of the two walls between tenants stands alone.
//!
//! Runs the attack of one company on another (`harness::attack`) with both walls, with the policies of the database alone,
//! with the application's checks alone, and without either. Fails unless the first three hold and to the last one everything
//! opens: a try that finds nothing where nothing stands in its way would prove nothing.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use harness::{
    attack::{self, BLIND, Policies, TRIED},
    lambda::sabotaged_binaries,
};
use tokio::process::Command;

/// The walls between tenants, each alone.
#[derive(Parser)]
struct Cli {
    /// Instead: attack once, in this very build, with the policies on or off. What else is out `SABOTAGE` says.
    #[arg(long)]
    once: Option<Switch>,
    /// Print what opened, too.
    #[arg(long)]
    detail: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// What stands: its name, the policies, what is out, and how the attack must end.
const WALLS: &[(&str, &str, &str, u8)] = &[
    ("both", "on", "", 0),
    ("the policies alone", "on", "application-checks", 0),
    ("the application alone", "off", "", 0),
    ("neither", "off", "application-checks", ALL_OPEN),
];

/// How an attack ends that was not held: other than one that could not be made.
const NOT_HELD: u8 = 3;

/// How one ends to which everything opened that was tried.
const ALL_OPEN: u8 = 4;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    if let Some(switch) = cli.once {
        let policies = match switch {
            Switch::On => Policies::On,
            Switch::Off => Policies::Off,
        };
        let report = attack::run(policies).await?;
        println!("{report}");
        if cli.detail {
            report.open.iter().for_each(|open| println!("  open: {open}"));
            report.changed.iter().for_each(|table| println!("  changed: {table}"));
        }
        let seen = |name: &&&str| report.opened.contains(**name) || BLIND.iter().any(|(blind, _)| blind == *name);
        let unseen: Vec<&str> = TRIED.iter().filter(|name| !seen(name)).copied().collect();
        let changed = ["budgets", "channel_turns", "turns", "usage", "web_conversation_messages", "web_conversations"];
        if unseen.is_empty() && changed.iter().all(|table| report.changed.contains(*table)) {
            return Ok(ExitCode::from(ALL_OPEN));
        }
        if !report.held() {
            println!("  found nothing: {}", unseen.join(", "));
        }
        return Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) });
    }
    eprintln!("  building a program whose defences can be taken out");
    let program = sabotaged_binaries(&["walls"]).await?.join("walls");
    let mut as_it_must = true;
    for (stands, policies, sabotage, must_end) in WALLS {
        let mut attack = Command::new(&program);
        attack.args(["--once", policies]).env("SABOTAGE", sabotage).env("RUST_LOG", "off");
        attack.stdin(Stdio::null()).stderr(Stdio::inherit());
        if cli.detail {
            attack.arg("--detail");
        }
        let output = attack.kill_on_drop(true).output().await.context("running the attack")?;
        let code = output.status.code().and_then(|code| u8::try_from(code).ok());
        as_it_must &= code == Some(*must_end);
        let verdict = match code {
            Some(0) if *must_end == 0 => "held",
            Some(0) => "NOT SEEN",
            Some(NOT_HELD | ALL_OPEN) if *must_end == 0 => "NOT HELD",
            Some(ALL_OPEN) => "all of it seen",
            Some(NOT_HELD) => "NOT ALL SEEN",
            _ => bail!("the attack could not be made: {}", output.status),
        };
        println!("{stands:<22} {verdict:<16} {}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
    Ok(if as_it_must { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
