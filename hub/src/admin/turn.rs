//! What became of messages.

use std::io::Write;

use chat_core::{Error, Result, ids::TurnId};
use clap::Subcommand;
use serde_json::Value;

use super::Desk;

/// A command about turns.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show a turn's life: accepted, hinted, claimed, reply stored, ended, each with its time and the time since the one
    /// before. Of hints it shows the last, of claims the first, and how many there were; no word of what was said.
    Show {
        /// Which: the `turn_id` of `accepted`.
        turn: TurnId,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    let Command::Show { turn } = command;
    let mut life = desk.owner.life(turn).await?.ok_or_else(|| Error::field("turn", "there is none of this id"))?;
    if desk.json {
        return desk.row(&life);
    }
    let steps = life.get("steps").cloned().unwrap_or_default();
    life.0.retain(|(name, _)| name != "steps");
    desk.row(&life)?;
    for step in steps.as_array().into_iter().flatten() {
        let word = |name: &str| step[name].as_str().unwrap_or("-");
        let after = step["after_ms"].as_f64().map_or_else(String::new, |ms| format!("  +{ms} ms"));
        writeln!(desk.out, "{:<14} {}{after}", word("step"), word("at")).map_err(Error::internal)?;
    }
    let open = life.get("state").and_then(Value::as_str).is_some_and(|state| ["queued", "running"].contains(&state));
    if open {
        writeln!(desk.out, "… and has not ended").map_err(Error::internal)?;
    }
    Ok(())
}
