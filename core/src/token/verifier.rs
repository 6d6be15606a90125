//! Tokens against the keys of the settings.

use jsonwebtoken::{Algorithm, DecodingKey};

use super::{
    Verified,
    checks::{Checks, Subjects},
    jwks::ALGORITHMS,
    published::Published,
};
use crate::{
    config::{self, Keys},
    error::Result,
    secret::Secret,
};

/// Checks tokens against the keys and claims of the settings.
pub struct Verifier {
    keys: Source,
    checks: Checks,
}

/// Where keys come from; each source allows its own algorithms and no others.
enum Source {
    /// A secret shared with the portal, which mints the tokens: `HS256`.
    Shared(DecodingKey),
    /// What an issuer publishes: `RS256`, `ES256`, `EdDSA`, as each key says.
    Published(Published),
}

impl Verifier {
    /// A verifier for the tokens that the settings describe.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if this machine has no certificates to know an issuer by.
    pub fn new(settings: &config::Token) -> Result<Self> {
        let (issuer, audience) = (settings.issuer.as_deref(), settings.audience.as_deref());
        Ok(match &settings.keys {
            Keys::Shared(secret) => Self {
                keys: Source::Shared(DecodingKey::from_secret(secret.expose().as_bytes())),
                checks: Checks::new(&[Algorithm::HS256], issuer, audience, Subjects::Users),
            },
            Keys::Published(published) => Self {
                keys: Source::Published(Published::new(published)?),
                checks: Checks::new(&ALGORITHMS, issuer, audience, published.subjects),
            },
        })
    }

    /// Tells whom the token speaks for. Waits for nothing but, at times, an issuer's keys.
    ///
    /// # Errors
    /// [`Code::TokenExpired`](crate::Code::TokenExpired) for one that was good once;
    /// [`Code::Unauthenticated`](crate::Code::Unauthenticated) for any other fault, without saying which: that would help
    /// only whoever forged it; [`Code::Unavailable`](crate::Code::Unavailable) where an issuer's keys cannot be read.
    pub async fn verify(&self, token: &Secret) -> Result<Verified> {
        let token = token.expose();
        match &self.keys {
            Source::Shared(key) => self.checks.verified(token, key, Algorithm::HS256),
            Source::Published(keys) => {
                let key = keys.key(&self.checks.kid(token)?).await?;
                self.checks.verified(token, &key.key, key.algorithm)
            }
        }
    }
}
