//! The keys that an issuer publishes (RFC 7517), as far as we take them.
//!
//! Public keys alone, each with the one algorithm that fits it: RSA with `RS256`, P-256 with `ES256`, Ed25519 with `EdDSA`.
//! A key for something else, without a name, or with a curve or algorithm that does not fit, is passed over; so is what is no
//! secret any more: a shared key (`oct`), or one with its private half, in a public document.

use std::collections::HashMap;

use jsonwebtoken::{Algorithm, DecodingKey};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// Keys of one document that are looked at. Issuers publish two or three.
const MOST: usize = 100;

/// A key, and the algorithm that it is for.
#[derive(Clone)]
pub struct Key {
    /// The public key.
    pub key: DecodingKey,
    /// The only algorithm of a signature that it verifies.
    pub algorithm: Algorithm,
}

/// The algorithms of published keys.
pub const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    kty: String,
    kid: String,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    /// The private half, which is nobody's to publish.
    d: Option<IgnoredAny>,
}

/// Reads a document: its keys by their names. `None` if it is none.
#[must_use]
pub fn parse(document: &[u8]) -> Option<HashMap<String, Key>> {
    let Document { keys } = serde_json::from_slice(document).ok()?;
    let entries = keys.into_iter().take(MOST).filter_map(|key| serde_json::from_value::<Entry>(key).ok());
    let mut keys = HashMap::new();
    for entry in entries {
        // Of two with one name nobody could say which is meant; the first stands.
        if let Some(key) = taken(&entry) {
            keys.entry(entry.kid).or_insert(key);
        }
    }
    Some(keys)
}

fn taken(entry: &Entry) -> Option<Key> {
    // Whoever read the document can sign with a key whose private half stands in it.
    if entry.d.is_some() {
        return None;
    }
    let signs = entry.r#use.as_deref().is_none_or(|purpose| purpose == "sig")
        && entry.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
    let (name, algorithm, key) = match (entry.kty.as_str(), entry.crv.as_deref()) {
        ("RSA", None) => {
            let key = DecodingKey::from_rsa_components(entry.n.as_deref()?, entry.e.as_deref()?);
            ("RS256", Algorithm::RS256, key)
        }
        ("EC", Some("P-256")) => {
            let key = DecodingKey::from_ec_components(entry.x.as_deref()?, entry.y.as_deref()?);
            ("ES256", Algorithm::ES256, key)
        }
        ("OKP", Some("Ed25519")) => ("EdDSA", Algorithm::EdDSA, DecodingKey::from_ed_components(entry.x.as_deref()?)),
        _ => return None,
    };
    let fits = entry.alg.as_deref().is_none_or(|alg| alg == name);
    (signs && fits).then_some(Key { key: key.ok()?, algorithm })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_public_keys_for_signatures_with_their_own_algorithm_are_taken() {
        let x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "good", "x": x});
        let with = |name: &str, more: Value| {
            let mut key = ed.clone();
            key["kid"] = name.into();
            key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            key
        };
        let document = json!({"keys": [
            ed,
            with("named", json!({"alg": "EdDSA", "use": "sig", "key_ops": ["verify"]})),
            with("other alg", json!({"alg": "RS256"})),
            with("for encryption", json!({"use": "enc"})),
            with("for signing", json!({"key_ops": ["sign"]})),
            with("other curve", json!({"crv": "X25519"})),
            with("no x", json!({"x": null})),
            with("private", json!({"d": x})),
            with("shared", json!({"kty": "oct", "k": x})),
            {"kty": "oct", "kid": "shared too", "k": x, "alg": "HS256"},
            {"kty": "OKP", "crv": "Ed25519", "x": x},
            {"kty": "EC", "crv": "P-384", "kid": "long", "x": x, "y": x},
            {"kty": "EC", "kid": "no curve", "x": x, "y": x},
            {"kty": "RSA", "kid": "no modulus", "e": "AQAB"},
            {"kid": 1},
            "junk",
        ]});
        let keys = parse(document.to_string().as_bytes()).unwrap();
        let mut names: Vec<&str> = keys.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["good", "named"]);
        for none in ["", "[]", "{}", r#"{"keys":{}}"#, "\u{0}"] {
            assert!(parse(none.as_bytes()).is_none(), "{none}");
        }
        let many: Vec<Value> = (0..MOST + 1).map(|n| with(&n.to_string(), json!({}))).collect();
        assert_eq!(parse(json!({"keys": many}).to_string().as_bytes()).unwrap().len(), MOST);
    }
}
