//! What an operator does to the data, as the owner role: `hub admin …`. One file a subject; each command may be repeated.

pub mod erase;

use chat_core::ids::{TenantId, UserId};
use clap::Subcommand;

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Erase a company: conversations, agents, connections, keys, spending, audit; its people stay.
    EraseTenant {
        /// Which.
        tenant: TenantId,
        /// Its name, to show that it is meant.
        #[arg(long)]
        name: String,
    },
    /// Erase a person, in all companies.
    EraseUser {
        /// Who.
        user: UserId,
        /// Their e-mail address, to show that they are meant.
        #[arg(long)]
        email: String,
    },
}
