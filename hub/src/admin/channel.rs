//! Connections of agents to channels.

use std::io::{Read, Write};

use chat_core::{
    Error, Result,
    config::{Sealing, Secret},
    ids::{AgentId, ConnectionId, TenantId},
    sealed::Sealer,
    store::admin::{Values, tables::CONNECTIONS},
};
use clap::{Subcommand, builder::PossibleValuesParser};
use serde_json::{Value, json};

use super::{
    Desk,
    words::{self, changes, given, some},
};
use crate::seal::{hex, read_secret};

/// As the table has them.
const CHANNELS: [&str; 8] = ["slack", "whatsapp", "mattermost", "rocketchat", "teams", "telegram", "signal", "web"];

/// A command about connections.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Connect an agent to a channel, and print the connection's id; one that stands with these values is left as it is.
    Connect {
        /// The company.
        #[arg(long)]
        tenant: TenantId,
        /// Who answers there.
        #[arg(long)]
        agent: AgentId,
        /// Which channel.
        #[arg(long = "type", value_name = "TYPE", value_parser = PossibleValuesParser::new(CHANNELS))]
        channel_type: String,
        /// What the channel calls the other end: Slack's team_id or api_app_id, WhatsApp's phone_number_id.
        #[arg(long, value_name = "ID", value_parser = words::word)]
        external_id: Option<String>,
        /// Read Slack's bot token or WhatsApp's access token from standard input, and seal it (SECRETS_KEY).
        #[arg(long)]
        credentials: bool,
        /// The connection's id, if it shall not be a new one.
        #[arg(long)]
        id: Option<ConnectionId>,
    },
    /// Change a connection.
    Change {
        /// Which.
        connection: ConnectionId,
        /// Who answers there.
        #[arg(long)]
        agent: Option<AgentId>,
        /// What the channel calls the other end.
        #[arg(long, value_name = "ID", value_parser = words::word)]
        external_id: Option<String>,
        /// Read other credentials from standard input, and seal them (SECRETS_KEY).
        #[arg(long)]
        credentials: bool,
    },
    /// Remove a connection, with what it knows of the messages that came by it.
    Disconnect {
        /// Which.
        connection: ConnectionId,
    },
    /// Show connections; of credentials, whether there are any.
    List {
        /// Of this company.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

/// Carries it out. Credentials are read from `input`.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>, sealing: &Sealing, input: impl Read) -> Result<()> {
    match command {
        Command::Connect { tenant, agent, channel_type, external_id, credentials, id } => {
            let known = given([
                ("tenant_id", Some(json!(tenant))),
                ("agent_id", Some(json!(agent))),
                ("channel_type", Some(json!(channel_type))),
                ("external_id", Some(json!(external_id))),
            ]);
            let stands = match id {
                Some(id) => desk.owner.sealed(&CONNECTIONS, "credentials", &of(id)).await?,
                None => desk.owner.sealed(&CONNECTIONS, "credentials", &known).await?,
            };
            let found = stands.as_ref().and_then(|(key, _)| serde_json::from_value(key["id"].clone()).ok());
            let id: ConnectionId = id.or(found).unwrap_or_else(ConnectionId::new);
            let mut values = known;
            values.insert("id", json!(id));
            if credentials {
                let was = stands.and_then(|(_, sealed)| sealed);
                values.extend(sealed_anew(sealing, tenant, id, was.as_deref(), &read_secret(input)?)?);
            }
            desk.create(&CONNECTIONS, values).await
        }
        Command::Change { connection, agent, external_id, credentials } => {
            let mut values = given([("agent_id", some(agent)), ("external_id", some(external_id))]);
            let key = of(connection);
            if credentials {
                let row = desk.owner.list(&CONNECTIONS, &key).await?.pop();
                let tenant = row.as_ref().and_then(|row| row.get("tenant_id")).cloned();
                let tenant = tenant.ok_or_else(|| Error::field("connection", "there is none of this id"))?;
                let tenant: TenantId = serde_json::from_value(tenant).map_err(Error::internal)?;
                let was = desk.owner.sealed(&CONNECTIONS, "credentials", &key).await?.and_then(|(_, sealed)| sealed);
                values.extend(sealed_anew(sealing, tenant, connection, was.as_deref(), &read_secret(input)?)?);
            } else {
                values = changes(values)?;
            }
            values.extend(key);
            desk.change(&CONNECTIONS, values).await
        }
        Command::Disconnect { connection } => desk.remove(&CONNECTIONS, of(connection)).await,
        Command::List { tenant } => desk.list(&CONNECTIONS, given([("tenant_id", some(tenant))])).await,
    }
}

fn of(id: ConnectionId) -> Values {
    given([("id", Some(json!(id)))])
}

/// Sealing the same secret twice gives other bytes; so nothing is sealed where the same one stands.
fn sealed_anew(
    sealing: &Sealing,
    tenant: TenantId,
    id: ConnectionId,
    was: Option<&[u8]>,
    secret: &Secret,
) -> Result<Option<(&'static str, Value)>> {
    let (sealer, purpose) = (Sealer::new(sealing), format!("channel:{id}"));
    let stands = was.and_then(|sealed| sealer.open(tenant, &purpose, sealed).ok());
    if stands.is_some_and(|stands| stands.expose() == secret.expose()) {
        return Ok(None);
    }
    Ok(Some(("credentials", json!(hex(&sealer.seal(tenant, &purpose, secret)?)))))
}
