//! Mints tokens, as the portal does. Only here: no deployed part of the product can.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chat_core::{
    caller::Role,
    config::{Keys, Secret, Token},
    ids::{RequestId, TenantId, UserId},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// Signs tokens with the secret of one stack.
#[derive(Clone)]
pub struct Mint {
    secret: Secret,
}

impl Mint {
    /// A mint with a secret of its own, 72 characters from the system's randomness.
    #[must_use]
    pub fn new() -> Self {
        let word = || uuid::Uuid::from_u128(rand::random()).to_string();
        Self { secret: format!("{}{}", word(), word()).into() }
    }

    /// The mint that holds this secret.
    #[must_use]
    pub fn with(secret: String) -> Self {
        Self { secret: secret.into() }
    }

    /// The secret, for the state file that only its owner may read.
    #[must_use]
    pub fn secret(&self) -> &str {
        self.secret.expose()
    }

    /// What a verifier needs to know these tokens.
    #[must_use]
    pub fn settings(&self) -> Token {
        Token { keys: Keys::Shared(self.secret.clone()), issuer: None, audience: None }
    }

    /// A token for a user.
    #[must_use]
    pub fn token(&self, user: UserId, role: Role, tenant: Option<TenantId>, valid: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        // A serial number, so that two tokens of one second differ.
        self.sign(&json!({"sub": user, "role": role, "tenant_id": tenant, "iat": now,
            "exp": now + valid.as_secs(), "jti": RequestId::new()}))
    }

    /// A token whose header and claims are these very texts.
    #[must_use]
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let segment = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let signed = format!("{}.{}", segment(header.as_bytes()), segment(claims.as_bytes()));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.expose().as_bytes());
        let tag = hmac::sign(&key, signed.as_bytes());
        format!("{signed}.{}", segment(tag.as_ref()))
    }

    /// A token with any claims.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let key = EncodingKey::from_secret(self.secret.expose().as_bytes());
        encode(&Header::new(Algorithm::HS256), claims, &key).expect("a shared secret signs anything")
    }
}

impl Default for Mint {
    fn default() -> Self {
        Self::new()
    }
}
