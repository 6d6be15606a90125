//! Who belongs to which company.

use std::io::Write;

use chat_core::{
    Result,
    caller::Role,
    ids::{TenantId, UserId},
    store::admin::tables::MEMBERS,
};
use clap::Subcommand;
use serde_json::json;

use super::{
    Desk,
    words::{given, some},
};

/// A command about members.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a person a member of a company, or a member something else.
    Set {
        /// The company.
        tenant: TenantId,
        /// The person.
        user: UserId,
        /// As what: customer_admin, who also answers where a person is wanted, or customer_operator. The lesser of this
        /// and the person's own role holds.
        #[arg(long)]
        role: Role,
    },
    /// Let a person belong to a company no longer. Their conversations stay; their sockets end with their next ping, or
    /// at once by `sockets close`.
    Remove {
        /// The company.
        tenant: TenantId,
        /// The person.
        user: UserId,
    },
    /// Show who belongs where.
    List {
        /// To this company.
        #[arg(long)]
        tenant: Option<TenantId>,
        /// This person.
        #[arg(long)]
        user: Option<UserId>,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Set { tenant, user, role } => {
            let values = given([
                ("tenant_id", Some(json!(tenant))),
                ("user_id", Some(json!(user))),
                ("role", Some(json!(role))),
            ]);
            desk.set(&MEMBERS, values).await
        }
        Command::Remove { tenant, user } => {
            desk.remove(&MEMBERS, given([("tenant_id", Some(json!(tenant))), ("user_id", Some(json!(user)))])).await
        }
        Command::List { tenant, user } => {
            desk.list(&MEMBERS, given([("tenant_id", some(tenant)), ("user_id", some(user))])).await
        }
    }
}
