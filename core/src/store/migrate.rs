//! Brings a database to the newest schema: the files of `migrations/`, embedded, each in a transaction of its own.

use super::owner::Owner;
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
    let mut owner = Owner::connect(url).await?;
    owner.client.execute("select pg_advisory_lock($1)", &[&ADVISORY_LOCK]).await.map_err(Error::unavailable)?;
    let report = embedded::migrations::runner().run_async(&mut owner.client).await.map_err(Error::internal);
    // The lock ends with the session.
    owner.close().await?;
    Ok(report?.applied_migrations().iter().map(ToString::to_string).collect())
}
