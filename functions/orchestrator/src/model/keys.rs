//! The keys that tenants brought themselves, read when their provider is about to be called and kept for a moment.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chat_core::{Result, config::Secret, ids::TenantId, sealed::Sealer, store::Store};
use tokio::time::Instant;

/// How long a key, or that there is none, is believed: the longest that a key that was taken back is still used.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// Keys that are kept at most, some hundred bytes each.
const MAX_KEPT: usize = 4_096;

/// The tenants' keys. What is kept is kept in memory alone.
pub struct TenantKeys {
    store: Store,
    sealer: Sealer,
    kept_for: Duration,
    kept: Mutex<HashMap<(TenantId, String), Kept>>,
}

struct Kept {
    until: Instant,
    key: Option<Secret>,
}

impl TenantKeys {
    /// Reads from the store what this opens.
    #[must_use]
    pub fn new(store: Store, sealer: Sealer) -> Self {
        Self { store, sealer, kept_for: KEPT_FOR, kept: Mutex::default() }
    }

    /// Believes a key for this long instead of a minute.
    #[must_use]
    pub fn kept_for(self, kept_for: Duration) -> Self {
        Self { kept_for, ..self }
    }

    /// The tenant's own key for a provider; `None` if it has none and the operator's is to be used.
    ///
    /// # Errors
    /// [`Kind::Internal`](chat_core::Kind::Internal) if there is one that does not open: what a tenant has sealed is
    /// not paid for with somebody else's key. [`Kind::Unavailable`](chat_core::Kind::Unavailable) if Postgres did not
    /// answer. Neither is kept.
    pub(super) async fn key(&self, tenant: TenantId, provider: &str) -> Result<Option<Secret>> {
        let name = (tenant, provider.to_owned());
        if let Some(kept) = self.kept().get(&name).filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.key.clone());
        }
        let until = Instant::now() + self.kept_for;
        let key = match self.store.model_key(tenant, provider).await? {
            Some(sealed) => Some(self.sealer.open(tenant, &purpose(provider), &sealed)?),
            None => None,
        };
        let mut kept = self.kept();
        if kept.len() >= MAX_KEPT {
            let now = Instant::now();
            kept.retain(|_, kept| now < kept.until);
            if kept.len() >= MAX_KEPT {
                kept.clear();
            }
        }
        kept.insert(name, Kept { until, key: key.clone() });
        Ok(key)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<(TenantId, String), Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a key for this provider is sealed for.
#[must_use]
pub fn purpose(provider: &str) -> String {
    format!("model:{provider}")
}
