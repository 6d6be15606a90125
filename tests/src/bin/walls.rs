//! `cargo walls`: shows that each of the two walls between tenants stands alone.
//!
//! Runs the attack of one company on another (`harness::attack`) with both walls, with the policies of the database alone,
//! with the application's checks alone, and without either. Fails unless the first three hold and the last one does not:
//! an attack that finds nothing where nothing stands in its way would prove nothing.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it prints a table")]

use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use harness::{
    attack::{self, Policies},
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

/// What stands: its name, the policies, what is out, and whether it must hold.
const WALLS: &[(&str, &str, &str, bool)] = &[
    ("both", "on", "", true),
    ("the policies alone", "on", "application-checks", true),
    ("the application alone", "off", "", true),
    ("neither", "off", "application-checks", false),
];

/// How an attack that was not held ends, other than one that could not be made.
const NOT_HELD: u8 = 3;

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
        return Ok(if report.held() { ExitCode::SUCCESS } else { ExitCode::from(NOT_HELD) });
    }
    eprintln!("  building a program whose defences can be taken out");
    let program = sabotaged_binaries(&["walls"]).await?.join("walls");
    let mut as_it_must = true;
    for (stands, policies, sabotage, must_hold) in WALLS {
        let mut attack = Command::new(&program);
        attack.args(["--once", policies]).env("SABOTAGE", sabotage).stdin(Stdio::null()).stderr(Stdio::inherit());
        if cli.detail {
            attack.arg("--detail");
        }
        let output = attack.kill_on_drop(true).output().await.context("running the attack")?;
        let code = output.status.code();
        ensure!(
            code == Some(0) || code == Some(i32::from(NOT_HELD)),
            "the attack could not be made: {}",
            output.status
        );
        let held = code == Some(0);
        as_it_must &= held == *must_hold;
        let verdict = match (held, must_hold) {
            (true, true) => "held",
            (false, false) => "open, as it must be",
            (false, true) => "NOT HELD",
            (true, false) => "NOT SEEN",
        };
        println!("{stands:<22} {verdict:<20} {}", String::from_utf8_lossy(&output.stdout).trim_end());
    }
    Ok(if as_it_must { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
