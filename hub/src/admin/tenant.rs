//! Companies.

use std::io::Write;

use chat_core::{Result, ids::TenantId, store::admin::tables::TENANTS};
use clap::Subcommand;
use serde_json::json;

use super::{
    Desk,
    words::{self, given, some},
};

/// A command about companies.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a company, and print its id; one of this name that stands is left as it is.
    Create {
        /// What it is called: 1 to 200 characters.
        #[arg(long, value_parser = words::name)]
        name: String,
        /// Its id, if it shall not be a new one.
        #[arg(long)]
        id: Option<TenantId>,
    },
    /// Call a company otherwise.
    Change {
        /// Which.
        tenant: TenantId,
        /// What it is called from now on.
        #[arg(long, value_parser = words::name)]
        name: String,
    },
    /// Show all companies.
    List,
    /// Show a company.
    Show {
        /// Which.
        tenant: TenantId,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Create { name, id } => {
            desk.create(&TENANTS, given([("id", some(id)), ("name", Some(json!(name)))])).await
        }
        Command::Change { tenant, name } => {
            desk.change(&TENANTS, given([("id", Some(json!(tenant))), ("name", Some(json!(name)))])).await
        }
        Command::List => desk.list(&TENANTS, given([])).await,
        Command::Show { tenant } => desk.show(&TENANTS, given([("id", Some(json!(tenant)))])).await,
    }
}
