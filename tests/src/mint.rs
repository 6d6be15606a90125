//! Mints tokens, as the portal does. Only here: no deployed part of the product can.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chat_core::{
    caller::Role,
    config::{Secret, Token},
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
        Token { secret: self.secret.clone(), issuer: None, audience: None }
    }

    /// A token for a user.
    #[must_use]
    pub fn token(&self, user: UserId, role: Role, tenant: Option<TenantId>, valid: Duration) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs();
        // A serial number, so that two tokens of one second differ.
        self.sign(&json!({"sub": user, "role": role, "tenant_id": tenant, "iat": now,
            "exp": now + valid.as_secs(), "jti": RequestId::new()}))
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
