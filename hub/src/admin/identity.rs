//! What outside issuers of tokens call people.

use std::io::Write;

use chat_core::{Result, ids::UserId, store::admin::tables::IDENTITIES};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Desk,
    words::{self, given, some},
};

/// How an issuer calls somebody.
#[derive(Debug, Args)]
pub struct Named {
    /// The `iss` of their tokens, to the letter.
    #[arg(long, value_parser = words::word)]
    issuer: String,
    /// The `sub` of their tokens.
    #[arg(long, value_parser = words::name)]
    subject: String,
}

impl Named {
    fn values(self) -> [(&'static str, Option<Value>); 2] {
        [("issuer", Some(json!(self.issuer))), ("subject", Some(json!(self.subject)))]
    }
}

/// A command about identities.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Let a person in by an issuer's tokens.
    Add {
        /// Who.
        user: UserId,
        /// See there.
        #[command(flatten)]
        named: Named,
    },
    /// Let nobody in by this identity any more.
    Remove {
        /// See there.
        #[command(flatten)]
        named: Named,
    },
    /// Show identities.
    List {
        /// Of this person.
        #[arg(long)]
        user: Option<UserId>,
        /// Of this issuer.
        #[arg(long, value_parser = words::word)]
        issuer: Option<String>,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Add { user, named } => {
            let mut values = given(named.values());
            values.insert("user_id", json!(user));
            desk.create(&IDENTITIES, values).await
        }
        Command::Remove { named } => desk.remove(&IDENTITIES, given(named.values())).await,
        Command::List { user, issuer } => {
            desk.list(&IDENTITIES, given([("user_id", some(user)), ("issuer", some(issuer))])).await
        }
    }
}
