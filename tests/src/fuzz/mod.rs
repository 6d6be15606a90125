//! What must hold of every input that comes from outside, whatever it is.
//!
//! A target is a plain function of bytes that panics where something does not hold. `cargo-fuzz` calls them with a
//! compiler's help (`tests/fuzz/`), and [`shake`] calls them everywhere else, on the same corpus.

pub mod shake;

use std::sync::LazyLock;

use chat_core::{
    Code,
    complaint::complaint,
    event::{ClientFrame, ServerFrame},
    ids::{ConversationId, TenantId, UserId},
    job::Job,
    keys::webchat_response_key,
    text::{Text, carried},
    timestamp::Timestamp,
    token::{
        Subject,
        checks::{Checks, Subjects},
        jwks::{self, ALGORITHMS},
    },
};
use conversations::{conversations as list, messages};
use hub::fanout;
use jsonwebtoken::{Algorithm, DecodingKey};
use orchestrator::routes::Route;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Number, Value};

use crate::mint::Mint;

/// A function of bytes that panics where something does not hold.
pub type Target = fn(&[u8]);

/// Every target, by the name of its folder in the corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("bus", bus),
    ("cursor", cursor),
    ("frame", frame),
    ("job", job),
    ("jwks", jwks),
    ("text", text),
    ("token", token),
];

/// Longest that anybody is told about what cannot be read, in bytes, however long it was.
const LONGEST_COMPLAINT: usize = 400;

/// Stands in the corpus for an hour from now.
const SOON: &str = "4000000000";

/// What a client sends on a socket.
pub fn frame(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ClientFrame::parse(text) {
        Ok(ClientFrame::Message(said)) => assert!(said.text.len() <= text.len(), "nothing is added"),
        Ok(ClientFrame::Auth(_) | ClientFrame::Stop(_) | ClientFrame::Read(_) | ClientFrame::Unknown) => {
            assert!(text.trim_start().starts_with('{'), "a frame is an object");
        }
        Err(error) => assert!(complaint(&error.to_string()).len() <= LONGEST_COMPLAINT, "{error}"),
    }
}

/// What comes over the bus, and what is written to sockets for it.
pub fn bus(data: &[u8]) {
    let read = serde_json::from_slice::<ServerFrame>(data);
    if let Ok(frame) = &read {
        assert_eq!(
            serde_json::from_str::<ServerFrame>(&frame.json()).ok().as_ref(),
            Some(frame),
            "read as it was written"
        );
    }
    let named = read.ok().and_then(|frame| frame.conversation()).unwrap_or_else(ConversationId::new);
    let topic = |conversation| webchat_response_key(TenantId::new(), conversation);
    let Some(event) = fanout::decode(topic(named).as_str(), data) else { return };
    if event.frame.conversation().is_some() {
        let elsewhere = fanout::decode(topic(ConversationId::new()).as_str(), data);
        assert!(elsewhere.is_none(), "a frame of another conversation is refused");
    }
    let carried = !matches!(
        event.frame,
        ServerFrame::Ready { .. } | ServerFrame::Accepted { .. } | ServerFrame::Reconnect { .. }
    );
    assert!(carried, "the bus carries no such frame");
    assert_eq!(
        serde_json::from_str::<ServerFrame>(&event.text).ok(),
        Some(event.frame.clone()),
        "written as it was read"
    );
    assert!(
        !matches!(event.frame, ServerFrame::Typing { via: Some(_), .. }),
        "whose socket it was is nobody's business"
    );
    let chars = if let ServerFrame::Delta { text, .. } = &event.frame { text.chars().count() } else { 0 };
    assert_eq!(event.chars, chars);
}

/// The places of lists and pages.
pub fn cursor(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match list::place(text) {
        Ok(place) => assert_eq!(list::place(&list::name(&place)).ok(), Some(place), "a place comes back"),
        Err(error) => assert!(error.to_string().len() <= LONGEST_COMPLAINT, "{error}"),
    }
    if let Err(error) = messages::position("before", text) {
        assert!(error.to_string().len() <= LONGEST_COMPLAINT, "{error}");
    }
}

/// The body of a queue message, and where its answer would go.
pub fn job(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Job::parse(text) {
        Ok(job) => {
            let body = job.body();
            assert_eq!(Job::parse(&body).ok().as_ref(), Some(&job), "read as it was written");
            let fields: Value = serde_json::from_str(&body).expect("what we write is JSON");
            assert!(fields.get("bot_token").is_none(), "no secret is enqueued");
            let hint = Job::parse(&job.hint().body()).expect("a hint is a job");
            assert!(hint.message.content.text.is_empty() && hint.message.context.is_empty(), "a hint says nothing");
            match Route::of(&job) {
                Ok(route) => assert_eq!(Route::of(&hint).ok(), Some(route), "a hint goes the same way"),
                Err(error) => assert_eq!(error.code(), Code::Invalid),
            }
        }
        Err(error) => assert!(error.to_string().len() <= LONGEST_COMPLAINT, "{error}"),
    }
}

/// What somebody says, and what a model says.
pub fn text(data: &[u8]) {
    let Some((limit, data)) = data.split_first() else { return };
    let said = String::from_utf8_lossy(data).into_owned();
    let limit = usize::from(*limit);
    let bearable = |text: &str| {
        text.chars().all(|c| (!c.is_control() || matches!(c, '\t' | '\n')) && !matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    match Text::parse(said.clone(), limit) {
        Ok(text) => {
            assert_eq!(text.as_str(), said, "a text is taken as it is or not at all");
            assert!(bearable(&said) && said.chars().count() <= limit && !said.trim().is_empty());
            assert_eq!(carried(&said), said);
        }
        Err(error) => {
            assert!(!bearable(&said) || said.chars().count() > limit || said.trim().is_empty(), "{error}: {said:?}");
            assert!(error.to_string().len() <= LONGEST_COMPLAINT, "{error}");
        }
    }
    let reply = carried(&said);
    assert!(bearable(&reply) && carried(&reply) == reply);
}

/// A token as it came; and one that is signed with our key, whose header and claims are what came.
pub fn token(data: &[u8]) {
    static KEY: LazyLock<(Mint, DecodingKey)> = LazyLock::new(|| {
        let mint = Mint::new();
        let key = DecodingKey::from_secret(mint.secret().as_bytes());
        (mint, key)
    });
    let (mint, key) = &*KEY;
    let checks = Checks::new(&[Algorithm::HS256], None, None, Subjects::Users);
    let verify = |token: &str| checks.verified(token, key, Algorithm::HS256);
    let given = String::from_utf8_lossy(data);
    let refused = verify(&given).expect_err("nobody guesses the key");
    assert!(format!("{refused:?}").len() <= LONGEST_COMPLAINT, "{refused:?}");
    let (header, claims) = given.split_once('\n').unwrap_or((r#"{"alg":"HS256","typ":"JWT"}"#, &given));
    // A token may not end too far away, and the corpus is older than that.
    let soon = Timestamp::now().unix_micros() / 1_000_000 + 3_600;
    let claims = claims.replace(SOON, &soon.to_string());
    let signed = mint.sign_text(header, &claims);
    match verify(&signed) {
        Ok(verified) => {
            let Header { alg } = read(header);
            assert_eq!(alg, "HS256", "no other algorithm");
            let Claims { sub, exp } = read(&claims);
            assert_eq!(Subject::User(sub), verified.subject);
            #[expect(clippy::cast_precision_loss, reason = "to the second for millions of years")]
            let ends = exp.as_f64().is_some_and(|exp| exp > (soon - 3_700) as f64);
            assert!(ends, "every token ends, and that is to come");
            // The same words with another's signature, or none.
            let (words, _) = signed.rsplit_once('.').expect("three parts");
            for forged in [Mint::new().sign_text(header, &claims), format!("{words}."), words.to_owned()] {
                assert!(verify(&forged).is_err(), "a signature is not looked at");
            }
        }
        Err(refused) => assert!(format!("{refused:?}").len() <= LONGEST_COMPLAINT, "{refused:?}"),
    }
}

/// What a header must say. What else it says need not even be text: `\\ud800` is none, and nobody reads it.
#[derive(Deserialize)]
struct Header {
    alg: String,
}

/// What claims must say: whose they are, and when they end.
#[derive(Deserialize)]
struct Claims {
    sub: UserId,
    exp: Number,
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("a verified token was read")
}

/// The keys that an issuer publishes.
pub fn jwks(data: &[u8]) {
    static FORGED: LazyLock<String> = LazyLock::new(|| {
        let claims = serde_json::json!({"sub": UserId::new(), "exp": 4_000_000_000_u64, "iss": "i"});
        Mint::new().sign(&claims)
    });
    let checks = Checks::new(&ALGORITHMS, None, None, Subjects::Outside);
    for key in jwks::parse(data).unwrap_or_default().into_values() {
        assert!(ALGORITHMS.contains(&key.algorithm), "a public key");
        assert!(checks.verified(&FORGED, &key.key, key.algorithm).is_err(), "a shared secret signs nothing of theirs");
    }
}
