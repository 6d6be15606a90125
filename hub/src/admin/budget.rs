//! What companies may spend in a month.

use std::io::Write;

use chat_core::{Result, ids::TenantId, store::admin::tables::BUDGETS};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Desk,
    words::{self, changes, given},
};

/// A command about budgets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Limit what a company's agents may take each month, UTC. A limit that is not given is left as it is.
    Set {
        /// The company.
        tenant: TenantId,
        /// Calls of models; `none` is no limit.
        #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = words::or_none::<u32>)]
        monthly_calls: Option<Value>,
        /// Tokens, of prompts and answers together; `none` is no limit.
        #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = words::or_none::<u64>)]
        monthly_tokens: Option<Value>,
    },
    /// Limit a company no longer. What it took this month goes on being counted, so that a limit can come back.
    Clear {
        /// The company.
        tenant: TenantId,
    },
    /// Show a company's limits, and what it took in the month of its last call.
    Show {
        /// The company.
        tenant: TenantId,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Set { tenant, monthly_calls, monthly_tokens } => {
            let limits = given([("monthly_calls", monthly_calls), ("monthly_tokens", monthly_tokens)]);
            let mut values = changes(limits)?;
            values.insert("tenant_id", json!(tenant));
            desk.set(&BUDGETS, values).await
        }
        Command::Clear { tenant } => {
            let none = Some(Value::Null);
            let values =
                given([("tenant_id", Some(json!(tenant))), ("monthly_calls", none.clone()), ("monthly_tokens", none)]);
            desk.set(&BUDGETS, values).await
        }
        Command::Show { tenant } => desk.show(&BUDGETS, given([("tenant_id", Some(json!(tenant)))])).await,
    }
}
