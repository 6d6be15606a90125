//! Signing in on the local stack, as its page does it.

use std::{collections::BTreeSet, time::Duration};

use harness::{
    app::App,
    clients::{Socket, http},
    raw,
};
use reqwest::Response;
use serde_json::{Value, json};

async fn token(app: &App, user: &str) -> (u16, Value) {
    let url = format!("{}/local/token", app.product.rest());
    let answer = http().post(url).json(&json!({"user": user})).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

fn assert_guarded(path: &str, answer: &Response) {
    let policy = answer.headers()["content-security-policy"].to_str().unwrap();
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-src 'self'"]
    {
        assert!(policy.split("; ").any(|directive| directive == part), "{path}: {part} in {policy}");
    }
    assert!(!policy.contains("unsafe"), "{path}: {policy}");
    for (name, value) in
        [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cache-control", "no-store")]
    {
        assert_eq!(answer.headers()[name], value, "{path}: {name}");
    }
}

#[tokio::test]
async fn everybody_of_the_demo_can_be_chosen() {
    let app = App::with_portal(|_| {}).await.unwrap();
    for path in ["/", "/local/host.css", "/local/host.js", "/local/people", "/?as=ben@acme"] {
        let answer = http().get(format!("{}{path}", app.product.rest())).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        assert_guarded(path, &answer);
    }
    let people = http().get(format!("{}/local/people", app.product.rest())).send().await.unwrap();
    let people: Vec<Value> = people.json().await.unwrap();
    let listed: BTreeSet<String> = people.iter().map(Value::to_string).collect();
    let expected: Vec<Value> = vec![
        json!({"handle": "root", "role": "platform_admin", "company": null}),
        json!({"handle": "ada@acme", "role": "customer_admin", "company": "acme"}),
        json!({"handle": "ben@acme", "role": "customer_operator", "company": "acme"}),
        json!({"handle": "ada@globex", "role": "customer_admin", "company": "globex"}),
        json!({"handle": "ben@globex", "role": "customer_operator", "company": "globex"}),
    ];
    assert_eq!(listed, expected.iter().map(Value::to_string).collect());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_token_of_the_portal_opens_a_socket_for_that_person_until_it_runs_out() {
    let valid = Duration::from_secs(600);
    let app = App::with_portal(|setting| setting.local_portal.as_mut().unwrap().valid = valid).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (status, said) = token(&app, "ben@acme").await;
    assert_eq!(status, 200, "{said}");
    let bens = said["token"].as_str().unwrap();
    let (_socket, ready) = Socket::join(&app.product.ws(), &conversation, bens).await.unwrap();
    let expires = chat_core::timestamp::Timestamp::now();
    let expires = serde_json::to_value(expires).unwrap();
    let (now, until) = (expires.as_str().unwrap(), ready["expires_at"].as_str().unwrap());
    let at = |text: &str| time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap();
    let left = at(until) - at(now);
    assert!(left > valid - Duration::from_secs(20) && left <= valid, "{left}");

    let (_, said) = token(&app, "ben@globex").await;
    let mut other = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    other.say(&json!({"type": "auth", "token": said["token"]})).await.unwrap();
    assert_eq!(other.closed().await.unwrap(), Some(4404), "who somebody is is what they chose");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whom_nobody_knows_gets_no_token_and_is_told_so() {
    let app = App::with_portal(|_| {}).await.unwrap();
    for unknown in ["zoe@acme", "", "BEN@ACME", &app.user("ben@acme").id.to_string()] {
        let (status, said) = token(&app, unknown).await;
        assert_eq!((status, &said), (404, &json!({"error": format!("Nobody here is called {unknown}.")})));
    }
    let url = format!("{}/local/token", app.product.rest());
    // What a page of another origin can send without asking first (no preflight) is not read.
    let body = r#"{"user": "ben@acme"}"#;
    let simple = http().post(&url).header("content-type", "text/plain").body(body).send().await.unwrap();
    assert_eq!(simple.status(), 415);
    assert_eq!(http().get(&url).send().await.unwrap().status(), 405);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn another_name_for_this_machine_leads_to_the_address_and_gets_nothing() {
    let app = App::with_portal(|_| {}).await.unwrap();
    let address = app.product.address;
    for name in [format!("localhost:{}", address.port()), "rebound.evil.test".to_owned()] {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let (_tcp, head) = raw::ask(address, &get("/?as=ben@acme")).await.unwrap();
        assert!(head.starts_with("http/1.1 307 "), "{head}");
        assert!(head.contains(&format!("\r\nlocation: http://{address}/?as=ben@acme\r\n")), "{head}");
        let (_tcp, head) = raw::ask(address, &get("/local/people")).await.unwrap();
        assert!(head.starts_with("http/1.1 421 "), "{head}");
        let body = r#"{"user": "ben@acme"}"#;
        let post = format!(
            "POST /local/token HTTP/1.1\r\nHost: {name}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (_tcp, head) = raw::ask(address, &post).await.unwrap();
        assert!(head.starts_with("http/1.1 421 "), "{head}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_chat_may_be_shown_by_the_portal_beside_it_and_may_connect() {
    let app = App::with_portal(|_| {}).await.unwrap();
    let own = app.product.rest();
    let page = http().get(format!("{own}/portal/")).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains(&format!("; frame-ancestors {own}; ")), "{policy}");
    let conversation = app.conversation("ben@acme").await.unwrap();
    let request = raw::upgrade(&conversation, &[("Origin", &own)]);
    let (_tcp, head) = raw::ask(app.product.address, &request).await.unwrap();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    app.finish().await.unwrap();
}
