//! People.

use std::io::Write;

use chat_core::{Result, caller::Role, ids::UserId, store::admin::tables::USERS};
use clap::Subcommand;
use serde_json::json;

use super::{
    Desk,
    words::{self, changes, given, some},
};

/// A command about people.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a person known, and print their id; who is known by this address and these values is left as they are.
    Create {
        /// Their e-mail address; nobody else has it.
        #[arg(long, value_parser = words::email)]
        email: String,
        /// How they are called; if it is not said, by what stands before the @.
        #[arg(long, value_parser = words::name)]
        name: Option<String>,
        /// What they are: platform_admin, customer_admin or customer_operator. In a company they are no more than this,
        /// and no more than `member set` says.
        #[arg(long, default_value = "customer_operator")]
        role: Role,
        /// Their id, if it shall not be a new one: the `sub` of their tokens, where the portal signs them.
        #[arg(long)]
        id: Option<UserId>,
    },
    /// Change what is known of a person.
    Change {
        /// Who.
        user: UserId,
        /// Their e-mail address.
        #[arg(long, value_parser = words::email)]
        email: Option<String>,
        /// How they are called.
        #[arg(long, value_parser = words::name)]
        name: Option<String>,
        /// What they are.
        #[arg(long)]
        role: Option<Role>,
    },
    /// Show people: all, or who has an address.
    List {
        /// Of this address.
        #[arg(long, value_parser = words::email)]
        email: Option<String>,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Create { email, name, role, id } => {
            let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or(&email).to_owned());
            let who = [("id", some(id)), ("email", Some(json!(email)))];
            let what = [("display_name", Some(json!(name))), ("role", Some(json!(role)))];
            desk.create(&USERS, given(who).into_iter().chain(given(what)).collect()).await
        }
        Command::Change { user, email, name, role } => {
            let mut values =
                changes(given([("email", some(email)), ("display_name", some(name)), ("role", some(role))]))?;
            values.insert("id", json!(user));
            desk.change(&USERS, values).await
        }
        Command::List { email } => desk.list(&USERS, given([("email", some(email))])).await,
    }
}
