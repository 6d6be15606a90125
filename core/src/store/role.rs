//! Whom we are to Postgres: each new connection is looked at before anybody gets it.

use std::sync::Once;

use deadpool_postgres::{ClientWrapper, Hook, HookError, PoolError};
use tokio::time::timeout;
use tokio_postgres::SimpleQueryMessage;
use tracing::warn;

use super::CONNECTION_TIMEOUT;

/// Why a connection is not to be had, and will not be by waiting.
const REFUSED: &str = "DATABASE_URL names a role that could bypass row-level security; use chat_app";

/// One statement without parameters, so it is one round trip.
const ROLE: &str = "select r.rolsuper or r.rolbypassrls or exists (
    select from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = 'public' and pg_has_role(c.relowner, 'member')),
    current_setting('server_version_num')
    from pg_roles r where r.rolname = current_user";

/// Whether it was this that kept a connection back.
pub(super) fn refused(error: &PoolError) -> bool {
    matches!(error, PoolError::PostCreateHook(HookError::Message(why)) if why == REFUSED)
}

/// Refuses a connection whose role could bypass policies, also where a role or a server has changed since we began.
pub(super) fn look() -> Hook {
    Hook::async_fn(|conn, _| {
        Box::pin(async move {
            let looked = timeout(CONNECTION_TIMEOUT, policies_hold(conn)).await;
            looked.unwrap_or_else(|_| Err(HookError::message("no answer to the question for our role")))
        })
    })
}

async fn policies_hold(conn: &ClientWrapper) -> Result<(), HookError> {
    static TOLD: Once = Once::new();
    let answer = conn.simple_query(ROLE).await.map_err(HookError::Backend)?;
    let row = answer.iter().find_map(|part| {
        let SimpleQueryMessage::Row(row) = part else { return None };
        Some((row.get(0)?, row.get(1)?))
    });
    let Some(("f", version)) = row else { return Err(HookError::message(REFUSED)) };
    if let Some(mended) = version.parse().ok().and_then(unpatched) {
        TOLD.call_once(|| warn!("this Postgres tells of rows behind policies (CVE-2025-8713); update it to {mended}"));
    }
    Ok(())
}

/// The first release in which Postgres does not tell of rows behind policies by its statistics any more, for a server that
/// is older, by its `server_version_num`. Source: <https://www.postgresql.org/support/security/CVE-2025-8713/>.
#[must_use]
pub fn unpatched(version: i32) -> Option<&'static str> {
    let (major, minor) = (version / 10_000, version % 10_000);
    let (first, name) = match major {
        ..=12 => return Some("a supported version"),
        13 => (22, "13.22"),
        14 => (19, "14.19"),
        15 => (14, "15.14"),
        16 => (10, "16.10"),
        17 => (6, "17.6"),
        18.. => return None,
    };
    (minor < first).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::unpatched;

    #[test]
    fn a_server_that_leaks_is_told_from_a_mended_one() {
        for (version, mended) in [
            (150_018, None),
            (150_014, None),
            (150_013, Some("15.14")),
            (170_005, Some("17.6")),
            (160_010, None),
            (140_018, Some("14.19")),
            (130_022, None),
            (120_022, Some("a supported version")),
            (180_000, None),
        ] {
            assert_eq!(unpatched(version), mended, "{version}");
        }
    }
}
