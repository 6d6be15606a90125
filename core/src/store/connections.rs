//! Connections to channels: which agent answers a message of Slack or WhatsApp, and with which secret.

use super::{Scope, Store, claim::Agent, column, script::Step};
use crate::{
    error::{Code, Error, Result},
    ids::{ConnectionId, TenantId},
    message::ChannelType,
};

/// A company's connection to a channel.
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Who answers there.
    pub agent: Agent,
    /// The channel's token, sealed for [`Connection::purpose`]; `None` where the portal has filled in none.
    pub credentials: Option<Vec<u8>>,
}

impl Connection {
    /// What its credentials are sealed for.
    #[must_use]
    pub fn purpose(&self) -> String {
        format!("channel:{}", self.id)
    }
}

/// `$1` channel, `$2` what the message says about the other end; where it says something, only a connection of that name
/// will do. Two rows are enough to know that there is not one.
const CONNECTION: &str = "
    select k.id, k.credentials, a.id as agent_id, a.name, a.model, a.system_prompt,
           a.fallback_models, a.temperature, a.max_output_tokens, a.context_tokens, a.tools
    from channel_connections k
    join agents a on a.tenant_id = k.tenant_id and a.id = k.agent_id
    where k.tenant_id = app_tenant() and k.channel_type = $1 and a.is_active
      and (cardinality($2::text[]) = 0 or k.external_id = any($2))
    limit 2";

const EXISTS: &str = "select 1 from tenants where id = app_tenant()";

impl Store {
    /// Whether there is such a company: one that was erased may still be named by what lies in a queue.
    ///
    /// # Errors
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn tenant_exists(&self, tenant: TenantId) -> Result<bool> {
        Ok(!self.run(Scope::Tenant(tenant), &[(EXISTS, &[])]).await?[0].is_empty())
    }

    /// Finds the one connection of a company that a message of `channel` came through; `named` is what the message says
    /// about it, if anything.
    ///
    /// # Errors
    /// [`Code::NotFound`] if there is none whose agent is active, [`Code::Invalid`] if there are several,
    /// [`Code::Unavailable`] if Postgres did not answer.
    pub async fn connection(&self, tenant: TenantId, channel: ChannelType, named: &[&str]) -> Result<Connection> {
        let work: [Step<'_>; 1] = [(CONNECTION, &[&channel.as_str(), &named])];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        let [row] = rows[0].as_slice() else {
            let which = if named.is_empty() { String::new() } else { format!(" for {}", named.join(", ")) };
            return Err(if rows[0].is_empty() {
                Error::new(Code::NotFound, format!("This company has no {channel} connection{which}."))
            } else {
                Error::field("channel_metadata", format!("this company has several {channel} connections{which}"))
            });
        };
        Ok(Connection {
            id: column(row, "id")?,
            credentials: column(row, "credentials")?,
            // No person takes over here.
            agent: Agent::of(row, None)?,
        })
    }
}
