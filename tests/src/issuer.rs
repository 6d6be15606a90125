//! An issuer of tokens that publishes its keys, over real HTTP: it rotates them, falls silent, sends us elsewhere, and signs
//! whatever it is told to, so that each thing that can be wrong with a token can be made.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::{Result, anyhow};
use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chat_core::{
    config::{Keys, Pace, Published, Token},
    token::checks::Subjects,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What its tokens name as `iss` and `aud`.
pub const ISSUER: &str = "https://id.example";
/// See [`ISSUER`].
pub const AUDIENCE: &str = "chat";

/// What the issuer does when it is asked for its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Well,
    /// Answers with 500.
    Broken,
    /// Takes the question and never answers.
    Silent,
    /// Sends whoever asks to another address of its own, where the keys would be.
    Elsewhere,
    /// Answers without end.
    Endless,
    /// Answers with its keys and half a megabyte of nothing.
    Large,
    /// Answers with something else.
    Confused,
}

/// A running issuer. Dropping it frees its port.
pub struct Issuer {
    /// Its address.
    pub address: std::net::SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    document: Mutex<Value>,
    mood: Mutex<Mood>,
    asked: AtomicUsize,
    elsewhere: AtomicUsize,
    awake: Notify,
}

/// A key of an issuer, with the name that it is published under.
pub struct Signer {
    /// The name.
    pub kid: String,
    key: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Es(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

fn segment(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// A new key for an algorithm: `RS256`, `ES256` or `EdDSA`.
    ///
    /// # Errors
    /// For any other, or if this machine has no randomness.
    pub fn new(algorithm: &str, kid: &str) -> Result<Self> {
        let none = |_| anyhow!("no key could be made");
        let key = match algorithm {
            "RS256" => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(none)?),
            "ES256" => Pair::Es(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(none)?),
            "EdDSA" => Pair::Ed(Ed25519KeyPair::generate().map_err(none)?),
            other => return Err(anyhow!("no key for {other}")),
        };
        Ok(Self { kid: kid.to_owned(), key })
    }

    /// The algorithm of its signatures.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.key {
            Pair::Rsa(_) => "RS256",
            Pair::Es(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
        }
    }

    /// The public half, as a JWK.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let mut jwk = match &self.key {
            Pair::Rsa(pair) => {
                let (n, e) = (pair.public_key().modulus(), pair.public_key().exponent());
                json!({"kty": "RSA", "n": segment(n.big_endian_without_leading_zero()),
                    "e": segment(e.big_endian_without_leading_zero())})
            }
            Pair::Es(pair) => {
                // Uncompressed: a 4, then the two coordinates.
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "x": segment(x), "y": segment(y)})
            }
            Pair::Ed(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": segment(pair.public_key().as_ref())}),
        };
        jwk["kid"] = self.kid.clone().into();
        jwk
    }

    /// The public half as PEM, which a confused verifier would take for a shared secret.
    ///
    /// # Errors
    /// For any but RSA.
    pub fn public_pem(&self) -> Result<String> {
        let Pair::Rsa(pair) = &self.key else { return Err(anyhow!("only RSA")) };
        let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key())?;
        let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        Ok(format!("-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"))
    }

    /// A token whose header and claims are these very texts.
    #[must_use]
    pub fn sign_text(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", segment(header), segment(claims));
        let signature = match &self.key {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
                    .expect("a key that was made signs");
                signature
            }
            Pair::Es(pair) => {
                let signature = pair.sign(&SystemRandom::new(), signed.as_bytes());
                signature.expect("a key that was made signs").as_ref().to_vec()
            }
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", segment(signature))
    }

    /// A token with these claims.
    #[must_use]
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.algorithm(), "typ": "at+jwt", "kid": self.kid});
        self.sign_text(&header.to_string(), &claims.to_string())
    }
}

impl Issuer {
    /// Starts one that publishes these keys.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(keys: &[&Signer]) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            document: Mutex::default(),
            mood: Mutex::new(Mood::Well),
            asked: AtomicUsize::new(0),
            elsewhere: AtomicUsize::new(0),
            awake: Notify::new(),
        });
        let router = Router::new()
            .route("/jwks.json", get(keys_of))
            .fallback(async |State(shared): State<Arc<Shared>>| {
                shared.elsewhere.fetch_add(1, Ordering::SeqCst);
                shared.document().to_string()
            })
            .with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { axum::serve(listener, router).await }));
        let issuer = Self { address, shared, _stop: stop.drop_guard() };
        issuer.publish(keys);
        Ok(issuer)
    }

    /// Publishes these keys from now on, and no others.
    pub fn publish(&self, keys: &[&Signer]) {
        let keys: Vec<Value> = keys.iter().map(|key| key.jwk()).collect();
        *self.shared.document.lock().unwrap_or_else(PoisonError::into_inner) = json!({"keys": keys});
    }

    /// Behaves otherwise from now on.
    pub fn mood(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        self.shared.awake.notify_waiters();
    }

    /// How often it was asked for its keys.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// How often somebody came to any other of its addresses: a trap.
    #[must_use]
    pub fn trapped(&self) -> usize {
        self.shared.elsewhere.load(Ordering::SeqCst)
    }

    /// What a verifier needs to know its tokens.
    #[must_use]
    pub fn settings(&self, pace: Pace) -> Token {
        let url = format!("http://{}/jwks.json", self.address);
        Token {
            keys: Keys::Published(Published { url, subjects: Subjects::Outside, pace }),
            issuer: Some(ISSUER.to_owned()),
            audience: Some(AUDIENCE.to_owned()),
        }
    }
}

impl Shared {
    fn document(&self) -> Value {
        self.document.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn keys_of(State(shared): State<Arc<Shared>>) -> Response {
    shared.asked.fetch_add(1, Ordering::SeqCst);
    let mood = *shared.mood.lock().unwrap_or_else(PoisonError::into_inner);
    match mood {
        Mood::Well => shared.document().to_string().into_response(),
        Mood::Broken => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Mood::Silent => {
            shared.awake.notified().await;
            StatusCode::GONE.into_response()
        }
        Mood::Elsewhere => (StatusCode::FOUND, [(header::LOCATION, "/elsewhere.json")]).into_response(),
        Mood::Endless => {
            let document = shared.document().to_string();
            let padding = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 8_192]));
            let start = futures::stream::iter([Ok(document.into_bytes())]);
            Body::from_stream(futures::StreamExt::chain(start, padding)).into_response()
        }
        Mood::Large => format!("{}{}", shared.document(), " ".repeat(512 * 1024)).into_response(),
        Mood::Confused => "<html>".into_response(),
    }
}
