//! Whose pages may come: the same exact list before a socket is opened and on every answer of REST.

use conversations::ROUTES;
use harness::{
    app::App,
    clients::{Answer, Rest},
    raw,
};
use reqwest::{Method, RequestBuilder};
use serde_json::json;

/// The page on the list.
const OURS: &str = "https://portal.example";

/// Pages that are not, however much they look like it.
const OTHERS: &[(&str, &str)] = &[
    ("none at all, as a sandboxed page says", "null"),
    ("empty", ""),
    ("the name as a prefix", "https://portal.example.evil.test"),
    ("the name as a suffix", "https://evilportal.example"),
    ("a shorter name", "https://portal.exampl"),
    ("another one", "https://evil.test"),
    ("another port", "https://portal.example:8443"),
    ("the usual port, which browsers leave out", "https://portal.example:443"),
    ("without encryption", "http://portal.example"),
    ("in capitals", "HTTPS://PORTAL.EXAMPLE"),
    ("with a path", "https://portal.example/"),
    ("with a user", "https://portal.example@evil.test"),
    ("a list", "https://portal.example, https://evil.test"),
    ("everybody", "*"),
];

#[tokio::test]
async fn a_page_of_another_origin_may_not_connect() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut tried = vec![
        ("no browser", vec![], true),
        ("ours", vec![OURS], true),
        ("ours twice", vec![OURS, OURS], false),
        ("ours and another", vec![OURS, "https://evil.test"], false),
        ("another and ours", vec!["https://evil.test", OURS], false),
    ];
    tried.extend(OTHERS.iter().map(|(what, origin)| (*what, vec![*origin], false)));
    for (what, origins, welcome) in tried {
        let headers: Vec<_> = origins.iter().map(|origin| ("Origin", *origin)).collect();
        let (_tcp, head) = raw::ask(app.product.address, &raw::upgrade(&conversation, &headers)).await.unwrap();
        let status = if welcome { "http/1.1 101 " } else { "http/1.1 403 " };
        assert!(head.starts_with(status), "{what}: {head}");
    }
    app.finish().await.unwrap();
}

/// What an answer tells a browser about a page of this origin.
fn assert_told(what: &str, answer: &Answer, origin: &str) {
    let header = |name: &str| answer.headers.get(name).map(|value| value.to_str().unwrap());
    let welcome = (origin == OURS).then_some(OURS);
    assert_eq!(header("access-control-allow-origin"), welcome, "{what} for {origin}");
    assert_eq!(header("access-control-allow-credentials"), None, "{what} for {origin}");
    let vary: Vec<&str> = answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
    assert!(vary.join(",").to_ascii_lowercase().split(',').any(|name| name.trim() == "origin"), "{what}: {vary:?}");
}

#[tokio::test]
async fn every_answer_says_which_pages_may_read_it_errors_included() {
    let app = App::with(|setting| {
        setting.limits.user_messages_burst = 1;
        setting.limits.user_messages_per_minute = 1;
        setting.limits.user_messages_wait_ms = 3_000;
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let (rest, nobody) = (app.rest("ben@acme"), Rest::new(&app.product.rest(), None));
    let (messages, key) = (format!("/conversations/{conversation}/messages"), "0193b3a0-0000-7000-8000-00000000000a");
    let say = |request: RequestBuilder, text: &str| request.header("idempotency-key", key).json(&json!({"text": text}));
    assert_eq!(rest.with(|http, base| say(http.post(format!("{base}{messages}")), "hello")).await.unwrap().status, 202);
    let origins = OTHERS.iter().map(|(_, origin)| *origin).chain([OURS]);
    for origin in origins {
        let ask = async |rest: &Rest, method: Method, path: &str, body: Option<String>| {
            let built = |http: &reqwest::Client, base: &str| {
                let request = http.request(method, format!("{base}{path}")).header("origin", origin);
                let Some(body) = body else { return request };
                request.header("idempotency-key", key).header("content-type", "application/json").body(body)
            };
            rest.with(built).await.unwrap()
        };
        let said = |text: &str| Some(json!({"text": text}).to_string());
        for (status, answer) in [
            (200, ask(&rest, Method::GET, &messages, None).await),
            (400, ask(&rest, Method::GET, &format!("{messages}?limit=0"), None).await),
            (401, ask(&nobody, Method::GET, &messages, None).await),
            (404, ask(&rest, Method::GET, "/nothing", None).await),
            (404, ask(&rest, Method::GET, &format!("/conversations/{key}"), None).await),
            (405, ask(&rest, Method::PATCH, &messages, None).await),
            (413, ask(&rest, Method::POST, &messages, said(&"a".repeat(1_048_576))).await),
            (429, ask(&rest, Method::POST, &messages, said("hello again")).await),
        ] {
            assert_eq!(answer.status, status, "{origin}: {}", answer.body);
            assert_told(&status.to_string(), &answer, origin);
            let exposed = answer.headers["access-control-expose-headers"].to_str().unwrap();
            assert_eq!(exposed, "link,retry-after,x-request-id");
        }
        for route in ROUTES {
            let path = route.path.replace("{conversation_id}", &conversation);
            // Whoever is nobody is refused everywhere but at the probes; that is enough to be answered.
            for method in route.methods {
                let answer = ask(&nobody, method.parse().unwrap(), &path, None).await;
                assert!([200, 401].contains(&answer.status), "{method} {path}: {}", answer.status);
                assert_told(&format!("{method} {path}"), &answer, origin);
            }
        }
    }
    let owner = app.owner().await.unwrap();
    owner.batch_execute("alter table web_conversation_messages rename column content to gone").await.unwrap();
    let broken = |http: &reqwest::Client, base: &str| http.get(format!("{base}{messages}")).header("origin", OURS);
    let answer = rest.with(broken).await.unwrap();
    assert_eq!(answer.status, 500, "{}", answer.body);
    assert_told("our own fault", &answer, OURS);
    owner.batch_execute("alter table web_conversation_messages rename column gone to content").await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_preflight_is_answered_for_what_the_routes_take() {
    let app = App::start().await.unwrap();
    let nobody = Rest::new(&app.product.rest(), None);
    let origins = OTHERS.iter().map(|(_, origin)| *origin).chain([OURS]);
    for (origin, route) in origins.flat_map(|origin| ROUTES.iter().map(move |route| (origin, route))) {
        let path = route.path.replace("{conversation_id}", "0193b3a0-0000-7000-8000-00000000000a");
        for method in route.methods {
            let preflight = |http: &reqwest::Client, base: &str| {
                http.request(Method::OPTIONS, format!("{base}{path}"))
                    .header("origin", origin)
                    .header("access-control-request-method", *method)
                    .header("access-control-request-headers", "authorization,content-type,idempotency-key")
            };
            let answer = nobody.with(preflight).await.unwrap();
            assert_eq!(answer.status, 200, "{path}");
            assert_told(&path, &answer, origin);
            let list = |name: &str| answer.headers[name].to_str().unwrap().to_owned();
            let methods = list("access-control-allow-methods");
            assert!(methods.split(',').any(|allowed| allowed == *method), "{method} {path}: {methods}");
            assert_eq!(list("access-control-allow-headers"), "authorization,content-type,idempotency-key");
            assert_eq!(list("access-control-max-age"), "600");
        }
    }
    app.finish().await.unwrap();
}
