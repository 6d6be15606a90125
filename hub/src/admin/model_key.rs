//! Companies' own keys for providers of models.

use std::io::{Read, Write};

use chat_core::{Result, config::Sealing, ids::TenantId, sealed::Sealer, store::admin::tables::MODEL_KEYS};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Desk,
    words::{self, given, some},
};
use crate::seal::{hex, read_secret};

/// Which key.
#[derive(Debug, Args)]
pub struct Which {
    /// The company.
    tenant: TenantId,
    /// The provider's name in the settings: openai, anthropic, gemini, or one of MODEL_PROVIDERS.
    #[arg(value_parser = words::word)]
    provider: String,
}

impl Which {
    fn values(&self) -> [(&'static str, Option<Value>); 2] {
        [("tenant_id", Some(json!(self.tenant))), ("provider", Some(json!(self.provider)))]
    }
}

/// A command about keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read a company's key from standard input, and seal it (SECRETS_KEY); it is used within a minute.
    Set {
        /// See there.
        #[command(flatten)]
        which: Which,
    },
    /// Remove a company's key: the operator's own is used again.
    Remove {
        /// See there.
        #[command(flatten)]
        which: Which,
    },
    /// Show for whom there are keys.
    List {
        /// Of this company.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

/// Carries it out. A key is read from `input`.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>, sealing: &Sealing, input: impl Read) -> Result<()> {
    match command {
        Command::Set { which } => {
            let mut values = given(which.values());
            let (sealer, purpose) = (Sealer::new(sealing), format!("model:{}", which.provider));
            let secret = read_secret(input)?;
            let was = desk.owner.sealed(&MODEL_KEYS, "sealed", &values).await?.and_then(|(_, sealed)| sealed);
            let stands = was.and_then(|sealed| sealer.open(which.tenant, &purpose, &sealed).ok());
            if stands.is_none_or(|stands| stands.expose() != secret.expose()) {
                values.insert("sealed", json!(hex(&sealer.seal(which.tenant, &purpose, &secret)?)));
            }
            desk.set(&MODEL_KEYS, values).await
        }
        Command::Remove { which } => desk.remove(&MODEL_KEYS, given(which.values())).await,
        Command::List { tenant } => desk.list(&MODEL_KEYS, given([("tenant_id", some(tenant))])).await,
    }
}
