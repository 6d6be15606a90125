//! The one way in: a signed token says who is asking.
//!
//! Pure given the clock: a [`Verifier`] holds the keys it was made with. What a token says of role and
//! tenant is a hint; only its subject is believed, and only after the signature.

use std::fmt;

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, errors::ErrorKind};
use serde::Deserialize;

use crate::{
    caller::Role,
    config,
    error::{Code, Error, Result},
    ids::{TenantId, UserId},
    secret::Secret,
    timestamp::Timestamp,
};

/// How far two clocks may differ, in seconds.
pub const LEEWAY_SECONDS: u64 = 30;

/// Longest token that is looked at, in bytes. Ours have about 300; an outside issuer's with groups a few thousand.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Who a verified token speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The portal user.
    pub user_id: UserId,
    /// When the token ends, leeway not included.
    pub expires_at: Timestamp,
    /// The role that the token claims; a guess at what the database will say.
    pub role_hint: Option<Role>,
    /// The tenant that the token claims.
    pub tenant_hint: Option<TenantId>,
}

/// Checks tokens against the keys and claims of the settings.
pub struct Verifier {
    key: KeySource,
    validation: Validation,
}

/// Where keys come from; each source allows its own algorithms and no others.
enum KeySource {
    /// A secret shared with the portal, which mints the tokens: `HS256`.
    Shared(DecodingKey),
}

#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    exp: i64,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    tenant_id: Option<TenantId>,
}

impl Verifier {
    /// A verifier for the tokens that the settings describe.
    #[must_use]
    pub fn new(settings: &config::Token) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "sub"]);
        if let Some(issuer) = &settings.issuer {
            validation.set_issuer(&[issuer]);
            validation.required_spec_claims.insert("iss".to_owned());
        }
        match &settings.audience {
            Some(audience) => {
                validation.set_audience(&[audience]);
                validation.required_spec_claims.insert("aud".to_owned());
            }
            None => validation.validate_aud = false,
        }
        let key = KeySource::Shared(DecodingKey::from_secret(settings.secret.expose().as_bytes()));
        Self { key, validation }
    }

    /// Tells who the token speaks for.
    ///
    /// # Errors
    /// [`Code::TokenExpired`] for one that was good once; [`Code::Unauthenticated`] for any other fault,
    /// without saying which: that would help only whoever forged it.
    pub fn verify(&self, token: &Secret) -> Result<Identity> {
        let token = token.expose();
        let refused =
            |source: String| Error::new(Code::Unauthenticated, "The token is missing or not valid.").because(source);
        if token.len() > MAX_TOKEN_BYTES {
            return Err(refused(format!("{} bytes", token.len())));
        }
        let KeySource::Shared(key) = &self.key;
        let claims = decode::<Claims>(token, key, &self.validation).map_err(|error| {
            if matches!(error.kind(), ErrorKind::ExpiredSignature) {
                Error::new(Code::TokenExpired, "The token has expired.")
            } else {
                refused(format!("{:?}", error.kind()))
            }
        })?;
        let Claims { sub, exp, role, tenant_id } = claims.claims;
        let expires_at = Timestamp::from_unix(exp).ok_or_else(|| refused("exp out of range".to_owned()))?;
        Ok(Identity { user_id: sub, expires_at, role_hint: role, tenant_hint: tenant_id })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "an example secret of 32 bytes or more";

    fn verifier() -> Verifier {
        Verifier::new(&config::Token {
            secret: Secret::from(SECRET.to_owned()),
            issuer: Some("portal".to_owned()),
            audience: Some("chat".to_owned()),
        })
    }

    fn verified(token: &str) -> Result<Identity> {
        verifier().verify(&Secret::from(token.to_owned()))
    }

    fn minted(claims: &Value, algorithm: Algorithm, secret: &str) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(secret.as_bytes())).unwrap()
    }

    #[test]
    fn a_token_is_refused_for_each_thing_that_can_be_wrong_with_it() {
        let now = Timestamp::now().unix_micros() / 1_000_000;
        let user = UserId::new();
        let good = json!({"sub": user, "exp": now + 60, "iss": "portal", "aud": "chat", "role": "customer_admin"});
        let with = |key: &str, value: Value| {
            let mut claims = good.clone();
            claims[key] = value;
            minted(&claims, Algorithm::HS256, SECRET)
        };
        let without = |key: &str| {
            let mut claims = good.clone();
            claims.as_object_mut().unwrap().remove(key);
            minted(&claims, Algorithm::HS256, SECRET)
        };
        let token = minted(&good, Algorithm::HS256, SECRET);
        let identity = verified(&token).unwrap();
        assert_eq!((identity.user_id, identity.role_hint), (user, Some(Role::CustomerAdmin)));

        let (signed, signature) = token.rsplit_once('.').unwrap();
        let payload = signed.split_once('.').unwrap().1;
        // {"alg":"none","typ":"JWT"}
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        for (fault, token, code) in [
            ("expired", with("exp", json!(now - 31)), Code::TokenExpired),
            ("no exp", without("exp"), Code::Unauthenticated),
            ("exp is text", with("exp", json!("tomorrow")), Code::Unauthenticated),
            ("no sub", without("sub"), Code::Unauthenticated),
            ("sub is no id", with("sub", json!("root")), Code::Unauthenticated),
            ("not yet valid", with("nbf", json!(now + 60)), Code::Unauthenticated),
            ("wrong issuer", with("iss", json!("elsewhere")), Code::Unauthenticated),
            ("no issuer", without("iss"), Code::Unauthenticated),
            ("wrong audience", with("aud", json!("billing")), Code::Unauthenticated),
            ("no audience", without("aud"), Code::Unauthenticated),
            ("a role that is none", with("role", json!("root")), Code::Unauthenticated),
            (
                "wrong secret",
                minted(&good, Algorithm::HS256, "another secret of 32 bytes or more!!"),
                Code::Unauthenticated,
            ),
            ("wrong algorithm", minted(&good, Algorithm::HS512, SECRET), Code::Unauthenticated),
            ("alg none, unsigned", format!("{none}.{payload}."), Code::Unauthenticated),
            ("alg none, signature kept", format!("{none}.{payload}.{signature}"), Code::Unauthenticated),
            ("unsigned", format!("{signed}."), Code::Unauthenticated),
            ("no signature part", signed.to_owned(), Code::Unauthenticated),
            ("too long", "a".repeat(MAX_TOKEN_BYTES + 1), Code::Unauthenticated),
            ("empty", String::new(), Code::Unauthenticated),
            ("garbage", "three.little.words".to_owned(), Code::Unauthenticated),
        ] {
            assert_eq!(verified(&token).expect_err(fault).code(), code, "{fault}");
        }
    }

    #[test]
    fn clocks_may_differ_by_the_leeway() {
        let now = Timestamp::now().unix_micros() / 1_000_000;
        let claims = json!({"sub": UserId::new(), "exp": now - 20, "iss": "portal", "aud": "chat"});
        assert!(verified(&minted(&claims, Algorithm::HS256, SECRET)).is_ok());
    }
}
