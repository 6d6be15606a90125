//! Tenants' own keys for the services behind the models, sealed.

use super::{Scope, Store, column, script::Step};
use crate::{error::Result, ids::TenantId};

/// `$1` provider.
const KEY: &str = "select sealed from model_keys where provider = $1 and tenant_id = app_tenant()";

impl Store {
    /// The tenant's key for a provider, as `Sealer::seal` made it for the purpose `model:{provider}`; `None` if it has
    /// none of its own. In one round trip.
    ///
    /// # Errors
    /// [`Code::Unavailable`](crate::Code::Unavailable) if Postgres did not answer.
    pub async fn model_key(&self, tenant: TenantId, provider: &str) -> Result<Option<Vec<u8>>> {
        let work: [Step<'_>; 1] = [(KEY, &[&provider])];
        let rows = self.run(Scope::Tenant(tenant), &work).await?;
        rows[0].first().map(|row| column(row, "sealed")).transpose()
    }
}
