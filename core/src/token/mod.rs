//! The one way in: a signed token says who is asking.
//!
//! A [`Verifier`] knows by which keys; [`checks`] what must be true of a token beside its signature. What a token says of
//! role and tenant is a hint; only its subject is believed, and only after the signature.
//! Whom an outside issuer means by its subject only the store knows (`Store::recognize`).

pub mod checks;
pub mod jwks;
#[cfg(feature = "verify")]
mod published;
#[cfg(feature = "verify")]
mod verifier;

#[cfg(feature = "verify")]
pub use verifier::Verifier;

use crate::{
    caller::Role,
    ids::{TenantId, UserId},
    secret::Secret,
    timestamp::Timestamp,
};

/// How far two clocks may differ, in seconds.
pub const LEEWAY_SECONDS: u64 = 30;

/// Longest token that is looked at, in bytes. Ours have about 300; an outside issuer's with groups a few thousand.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Longest life that a token may have left, in seconds: a year and a day. Whoever mints one for longer has made a mistake
/// that nobody could take back.
pub const MAX_LIFE_SECONDS: i64 = 366 * 24 * 3_600;

/// The token of the one `Authorization` header, of all that a request has; an empty one, which nobody verifies, where
/// there is none, or where there are two and others could go by the other.
#[must_use]
pub fn bearer<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> Secret {
    let mut headers = headers.into_iter();
    let only = headers.next().filter(|_| headers.next().is_none());
    let value = only.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default();
    let (scheme, token) = value.split_once(' ').unwrap_or_default();
    let token = if scheme.eq_ignore_ascii_case("bearer") { token.trim() } else { "" };
    Secret::from(token.to_owned())
}

/// What a verified token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Whom it speaks for.
    pub subject: Subject,
    /// When it ends, leeway not included.
    pub expires_at: Timestamp,
    /// The role that it claims; a guess at what the database will say.
    pub role_hint: Option<Role>,
    /// The tenant that it claims.
    pub tenant_hint: Option<TenantId>,
}

/// Whom a token speaks for, in its issuer's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A portal user, whom the portal names by their id.
    User(UserId),
    /// Somebody of an outside issuer; a row of `portal_user_identities` says which portal user that is, if any.
    Outside(Box<Outside>),
}

/// A person in an outside issuer's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outside {
    /// Its `iss`.
    pub issuer: String,
    /// Its `sub`.
    pub subject: String,
}

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

impl Verified {
    /// The identity of this token, once it is known which portal user its subject is.
    #[must_use]
    pub fn of(&self, user_id: UserId) -> Identity {
        let Self { expires_at, role_hint, tenant_hint, .. } = *self;
        Identity { user_id, expires_at, role_hint, tenant_hint }
    }
}
