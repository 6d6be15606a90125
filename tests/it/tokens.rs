//! Tokens of the portal and of an issuer that publishes its keys: every bad one, on both edges.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chat_core::{
    config::{Pace, Token},
    ids::UserId,
    timestamp::Timestamp,
    token::MAX_TOKEN_BYTES,
};
use harness::{
    app::App,
    clients::{Rest, Socket},
    events::{Events, Opened},
    issuer::{AUDIENCE, ISSUER, Issuer, Signer},
    mint::Mint,
    product::Product,
};
use http::HeaderMap;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

fn now() -> i64 {
    Timestamp::now().unix_micros() / 1_000_000
}

/// The same facts and pipes with other keys.
async fn beside(app: &App, token: Token) -> Product {
    let setting = harness::product::Setting { token, ..app.setting.clone() };
    Product::start(&setting, TcpListener::bind(("127.0.0.1", 0)).await.unwrap()).await.unwrap()
}

/// Makes a person known by an outside issuer's word for them.
async fn introduce(app: &App, subject: &str, handle: &str) {
    let insert = "insert into portal_user_identities (issuer, subject, user_id) values ($1, $2, $3)";
    app.owner().await.unwrap().execute(insert, &[&ISSUER, &subject, &app.user(handle).id]).await.unwrap();
}

/// A header or claims, as JSON with one thing changed; a null takes it away.
fn with(good: &Value, name: &str, value: Value) -> String {
    let mut changed = good.clone();
    if value.is_null() {
        changed.as_object_mut().unwrap().remove(name);
    } else {
        changed[name] = value;
    }
    changed.to_string()
}

/// What can be wrong with a token that is signed as it should be: fault, header, claims, and whether it was good once.
fn faults(header: &Value, claims: &Value, trap: &str) -> Vec<(&'static str, String, String, bool)> {
    let (h, c) = (header.to_string(), claims.to_string());
    let head = |name: &str, value: Value| with(header, name, value);
    let claim = |name: &str, value: Value| with(claims, name, value);
    let twice = |json: &str, more: &str| format!("{},{more}}}", json.strip_suffix('}').unwrap());
    let x = URL_SAFE_NO_PAD.encode([9; 32]);
    let mut faults = vec![
        ("critical header", head("crit", json!(["exp"])), c.clone(), false),
        ("payload not encoded", head("b64", json!(false)), c.clone(), false),
        ("an ID token's type", head("typ", json!("id_token")), c.clone(), false),
        ("a logout token's type", head("typ", json!("logout+jwt")), c.clone(), false),
        ("no algorithm", head("alg", Value::Null), c.clone(), false),
        ("algorithm none", head("alg", json!("none")), c.clone(), false),
        ("algorithm nOnE", head("alg", json!("nOnE")), c.clone(), false),
        ("another family's algorithm", head("alg", json!("HS512")), c.clone(), false),
        ("an algorithm nobody knows", head("alg", json!("XS256")), c.clone(), false),
        ("algorithm twice", twice(&h, r#""alg":"none""#), c.clone(), false),
        ("header no object", "[]".to_owned(), c.clone(), false),
        ("header no JSON", "{".to_owned(), c.clone(), false),
        ("expired", h.clone(), claim("exp", json!(now() - 60)), true),
        ("no end", h.clone(), claim("exp", Value::Null), false),
        ("end is text", h.clone(), claim("exp", json!((now() + 60).to_string())), false),
        ("end with a fraction", h.clone(), claim("exp", json!(1e12 + 0.5)), false),
        ("end before time", h.clone(), claim("exp", json!(-1)), false),
        ("end in 1e300", h.clone(), claim("exp", json!(1e300)), false),
        ("end in a hundred years", h.clone(), claim("exp", json!(now() + 3_155_760_000_i64)), false),
        ("end twice", h.clone(), twice(&c, &format!(r#""exp":{}"#, now() + 90)), false),
        ("begins tomorrow", h.clone(), claim("nbf", json!(now() + 86_400)), false),
        ("begins as text", h.clone(), claim("nbf", json!("tomorrow")), false),
        ("no subject", h.clone(), claim("sub", Value::Null), false),
        ("subject empty", h.clone(), claim("sub", json!("")), false),
        ("subject a number", h.clone(), claim("sub", json!(1)), false),
        ("subject with NUL", h.clone(), claim("sub", json!("a\0b")), false),
        ("subject twice", h.clone(), twice(&c, &format!(r#""sub":"{}""#, UserId::new())), false),
        ("subject unknown", h.clone(), claim("sub", json!(UserId::new())), false),
        ("subject with SQL", h.clone(), claim("sub", json!("' or 'a'='a")), false),
        ("another issuer", h.clone(), claim("iss", json!("https://evil.example")), false),
        ("issuer with a slash more", h.clone(), claim("iss", json!(format!("{ISSUER}/"))), false),
        ("no issuer", h.clone(), claim("iss", Value::Null), false),
        ("another audience", h.clone(), claim("aud", json!("billing")), false),
        ("other audiences", h.clone(), claim("aud", json!(["billing", "mail"])), false),
        ("no audience", h.clone(), claim("aud", Value::Null), false),
        ("claims no object", h.clone(), "[]".to_owned(), false),
        ("claims no JSON", h.clone(), "{".to_owned(), false),
        ("longer than a token may be", h.clone(), claim("more", json!("a".repeat(MAX_TOKEN_BYTES))), false),
        ("claims without end", h.clone(), "[".repeat(4_000), false),
    ];
    // A key that the token brings along, or says where to find, is never looked at; nor does it make a bad token good.
    for (name, value) in
        [("jku", json!(trap)), ("x5u", json!(trap)), ("jwk", json!({"kty": "OKP", "crv": "Ed25519", "x": x}))]
    {
        faults.push((name, head(name, value), claim("aud", json!("billing")), false));
    }
    faults
}

/// Each of these is refused on both edges, and nothing is done.
async fn refused(app: &App, product: &Product, conversation: &str, bad: &[(String, String, bool)]) {
    for (fault, token, once) in bad {
        let code = if *once { "token_expired" } else { "unauthenticated" };
        // What no header can hold does not reach REST.
        if http::HeaderValue::from_str(token).is_ok() {
            let rest = Rest::new(&product.rest(), Some(token));
            let read = rest.get(&format!("/conversations/{conversation}")).await.unwrap();
            let said = rest.say(conversation, &UserId::new().to_string(), "hello").await.unwrap();
            let stream = Events::ask(&product.rest(), conversation, Some(token), &[]).await.unwrap();
            let Opened::Refused(stream) = stream else { panic!("a stream for {fault}") };
            for answer in [read, said, stream] {
                assert_eq!((answer.status, &answer.body["code"]), (401, &json!(code)), "{fault}");
                assert_eq!(answer.headers["www-authenticate"], "Bearer", "{fault}");
            }
        }
        let mut socket = Socket::open(&product.ws(), conversation, None).await.unwrap();
        socket.say(&json!({"type": "auth", "token": token})).await.unwrap();
        assert_eq!(socket.closed().await.unwrap(), Some(4401), "{fault}");
    }
    let owner = app.owner().await.unwrap();
    let touched = "select (select count(*) from turns) + (select count(*) from audit_events)";
    assert_eq!(owner.query_one(touched, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing was done");
}

/// Faults of what carries the token rather than of what it says.
fn mangled(good: &str) -> Vec<(String, String, bool)> {
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, payload) = signed.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let zeros = URL_SAFE_NO_PAD.encode([0; 64]);
    // For Ed25519 the neutral element and 0: right for each message, if the key were of small order, too.
    let neutral = URL_SAFE_NO_PAD.encode([&[1_u8][..], &[0; 63]].concat());
    let not_utf8 = URL_SAFE_NO_PAD.encode(b"{\"sub\":\"\xff\"}");
    [
        ("empty", String::new()),
        ("blank", "   ".to_owned()),
        ("garbage", "three.little.words".to_owned()),
        ("NUL", "\0".to_owned()),
        // Longer than a token may be, and short enough to come through either edge.
        ("huge", "a".repeat(MAX_TOKEN_BYTES + 1)),
        ("huge and in three parts", format!("{}.{payload}.{signature}", "a".repeat(MAX_TOKEN_BYTES))),
        ("alg none, unsigned", format!("{none}.{payload}.")),
        ("alg none, signature kept", format!("{none}.{payload}.{signature}")),
        ("unsigned", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{good}.{signature}")),
        ("two tokens", format!("{good} {good}")),
        ("signature of zeros", format!("{signed}.{zeros}")),
        ("signature of small order", format!("{signed}.{neutral}")),
        ("signature with more behind", format!("{good}AAAA")),
        ("signature padded", format!("{good}==")),
        ("signature in the other alphabet", format!("{signed}.+/{}", &signature[2..])),
        ("claims are not UTF-8", format!("{header}.{not_utf8}.{signature}")),
        ("header and claims exchanged", format!("{payload}.{header}.{signature}")),
        ("another's claims", format!("{header}.{}.{signature}", URL_SAFE_NO_PAD.encode("{}"))),
    ]
    .into_iter()
    .map(|(fault, token)| (fault.to_owned(), token, false))
    .collect()
}

#[tokio::test]
async fn every_bad_token_of_the_portal_is_refused_on_both_edges() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let ben = app.user("ben@acme");
    let token = Token { issuer: Some(ISSUER.to_owned()), audience: Some(AUDIENCE.to_owned()), ..app.mint.settings() };
    let product = beside(&app, token).await;
    let trap = Issuer::start(&[]).await.unwrap();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let claims = json!({"sub": ben.id, "exp": now() + 600, "iss": ISSUER, "aud": AUDIENCE, "role": ben.role});
    let good = app.mint.sign_text(&header.to_string(), &claims.to_string());
    let rest = Rest::new(&product.rest(), Some(&good));
    assert_eq!(rest.get(&format!("/conversations/{conversation}")).await.unwrap().status, 200, "the good one is good");

    let sign = |(fault, header, claims, once): (&str, String, String, bool)| {
        (fault.to_owned(), app.mint.sign_text(&header, &claims), once)
    };
    let trapped = format!("http://{}/jwks", trap.address);
    let mut bad: Vec<_> = faults(&header, &claims, &trapped).into_iter().map(sign).collect();
    bad.extend(mangled(&good));
    let other = Mint::new();
    bad.push(("another secret".to_owned(), other.sign_text(&header.to_string(), &claims.to_string()), false));
    let claimed = with(&claims, "role", json!("root"));
    bad.push(("a role that is none".to_owned(), app.mint.sign_text(&header.to_string(), &claimed), false));
    refused(&app, &product, &conversation, &bad).await;
    assert_eq!((trap.asked(), trap.trapped()), (0, 0), "nobody went where a token pointed");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn every_bad_token_of_an_issuer_is_refused_on_both_edges() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    introduce(&app, "auth0|ben", "ben@acme").await;
    let rsa = Signer::new("RS256", "rsa").unwrap();
    let (es, ed) = (Signer::new("ES256", "es").unwrap(), Signer::new("EdDSA", "ed").unwrap());
    let issuer = Issuer::start(&[&rsa, &es, &ed]).await.unwrap();
    let product = beside(&app, issuer.settings(Pace::default())).await;
    let claims = json!({"sub": "auth0|ben", "exp": now() + 600, "iss": ISSUER, "aud": [AUDIENCE, "mail"]});
    let trap = format!("http://{}/trap", issuer.address);
    let mut bad = Vec::new();
    for signer in [&rsa, &es, &ed] {
        let good = signer.sign(&claims);
        let rest = Rest::new(&product.rest(), Some(&good));
        let answer = rest.get(&format!("/conversations/{conversation}")).await.unwrap();
        assert_eq!(answer.status, 200, "the good one is good: {}", answer.body);
        bad.extend(mangled(&good));
    }
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": "ed"});
    let sign = |(fault, header, claims, once): (&str, String, String, bool)| {
        (fault.to_owned(), ed.sign_text(&header, &claims), once)
    };
    bad.extend(faults(&header, &claims, &trap).into_iter().map(sign));
    let head = |name: &str, value: Value| with(&header, name, value);
    let id_token = with(&claims, "at_hash", json!("MTIzNDU2Nzg5MGFiY2RlZg"));
    bad.push(("an ID token".to_owned(), ed.sign_text(&header.to_string(), &id_token), false));
    for (fault, header) in [
        ("no key named", head("kid", Value::Null)),
        ("a key that nobody has", head("kid", json!("nobody"))),
        ("a key with a path", head("kid", json!("../../../etc/passwd"))),
        ("a key with SQL", head("kid", json!("ed' or '1'='1"))),
        ("another key's name", head("kid", json!("rsa"))),
        ("another key's name and algorithm", with(&json!({"alg": "RS256", "kid": "rsa"}), "typ", json!("JWT"))),
    ] {
        bad.push((fault.to_owned(), ed.sign_text(&header, &claims.to_string()), false));
    }
    // The public key is known to everybody; who takes it for a shared secret lets everybody in.
    for secret in [rsa.public_pem().unwrap(), rsa.jwk()["n"].as_str().unwrap().to_owned(), rsa.jwk().to_string()] {
        let mint = Mint::with(secret);
        let header = json!({"alg": "HS256", "typ": "JWT", "kid": "rsa"});
        bad.push((
            "HS256 with the public key".to_owned(),
            mint.sign_text(&header.to_string(), &claims.to_string()),
            false,
        ));
    }
    let stranger = Signer::new("EdDSA", "ed").unwrap();
    bad.push(("a stranger's key".to_owned(), stranger.sign(&claims), false));
    let portals = app.token(app.user("ben@acme"));
    bad.push(("the portal's own".to_owned(), portals, false));
    // An issuer's subject is never a portal user's id, whatever it looks like.
    let posing = ed.sign_text(&header.to_string(), &with(&claims, "sub", json!(app.user("root").id)));
    bad.push(("a portal user's id as subject".to_owned(), posing, false));
    let several = ed.sign_text(&header.to_string(), &with(&claims, "iss", json!([ISSUER, "https://evil.example"])));
    bad.push(("several issuers".to_owned(), several, false));
    refused(&app, &product, &conversation, &bad).await;
    assert_eq!(issuer.trapped(), 0, "nobody went where a token pointed");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_token_counts_only_where_it_belongs() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let url = format!("{}{}/conversations/{conversation}", app.product.rest(), conversations::BASE);
    let nobody = Rest::new(&app.product.rest(), None);
    for (what, answer) in [
        ("in the query", nobody.with(|http, _| http.get(format!("{url}?token={token}&access_token={token}"))).await),
        (
            "by another scheme",
            nobody.with(|http, _| http.get(&url).header("authorization", format!("Basic {token}"))).await,
        ),
        ("without a scheme", nobody.with(|http, _| http.get(&url).header("authorization", &token)).await),
        (
            "beside another",
            nobody
                .with(|http, _| {
                    http.get(&url)
                        .header("authorization", format!("Bearer {token}"))
                        .header("authorization", format!("Bearer {token}"))
                })
                .await,
        ),
        ("as a cookie", nobody.with(|http, _| http.get(&url).header("cookie", format!("token={token}"))).await),
    ] {
        assert_eq!(answer.unwrap().status, 401, "{what}");
    }
    app.finish().await.unwrap();
}

/// What a proxy that authenticates would add, and anybody can: each says that a platform_admin asks.
fn posing(app: &App) -> HeaderMap {
    let root = app.user("root").id.to_string();
    let tenant = app.demo.tenants[0].id.to_string();
    let mut headers = HeaderMap::new();
    for name in
        ["x-user-id", "x-user", "x-forwarded-user", "x-auth-request-user", "x-remote-user", "remote-user", "userid"]
    {
        headers.insert(name, root.parse().unwrap());
    }
    for name in ["x-tenant-id", "x-tenant", "tenantid"] {
        headers.insert(name, tenant.parse().unwrap());
    }
    for name in ["x-role", "x-user-role", "role"] {
        headers.insert(name, "platform_admin".parse().unwrap());
    }
    let portal = json!({"sub": root, "role": "platform_admin", "tenant_id": tenant}).to_string();
    headers.insert("x-amzn-oidc-data", portal.parse().unwrap());
    headers.insert("x-jwt-payload", URL_SAFE_NO_PAD.encode(portal).parse().unwrap());
    headers
}

#[tokio::test]
async fn headers_that_name_a_caller_change_no_answer_of_any_route_nor_of_the_socket() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let posing = posing(&app);
    let tenant = app.user("ben@acme").tenant.unwrap();
    let token = app.token(app.user("ben@globex"));
    let rest = Rest::new(&app.product.rest(), None);
    let key = UserId::new().to_string();
    for route in conversations::ROUTES {
        let path = route.path.replace("{conversation_id}", &conversation);
        let url = format!("{}{}{path}?tenant_id={tenant}", app.product.rest(), conversations::BASE);
        for (method, bearer) in route.methods.iter().flat_map(|method| [(method, None), (method, Some(&token))]) {
            let mut answers = Vec::new();
            for headers in [HeaderMap::new(), posing.clone()] {
                let ask = |http: &reqwest::Client, _: &str| {
                    let ask =
                        http.request(method.parse().unwrap(), &url).header("Idempotency-Key", &key).headers(headers);
                    let ask = if *method == "POST" { ask.json(&json!({})) } else { ask };
                    if let Some(token) = bearer { ask.bearer_auth(token) } else { ask }
                };
                let mut answer = rest.with(ask).await.unwrap();
                if let Some(id) = answer.body.get_mut("request_id") {
                    id.take();
                }
                answers.push((answer.status, answer.body));
            }
            assert_eq!(answers[0], answers[1], "{method} {path}");
            // Who they are themselves they may know.
            let open = matches!(path.as_str(), "/healthz" | "/readyz" | "/openapi.json")
                || (path == "/me" && bearer.is_some());
            assert_eq!(answers[0].0 < 400, open, "{method} {path}: a stranger, and somebody of another company");
        }
    }
    for (first, closed) in [
        (json!({"type": "auth"}), 4401),
        (json!({"type": "auth", "userId": app.user("root").id, "role": "platform_admin", "tenantId": tenant}), 4401),
        (json!({"type": "auth", "token": token}), 4404),
    ] {
        let url = format!("{}/chat/ws/{conversation}?token={}", app.product.ws(), app.token(app.user("ben@acme")));
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().extend(posing.clone());
        let mut socket = Socket::with(request).await.unwrap();
        socket.say(&first).await.unwrap();
        assert_eq!(socket.closed().await.unwrap(), Some(closed), "{first}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_person_of_an_outside_issuer_chats_and_is_out_when_they_are_not_known_any_more() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    introduce(&app, "ben", "ben@acme").await;
    // Whom every door lets in: only that they are somebody else keeps them out.
    introduce(&app, "root", "root").await;
    let key = Signer::new("ES256", "one").unwrap();
    let issuer = Issuer::start(&[&key]).await.unwrap();
    let product = beside(&app, issuer.settings(Pace::default())).await;
    let claims = |subject: &str| json!({"sub": subject, "exp": now() + 600, "iss": ISSUER, "aud": AUDIENCE});
    let token = key.sign(&claims("ben"));
    let (mut socket, _) = Socket::join(&product.ws(), &conversation, &token).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("response").await.unwrap();
    socket.say(&json!({"type": "auth", "token": key.sign(&claims("ben"))})).await.unwrap();
    socket.until("ready").await.unwrap();

    let (mut other, _) = Socket::join(&product.ws(), &conversation, &token).await.unwrap();
    other.say(&json!({"type": "auth", "token": key.sign(&claims("root"))})).await.unwrap();
    assert_eq!(other.closed().await.unwrap(), Some(4403), "a fresh token must be the same person's");
    let (mut other, _) = Socket::join(&product.ws(), &conversation, &token).await.unwrap();
    other.say(&json!({"type": "auth", "token": "worn out"})).await.unwrap();
    assert_eq!(other.closed().await.unwrap(), Some(4401), "a bad one ends the socket");

    let owner = app.owner().await.unwrap();
    owner.execute("delete from portal_user_identities where subject = 'ben'", &[]).await.unwrap();
    assert_eq!(socket.closed().await.unwrap(), Some(4401), "without having said anything");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_an_issuer_calls_somebody_is_seen_only_by_who_names_them() {
    let app = App::start().await.unwrap();
    introduce(&app, "ben", "ben@acme").await;
    introduce(&app, "ada", "ada@acme").await;
    let client = app.app_role().await.unwrap();
    let ben = app.user("ben@acme").id;
    for (issuer, subject, seen) in [
        ("", "", 0),
        (ISSUER, "", 0),
        ("", "ben", 0),
        ("https://evil.example", "ben", 0),
        (ISSUER, "nobody", 0),
        (ISSUER, "' or 'a'='a", 0),
        (ISSUER, "ben", 1),
    ] {
        let name = "select set_config('app.current_issuer', $1, false), set_config('app.current_subject', $2, false),
                           set_config('app.current_user', $3, false)";
        client.query(name, &[&issuer, &subject, &ben.to_string()]).await.unwrap();
        let rows = client.query("select subject from portal_user_identities", &[]).await.unwrap();
        assert_eq!(rows.len(), seen, "{issuer} {subject}");
        assert!(rows.iter().all(|row| row.get::<_, &str>(0) == subject));
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn an_admin_who_is_demoted_does_not_go_on_reading_what_is_not_theirs() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let owner = app.owner().await.unwrap();
    owner.execute("update web_conversations set status = 'escalated'", &[]).await.unwrap();
    for (what, change) in [
        ("by the portal", "update portal_users set role = 'customer_operator' where id = $1"),
        ("in the company", "update user_tenant_roles set role = 'customer_operator' where user_id = $1"),
    ] {
        let mut socket = app.socket("ada@acme", &conversation).await.unwrap();
        let ada = app.user("ada@acme").id;
        owner.execute(change, &[&ada]).await.unwrap();
        assert_eq!(socket.closed().await.unwrap(), Some(4403), "demoted {what}");
        owner.execute("update portal_users set role = 'customer_admin' where id = $1", &[&ada]).await.unwrap();
        owner
            .execute("update user_tenant_roles set role = 'customer_admin' where user_id = $1", &[&ada])
            .await
            .unwrap();
    }
    owner.execute("update web_conversations set status = 'agent'", &[]).await.unwrap();
    app.finish().await.unwrap();
}
