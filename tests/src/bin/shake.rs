//! Shakes what comes from outside for a while: see `harness::fuzz`.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use harness::fuzz::{TARGETS, shake::shake};

/// Calls every parser of the product with spoiled input, and looks at what must hold.
#[derive(Parser)]
struct Arguments {
    /// How long, over all targets.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeats a run; another one each time if absent.
    #[arg(long)]
    seed: Option<u64>,
}

#[expect(clippy::print_stdout, reason = "a command that reports")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let each = Duration::from_secs(arguments.seconds) / u32::try_from(TARGETS.len())?;
    for (name, target) in TARGETS {
        println!("{name}: {} calls, seed {seed}", shake(name, *target, each, seed)?);
    }
    Ok(())
}
