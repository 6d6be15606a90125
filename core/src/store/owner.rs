//! The owner's connection: for what a command does with the whole database, never for a service.

use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::{named, tls};
use crate::{
    config::Secret,
    error::{Error, Result},
};

/// A connection as the owner role, which policies do not hold.
pub struct Owner {
    pub(super) client: Client,
    connection: JoinHandle<std::result::Result<(), tokio_postgres::Error>>,
}

impl Owner {
    /// Connects as the role that `url` names.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres cannot be reached;
    /// [`Kind::Internal`](crate::Kind::Internal) for a role without BYPASSRLS.
    pub async fn connect(url: &Secret) -> Result<Self> {
        let (target, tls) = tls::target(url)?;
        let (client, connection) = target.connect(tls).await.map_err(|error| named(Error::unavailable(error)))?;
        let owner = Self { client, connection: tokio::spawn(connection) };
        owner.refuse_a_role_that_policies_hold().await?;
        Ok(owner)
    }

    /// Ends the session, and with it whatever it holds.
    ///
    /// # Errors
    /// [`Kind::Unavailable`](crate::Kind::Unavailable) if it had broken before.
    pub async fn close(self) -> Result<()> {
        drop(self.client);
        self.connection.await.map_err(Error::internal)?.map_err(Error::unavailable)
    }

    /// Under forced policies it would see no row, change none, and call that a success.
    async fn refuse_a_role_that_policies_hold(&self) -> Result<()> {
        const ROLE: &str = "select rolsuper or rolbypassrls from pg_roles where rolname = current_user";
        let row = self.client.query_one(ROLE, &[]).await.map_err(Error::unavailable)?;
        if row.try_get(0).map_err(Error::internal)? {
            return Ok(());
        }
        Err(Error::internal("DATABASE_URL must name the owner role for this, with BYPASSRLS; see migrations/README.md"))
    }
}
