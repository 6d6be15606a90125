//! What must be true of a token: its form, its signature by a key of ours with that key's own algorithm, its claims.
//!
//! Pure given the clock. The rules are those of RFC 8725: the key decides the algorithm, never the token; where a header
//! names or brings a key (`jwk`, `jku`, `x5u`, `x5c`) it is not looked at; what must be understood and is not (`crit`) is
//! refused. A name that stands twice is refused by the reader.

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation, decode, decode_header, errors::ErrorKind};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};

use super::{LEEWAY_SECONDS, MAX_LIFE_SECONDS, MAX_TOKEN_BYTES, Outside, Subject, Verified};
use crate::{
    caller::Role,
    error::{Code, Error, Result},
    ids::{TenantId, UserId},
    timestamp::Timestamp,
};

/// Whom the subjects of a key source are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subjects {
    /// Portal users, by their ids.
    Users,
    /// People as an outside issuer knows them; `portal_user_identities` says who they are here. An id in such a subject is
    /// the issuer's own and never a portal user's, whatever it looks like.
    Outside,
}

/// The checks of one key source.
pub struct Checks {
    /// One for each algorithm: the library wants all algorithms of one to fit the key.
    validations: Vec<(Algorithm, Validation)>,
    subjects: Subjects,
}

/// What is read of the portal's own claims.
#[derive(Deserialize)]
struct OfUser {
    sub: UserId,
    exp: i64,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    tenant_id: Option<TenantId>,
}

/// What is read of an outside issuer's: what it calls a role or a tenant is nothing of ours.
#[derive(Deserialize)]
struct OfOutsider {
    iss: String,
    sub: String,
    exp: i64,
    /// Only ID tokens have it (OpenID Connect Core, section 3.1.3.6), and those speak to whoever logs somebody in, not to us.
    #[serde(default)]
    at_hash: Option<IgnoredAny>,
}

/// The refusal of a bad token, which does not say what is bad: that would help only whoever forged it.
pub(super) fn refused(why: impl Into<String>) -> Error {
    Error::new(Code::Unauthenticated, "The token is missing or not valid.").because(why.into())
}

impl Checks {
    /// Checks for keys with these algorithms and no others. `iss` and `aud` are demanded where they are given.
    #[must_use]
    pub fn new(algorithms: &[Algorithm], issuer: Option<&str>, audience: Option<&str>, subjects: Subjects) -> Self {
        let validation = |algorithm: &Algorithm| (*algorithm, validation(*algorithm, issuer, audience));
        Self { validations: algorithms.iter().map(validation).collect(), subjects }
    }

    /// The name of the key that a token says it was signed with.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`] for what is no token, or names none.
    pub fn kid(&self, token: &str) -> Result<String> {
        let header = decode_header(short(token)?).map_err(|error| refused(complaint(error.kind())))?;
        if self.validation(header.alg).is_none() {
            return Err(refused("an algorithm that is not allowed"));
        }
        header.kid.ok_or_else(|| refused("no kid"))
    }

    /// What a token says, if it was signed by `key` with `algorithm` and everything else about it is right.
    ///
    /// # Errors
    /// [`Code::TokenExpired`] for one that was good once; [`Code::Unauthenticated`] for any other fault.
    pub fn verified(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<Verified> {
        match self.subjects {
            Subjects::Users => {
                let OfUser { sub, exp, role, tenant_id } = self.claims(token, key, algorithm)?;
                let subject = Subject::User(sub);
                Ok(Verified { subject, expires_at: end(exp)?, role_hint: role, tenant_hint: tenant_id })
            }
            Subjects::Outside => {
                let OfOutsider { iss, sub, exp, at_hash } = self.claims(token, key, algorithm)?;
                if at_hash.is_some() {
                    return Err(refused("an ID token"));
                }
                // Postgres has no text with a NUL.
                if sub.is_empty() || sub.contains('\0') {
                    return Err(refused("sub is no name"));
                }
                let subject = Subject::Outside(Box::new(Outside { issuer: iss, subject: sub }));
                Ok(Verified { subject, expires_at: end(exp)?, role_hint: None, tenant_hint: None })
            }
        }
    }

    fn claims<T: DeserializeOwned>(&self, token: &str, key: &DecodingKey, algorithm: Algorithm) -> Result<T> {
        // It allows this one algorithm, which is the key's: what the token's header names must be the same.
        let validation = self.validation(algorithm).ok_or_else(|| refused("an algorithm that is not allowed"))?;
        let token = decode::<T>(short(token)?, key, validation).map_err(|error| {
            if matches!(error.kind(), ErrorKind::ExpiredSignature) {
                Error::new(Code::TokenExpired, "The token has expired.")
            } else {
                refused(complaint(error.kind()))
            }
        })?;
        understood(&token.header)?;
        Ok(token.claims)
    }

    fn validation(&self, algorithm: Algorithm) -> Option<&Validation> {
        self.validations.iter().find(|(of, _)| *of == algorithm).map(|(_, validation)| validation)
    }
}

fn validation(algorithm: Algorithm, issuer: Option<&str>, audience: Option<&str>) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY_SECONDS;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "sub"]);
    if let Some(issuer) = issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".to_owned());
    }
    match audience {
        Some(audience) => {
            validation.set_audience(&[audience]);
            validation.required_spec_claims.insert("aud".to_owned());
        }
        None => validation.validate_aud = false,
    }
    validation
}

/// A token that is not too long to be looked at.
fn short(token: &str) -> Result<&str> {
    if token.len() > MAX_TOKEN_BYTES { Err(refused(format!("{} bytes", token.len()))) } else { Ok(token) }
}

/// A header that says nothing we do not go by, and does not say that this is another kind of token (RFC 8725, section 3.11).
fn understood(header: &Header) -> Result<()> {
    if header.crit.is_some() || header.extras.inner().contains_key("b64") {
        return Err(refused("what must be understood is not"));
    }
    let access = ["jwt", "at+jwt", "application/jwt", "application/at+jwt"];
    let is_access = |typ: &str| access.iter().any(|known| typ.eq_ignore_ascii_case(known));
    if header.typ.as_deref().is_some_and(|typ| !is_access(typ)) {
        return Err(refused("not the type of an access token"));
    }
    Ok(())
}

/// When a token ends, which is a moment that anybody could live to see.
fn end(exp: i64) -> Result<Timestamp> {
    let most = Timestamp::now().unix_micros() / 1_000_000 + MAX_LIFE_SECONDS;
    let end = Timestamp::from_unix(exp).filter(|_| exp <= most);
    end.ok_or_else(|| refused("exp too far away"))
}

/// The library's complaint, without what it repeats of its input.
fn complaint(kind: &ErrorKind) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum; the others repeat nothing")]
    match kind {
        ErrorKind::Json(error) => format!("Json({})", crate::complaint::complaint(&error.to_string())),
        ErrorKind::Base64(_) => "Base64".to_owned(),
        kind => format!("{kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::{Value, json};

    use super::*;

    const SECRET: &str = "an example secret of 32 bytes or more";

    fn verify(token: &str) -> Result<Verified> {
        let checks = Checks::new(&[Algorithm::HS256], Some("portal"), Some("chat"), Subjects::Users);
        checks.verified(token, &DecodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256)
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
        let verified = verify(&token).unwrap();
        assert_eq!((verified.subject, verified.role_hint), (Subject::User(user), Some(Role::CustomerAdmin)));

        let (signed, signature) = token.rsplit_once('.').unwrap();
        let payload = signed.split_once('.').unwrap().1;
        // {"alg":"none","typ":"JWT"}
        let none = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0";
        for (fault, token, code) in [
            ("expired", with("exp", json!(now - 31)), Code::TokenExpired),
            ("no exp", without("exp"), Code::Unauthenticated),
            ("exp is text", with("exp", json!("tomorrow")), Code::Unauthenticated),
            ("in two years", with("exp", json!(now + 2 * MAX_LIFE_SECONDS)), Code::Unauthenticated),
            ("in 1e300", with("exp", json!(1e300)), Code::Unauthenticated),
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
            assert_eq!(verify(&token).expect_err(fault).code(), code, "{fault}");
        }
    }

    #[test]
    fn clocks_may_differ_by_the_leeway() {
        let now = Timestamp::now().unix_micros() / 1_000_000;
        let claims = json!({"sub": UserId::new(), "exp": now - 20, "iss": "portal", "aud": "chat"});
        assert!(verify(&minted(&claims, Algorithm::HS256, SECRET)).is_ok());
    }
}
