//! Whose tokens are good.

use std::time::Duration;

use super::Env;
use crate::{secret::Secret, token::checks::Subjects};

/// How tokens are checked.
#[derive(Clone)]
pub struct Token {
    /// What they are signed with.
    pub keys: Keys,
    /// The `iss` that a token must name, if any.
    pub issuer: Option<String>,
    /// The `aud` that a token must name, if any.
    pub audience: Option<String>,
}

/// The one source of keys.
#[derive(Clone)]
pub enum Keys {
    /// A secret of at least [`MIN_SECRET_BYTES`] shared with the portal, which mints the tokens.
    Shared(Secret),
    /// What an issuer publishes.
    Published(Published),
}

/// An issuer that publishes its keys as a JWKS document.
#[derive(Debug, Clone)]
pub struct Published {
    /// Where the document is: https, or http on this machine.
    pub url: String,
    /// Whom its subjects are.
    pub subjects: Subjects,
    /// When it is asked.
    pub pace: Pace,
}

/// When an issuer is asked for its keys; no setting.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Shortest time between two questions, however many unknown keys are named meanwhile.
    pub again: Duration,
    /// Age from which the document is read anew, while tokens are checked by what is known.
    pub fresh: Duration,
    /// Age from which they wait for that: as long lives a key that the issuer took back.
    pub stale: Duration,
    /// Age up to which keys hold while the issuer is away.
    pub most: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            again: Duration::from_secs(10),
            fresh: Duration::from_secs(300),
            stale: Duration::from_secs(600),
            most: Duration::from_secs(3_600),
        }
    }
}

/// Shortest shared secret, in bytes: as long as the digest that it keys (RFC 7518, section 3.2).
pub const MIN_SECRET_BYTES: usize = 32;

impl Token {
    /// Reads `JWT_SECRET` or `JWT_JWKS_URL` with `JWT_SUBJECT`, `JWT_ISSUER` and `JWT_AUDIENCE`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let (secret, url) = (env.optional("JWT_SECRET"), env.optional("JWT_JWKS_URL"));
        let (subject, issuer) = (env.optional("JWT_SUBJECT"), env.optional("JWT_ISSUER"));
        let audience = env.optional("JWT_AUDIENCE");
        let subjects = match subject.as_deref() {
            None | Some("identity") => Subjects::Outside,
            Some("user_id") => Subjects::Users,
            Some(_) => {
                env.faults.push("JWT_SUBJECT must be identity or user_id".into());
                Subjects::Outside
            }
        };
        let keys = match (secret, url) {
            (Some(secret), None) => {
                if secret.len() < MIN_SECRET_BYTES {
                    env.faults.push(format!("JWT_SECRET must have at least {MIN_SECRET_BYTES} bytes"));
                } else {
                    env.refuse_placeholder_key("JWT_SECRET", secret.as_bytes());
                }
                if subject.is_some() {
                    env.faults
                        .push("JWT_SUBJECT belongs to JWT_JWKS_URL: who has JWT_SECRET names portal users".into());
                }
                Keys::Shared(secret.into())
            }
            (None, Some(url)) => {
                if !protected(&url) {
                    env.faults.push("JWT_JWKS_URL must be https (http only on this machine)".into());
                }
                // An issuer has other tokens and other audiences (RFC 8725, sections 3.8 and 3.9).
                for (name, value) in [("JWT_ISSUER", &issuer), ("JWT_AUDIENCE", &audience)] {
                    if value.is_none() {
                        env.faults.push(format!("{name} is missing: JWT_JWKS_URL needs it"));
                    }
                }
                Keys::Published(Published { url, subjects, pace: Pace::default() })
            }
            (secret, _) => {
                let fault = if secret.is_some() {
                    "JWT_SECRET and JWT_JWKS_URL exclude each other"
                } else {
                    "JWT_SECRET or JWT_JWKS_URL is missing"
                };
                env.faults.push(fault.into());
                Keys::Shared(Secret::default())
            }
        };
        Self { keys, issuer, audience }
    }
}

/// Whether nobody on the way can put their own keys into the document.
fn protected(url: &str) -> bool {
    let host = |rest: &str| rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned();
    match url.split_once("://") {
        Some(("https", rest)) => !host(rest).is_empty() && !host(rest).contains('@'),
        Some(("http", rest)) => {
            let host = host(rest);
            let name =
                host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(&*host, |(name, _)| name);
            matches!(name, "127.0.0.1" | "[::1]" | "localhost")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(settings: &[(&str, &str)]) -> Vec<String> {
        let lookup =
            |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut env = Env::new(&lookup);
        Token::read(&mut env);
        env.faults
    }

    #[test]
    fn there_is_one_source_of_keys_and_an_issuer_is_named_with_its_audience() {
        let secret = ("JWT_SECRET", "k3J9-vq2L_x8Zr0Tn5Wm7Yb1Hc4Gd6Fs");
        let url = ("JWT_JWKS_URL", "https://id.example/jwks.json");
        let (issuer, audience) = (("JWT_ISSUER", "https://id.example"), ("JWT_AUDIENCE", "chat"));
        for good in [&[secret][..], &[secret, issuer], &[url, issuer, audience]] {
            assert_eq!(faults(good), Vec::<String>::new());
        }
        for subject in ["identity", "user_id"] {
            assert!(faults(&[url, issuer, audience, ("JWT_SUBJECT", subject)]).is_empty());
        }
        for (settings, named) in [
            (&[][..], "JWT_JWKS_URL"),
            (&[secret, url, issuer, audience], "exclude"),
            (&[url, audience], "JWT_ISSUER"),
            (&[url, issuer], "JWT_AUDIENCE"),
            (&[secret, ("JWT_SUBJECT", "user_id")], "JWT_SUBJECT"),
            (&[url, issuer, audience, ("JWT_SUBJECT", "email")], "JWT_SUBJECT"),
            (&[("JWT_JWKS_URL", "http://id.example/jwks.json"), issuer, audience], "https"),
            (&[("JWT_JWKS_URL", "http://127.0.0.1.id.example/"), issuer, audience], "https"),
            (&[("JWT_JWKS_URL", "http://127.0.0.1@id.example/"), issuer, audience], "https"),
            (&[("JWT_JWKS_URL", "id.example"), issuer, audience], "https"),
        ] {
            let faults = faults(settings);
            assert!(faults.len() == 1 && faults[0].contains(named), "{settings:?}: {faults:?}");
        }
        assert!(faults(&[("JWT_JWKS_URL", "http://127.0.0.1:8080/jwks"), issuer, audience]).is_empty());
    }
}
