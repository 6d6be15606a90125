//! Secrets of tenants at rest: sealed before they reach a table, opened at the place that needs them.
//!
//! AES-256-GCM with a random nonce, from `aws-lc-rs`, which signs tokens and speaks TLS here already. The tenant and the
//! purpose are authenticated along with the secret: sealed bytes that are copied to another row do not open there.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use crate::{
    config::{self, Secret},
    error::{Error, Result},
    ids::TenantId,
};

/// The first byte of what is sealed this way: format, nonce, ciphertext, tag.
const FORMAT: u8 = 1;

/// Seals and opens. The first key seals; each may open, so that a key can be replaced while old rows stand.
pub struct Sealer {
    keys: Vec<RandomizedNonceKey>,
}

impl Sealer {
    /// A sealer with the keys of the settings; without any it seals and opens nothing.
    #[must_use]
    pub fn new(settings: &config::Sealing) -> Self {
        let key = |bytes: &[u8; 32]| RandomizedNonceKey::new(&AES_256_GCM, bytes).expect("32 bytes are a key");
        Self { keys: settings.keys().map(key).collect() }
    }

    /// Seals a secret of `tenant` for `purpose`.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) without a key.
    pub fn seal(&self, tenant: TenantId, purpose: &str, secret: &Secret) -> Result<Vec<u8>> {
        let key = self.keys.first().ok_or_else(|| Error::internal("SECRETS_KEY is not set"))?;
        let mut body = secret.expose().as_bytes().to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(bound(tenant, purpose)), &mut body)
            .map_err(|_| Error::internal("a secret could not be sealed"))?;
        Ok([&[FORMAT], nonce.as_ref().as_slice(), &body].concat())
    }

    /// Opens what was sealed for the same tenant and purpose.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if none of the keys opens it.
    pub fn open(&self, tenant: TenantId, purpose: &str, sealed: &[u8]) -> Result<Secret> {
        let opened = sealed.split_first().filter(|(format, _)| **format == FORMAT).and_then(|(_, rest)| {
            let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>()?;
            self.keys.iter().find_map(|key| {
                let mut body = Zeroizing::new(body.to_vec());
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let text = key.open_in_place(nonce, Aad::from(bound(tenant, purpose)), &mut body).ok()?;
                String::from_utf8(text.to_vec()).ok()
            })
        });
        opened.map(Secret::from).ok_or_else(|| Error::internal(format!("the secret {purpose} does not open")))
    }
}

/// What the sealed bytes are bound to.
fn bound(tenant: TenantId, purpose: &str) -> Vec<u8> {
    format!("{tenant}\n{purpose}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &[u8]) -> Sealer {
        Sealer::new(&config::Sealing::with(keys.iter().map(|byte| [*byte; 32]).collect()))
    }

    #[test]
    fn a_secret_opens_only_where_it_belongs_and_with_its_key() {
        let (tenant, secret) = (TenantId::new(), Secret::from("sk-1".to_owned()));
        let sealed = sealer(&[1]).seal(tenant, "model:openai", &secret).unwrap();
        assert!(!sealed.windows(4).any(|window| window == b"sk-1"));
        assert_ne!(sealed, sealer(&[1]).seal(tenant, "model:openai", &secret).unwrap(), "each has a nonce of its own");
        assert_eq!(sealer(&[1]).open(tenant, "model:openai", &sealed).unwrap().expose(), "sk-1");
        assert_eq!(sealer(&[2, 1]).open(tenant, "model:openai", &sealed).unwrap().expose(), "sk-1", "an old key opens");
        let mut spoiled = sealed.clone();
        *spoiled.last_mut().unwrap() ^= 1;
        for (keys, tenant, purpose, sealed) in [
            (&[2][..], tenant, "model:openai", &sealed),
            (&[], tenant, "model:openai", &sealed),
            (&[1], TenantId::new(), "model:openai", &sealed),
            (&[1], tenant, "model:gemini", &sealed),
            (&[1], tenant, "model:openai", &spoiled),
            (&[1], tenant, "model:openai", &Vec::new()),
        ] {
            assert!(sealer(keys).open(tenant, purpose, sealed).is_err());
        }
        assert!(sealer(&[]).seal(tenant, "model:openai", &secret).is_err());
    }
}
