//! Brings a database to the newest schema: the files of `migrations/`, embedded, each in a transaction of its own.

use tokio_postgres::NoTls;

use crate::{
    config::Secret,
    error::{Error, Result},
};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// One lock for everybody who migrates a database of this product; the number itself means nothing.
const ADVISORY_LOCK: i64 = 0x6b6f_6e73_7472_7563;

/// Applies the migrations that are missing, as the owner role, and returns their names. Two at once wait for each
/// other; the second finds nothing to do.
///
/// # Errors
/// [`Kind::Unavailable`](crate::Kind::Unavailable) if Postgres cannot be reached;
/// [`Kind::Internal`](crate::Kind::Internal), naming the migration, if one fails or an applied one was changed.
pub async fn migrate(url: &Secret) -> Result<Vec<String>> {
    let (mut client, connection) = tokio_postgres::connect(url.expose(), NoTls).await.map_err(Error::unavailable)?;
    let connection = tokio::spawn(connection);
    refuse_a_role_that_policies_hold(&client).await?;
    client.execute("select pg_advisory_lock($1)", &[&ADVISORY_LOCK]).await.map_err(Error::unavailable)?;
    let report = embedded::migrations::runner().run_async(&mut client).await.map_err(Error::internal);
    // The lock ends with the session.
    drop(client);
    connection.await.map_err(Error::internal)?.map_err(Error::unavailable)?;
    Ok(report?.applied_migrations().iter().map(ToString::to_string).collect())
}

/// A backfill under forced policies would see no row, change none, and call that a success.
async fn refuse_a_role_that_policies_hold(client: &tokio_postgres::Client) -> Result<()> {
    const ROLE: &str = "select rolsuper or rolbypassrls from pg_roles where rolname = current_user";
    let row = client.query_one(ROLE, &[]).await.map_err(Error::unavailable)?;
    if row.try_get(0).map_err(Error::internal)? {
        return Ok(());
    }
    Err(Error::internal("DATABASE_URL must name the owner role for this, with BYPASSRLS; see migrations/README.md"))
}
