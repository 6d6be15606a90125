//! The keys that an issuer publishes: when it is asked for them, how long they hold, and what becomes of those who wait.

use std::time::Duration;

use chat_core::{Code, config::Pace, ids::UserId, secret::Secret, timestamp::Timestamp, token::Verifier};
use harness::{
    app,
    issuer::{AUDIENCE, ISSUER, Issuer, Mood, Signer},
};
use serde_json::{Value, json};

fn claims() -> Value {
    let now = Timestamp::now().unix_micros() / 1_000_000;
    json!({"sub": "ben", "exp": now + 600, "iss": ISSUER, "aud": AUDIENCE})
}

async fn code(verifier: &Verifier, token: &Secret) -> Option<Code> {
    verifier.verify(token).await.err().map(|error| error.code())
}

#[tokio::test]
async fn many_unknown_keys_make_us_ask_the_issuer_once() {
    app::services().await.unwrap();
    let key = Signer::new("EdDSA", "known").unwrap();
    let issuer = Issuer::start(&[&key]).await.unwrap();
    let verifier = Verifier::new(&issuer.settings(Pace::default())).unwrap();
    // All at once: those that come while the keys are fetched wait for the same answer.
    let tokens: Vec<Secret> = (0..10_000)
        .map(|_| json!({"alg": "EdDSA", "kid": UserId::new()}).to_string())
        .map(|header| Secret::from(key.sign_text(&header, &claims().to_string())))
        .collect();
    let answers = futures::future::join_all(tokens.iter().map(|token| verifier.verify(token))).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(|error| error.code() == Code::Unauthenticated)));
    assert_eq!(issuer.asked(), 1);
    assert!(verifier.verify(&Secret::from(key.sign(&claims()))).await.is_ok(), "a known one is known");
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn who_leaves_while_the_issuer_is_asked_does_not_make_us_ask_again() {
    app::services().await.unwrap();
    let key = Signer::new("EdDSA", "one").unwrap();
    let issuer = Issuer::start(&[&key]).await.unwrap();
    issuer.mood(Mood::Silent);
    let verifier = Verifier::new(&issuer.settings(Pace::default())).unwrap();
    let token = Secret::from(key.sign(&claims()));
    // Each is dropped while it waits, as the handler of a connection that broke is.
    for _ in 0..20 {
        tokio::select! {
            biased;
            answer = verifier.verify(&token) => panic!("nobody could say that: {answer:?}"),
            asked = app::until("the issuer to be asked", || async { Ok(issuer.asked() > 0) }) => asked.unwrap(),
        }
    }
    issuer.mood(Mood::Broken);
    assert_eq!(verifier.verify(&token).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(issuer.asked(), 1, "by all of them together");
}

#[tokio::test]
async fn a_new_key_is_found_by_one_question_and_a_key_that_was_taken_back_dies() {
    app::services().await.unwrap();
    let (old, new) = (Signer::new("RS256", "old").unwrap(), Signer::new("ES256", "new").unwrap());
    let issuer = Issuer::start(&[&old]).await.unwrap();
    let token = |key: &Signer| Secret::from(key.sign(&claims()));
    let verifier = Verifier::new(&issuer.settings(Pace { again: Duration::ZERO, ..Pace::default() })).unwrap();
    assert!(verifier.verify(&token(&old)).await.is_ok());
    issuer.publish(&[&new]);
    assert!(verifier.verify(&token(&old)).await.is_ok(), "not asked again for a key that is known");
    assert_eq!(issuer.asked(), 1);
    assert!(verifier.verify(&token(&new)).await.is_ok());
    assert_eq!(issuer.asked(), 2);
    assert_eq!(code(&verifier, &token(&old)).await, Some(Code::Unauthenticated), "and the old one is gone");

    // Without an unknown name the document is read again when it is old, while the known keys go on.
    let pace = Pace { again: Duration::ZERO, fresh: Duration::ZERO, ..Pace::default() };
    let verifier = Verifier::new(&issuer.settings(pace)).unwrap();
    assert!(verifier.verify(&token(&new)).await.is_ok());
    issuer.publish(&[&old]);
    app::until("a key that was taken back to die", || async { Ok(verifier.verify(&token(&new)).await.is_err()) })
        .await
        .unwrap();

    // A document that has been old for long, because nobody came, is read before anybody is let in by it.
    let pace = Pace { stale: Duration::ZERO, ..pace };
    let verifier = Verifier::new(&issuer.settings(pace)).unwrap();
    assert!(verifier.verify(&token(&old)).await.is_ok());
    issuer.publish(&[&new]);
    assert_eq!(code(&verifier, &token(&old)).await, Some(Code::Unauthenticated), "not even once");
}

#[tokio::test]
async fn an_issuer_that_is_away_puts_nobody_out_for_a_while_and_lets_nobody_in() {
    app::services().await.unwrap();
    let key = Signer::new("EdDSA", "one").unwrap();
    let token = Secret::from(key.sign(&claims()));
    for mood in [Mood::Broken, Mood::Elsewhere, Mood::Endless, Mood::Large, Mood::Confused, Mood::Silent] {
        let issuer = Issuer::start(&[&key]).await.unwrap();
        issuer.mood(mood);
        let verifier = Verifier::new(&issuer.settings(Pace::default())).unwrap();
        let error = verifier.verify(&token).await.unwrap_err();
        assert_eq!(error.code(), Code::Unavailable, "{mood:?}: it is not the token's fault");
        assert_eq!((issuer.asked(), issuer.trapped()), (1, 0), "{mood:?}");
        assert_eq!(verifier.verify(&token).await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(issuer.asked(), 1, "{mood:?}: not asked again at once");
    }
    let issuer = Issuer::start(&[&key]).await.unwrap();
    let known = Pace { again: Duration::ZERO, fresh: Duration::ZERO, ..Pace::default() };
    let (patient, strict) = (issuer.settings(known), issuer.settings(Pace { most: Duration::ZERO, ..known }));
    let (patient, strict) = (Verifier::new(&patient).unwrap(), Verifier::new(&strict).unwrap());
    assert!(patient.verify(&token).await.is_ok());
    assert_eq!(code(&strict, &token).await, Some(Code::Unavailable), "read, and too old at once");
    issuer.mood(Mood::Broken);
    for _ in 0..3 {
        assert!(patient.verify(&token).await.is_ok(), "known keys hold on");
    }
    let newer = Secret::from(Signer::new("EdDSA", "two").unwrap().sign(&claims()));
    assert_eq!(code(&patient, &newer).await, Some(Code::Unavailable), "it may be a new one, which nobody can tell now");
    assert_eq!(strict.verify(&token).await.unwrap_err().code(), Code::Unavailable, "but not for ever");
}
