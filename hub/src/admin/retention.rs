//! How long companies keep what was said.

use std::io::Write;

use chat_core::{Result, ids::TenantId, store::admin::tables::TENANTS};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{Desk, words::given};

/// A command about retention.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let hubs delete what was said once it is older. What is older already goes soon, and nothing brings it back.
    Set {
        /// The company.
        tenant: TenantId,
        /// How many days it is kept: 1 to 36500.
        #[arg(value_parser = clap::value_parser!(i32).range(1..=36_500))]
        days: i32,
    },
    /// Keep everything from now on.
    Clear {
        /// The company.
        tenant: TenantId,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    let (tenant, days) = match command {
        Command::Set { tenant, days } => (tenant, json!(days)),
        Command::Clear { tenant } => (tenant, Value::Null),
    };
    desk.change(&TENANTS, given([("id", Some(json!(tenant))), ("retention_days", Some(days))])).await
}
