//! What an operator does to the data, as the owner role: `hub admin …`. One file a subject; each command may be repeated.
//!
//! What stands already as it is wanted is left as it is, and that is a success. Each change leaves one audit row, which
//! says who made it and which columns it changed. Secrets and long texts come on standard input or from a file, and
//! are printed nowhere.

pub mod agent;
pub mod budget;
pub mod channel;
pub mod dead_letter;
mod desk;
pub mod erase;
pub mod identity;
pub mod member;
pub mod model_key;
pub mod retention;
pub mod sockets;
pub mod tenant;
pub mod turn;
pub mod user;
mod words;

use chat_core::ids::{TenantId, UserId};
use clap::{Args, Subcommand};

pub use desk::Desk;

/// A command, and how it answers.
#[derive(Debug, Args)]
pub struct Admin {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Answer with one JSON document: a row (`… show`), a list of rows (`… list`), or {"outcome", "changed", "row"}.
    #[arg(long, global = true)]
    pub json: bool,
    /// Who gives the command, for the audit [default: $USER].
    #[arg(long, global = true, value_name = "NAME", value_parser = words::name)]
    pub by: Option<String>,
}

/// A command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Companies.
    #[command(subcommand)]
    Tenant(tenant::Command),
    /// People, in whatever companies.
    #[command(subcommand)]
    User(user::Command),
    /// What outside issuers of tokens call people.
    #[command(subcommand)]
    Identity(identity::Command),
    /// Who belongs to which company.
    #[command(subcommand)]
    Member(member::Command),
    /// AI employees.
    #[command(subcommand)]
    Agent(agent::Command),
    /// Connections of agents to Slack, WhatsApp and other channels.
    #[command(subcommand)]
    Channel(channel::Command),
    /// Companies' own keys for providers of models.
    #[command(subcommand)]
    ModelKey(model_key::Command),
    /// What companies may spend in a month.
    #[command(subcommand)]
    Budget(budget::Command),
    /// How long companies keep what was said.
    #[command(subcommand)]
    Retention(retention::Command),
    /// Sockets that are open at the moment, on all hubs.
    #[command(subcommand)]
    Sockets(sockets::Command),
    /// What the queue gave up on and nobody could read or route.
    #[command(subcommand)]
    DeadLetter(dead_letter::Command),
    /// What became of messages.
    #[command(subcommand)]
    Turn(turn::Command),
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
