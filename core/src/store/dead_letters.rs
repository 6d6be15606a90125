//! What the queue gave up on and nobody could read.

use super::{Scope, Store, script::Step};
use crate::{error::Result, ids::TenantId, text::carried};

/// Characters of a body that are kept: enough to see what it was meant to be.
const KEPT: usize = 65_536;

/// A letter that comes twice is kept once. No conflict target: it would need the right to read.
macro_rules! keep {
    ($if:literal) => {
        concat!("insert into dead_letters (message_id, body, reason) select $1, $2, $3", $if, " on conflict do nothing")
    };
}

const KEEP: &str = keep!("");

/// Not where the company that it names is gone: an erased one shall not be named again.
const KEEP_OF_TENANT: &str = keep!(" where exists (select from tenants where id = app_tenant())");

impl Store {
    /// Keeps a letter for an operator, unless it names a company that is not there.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not confirm.
    pub async fn keep_dead_letter(
        &self,
        tenant: Option<TenantId>,
        message_id: &str,
        body: &str,
        reason: &str,
    ) -> Result<()> {
        let body: String = carried(body).chars().take(KEPT).collect();
        let (scope, keep) = tenant.map_or((Scope::Nobody, KEEP), |tenant| (Scope::Tenant(tenant), KEEP_OF_TENANT));
        let work: [Step<'_>; 1] = [(keep, &[&message_id, &body, &reason])];
        self.run(scope, &work).await.map(drop)
    }
}
