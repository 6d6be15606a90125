//! What is not theirs and what does not exist: nothing tells the one from the other, neither an answer nor the work for it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use chat_core::caller::Role;
use conversations::ROUTES;
use harness::{
    app::{self, App},
    clients::{Answer, Farewell, Rest, Socket},
    requests,
    wire::Wire,
};
use serde_json::json;

use super::cast::{Caller, Cast, Target};

/// A request for a conversation.
async fn ask(rest: &Rest, method: &str, path: &str, id: &str) -> Answer {
    let path = path.replace("{conversation_id}", id);
    let elsewhere = "0193c0de-0000-7000-8000-000000000002";
    let path = path.replace("{message_id}", elsewhere).replace("{turn_id}", elsewhere);
    let body = requests::body(method, &path);
    let make = |http: &reqwest::Client, base: &str| {
        let request = http.request(method.parse().unwrap(), format!("{base}{path}"));
        let request = request.header("Idempotency-Key", "0193c0de-0000-7000-8000-000000000001");
        match &body {
            Some(body) => request.json(body),
            None => request,
        }
    };
    rest.with(make).await.unwrap()
}

/// The routes about one conversation.
fn routes() -> Vec<(&'static str, &'static str)> {
    let with_id = ROUTES.iter().filter(|route| route.path.contains("{conversation_id}"));
    with_id.flat_map(|route| route.methods.iter().map(move |method| (*method, route.path))).collect()
}

#[tokio::test]
async fn what_is_not_theirs_and_what_is_not_run_the_same_statements() {
    let port = app::services().await.unwrap().postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    wire.record();
    let app = App::with(|setting| {
        let (from, to) = (format!(":{port}/"), format!(":{}/", wire.address.port()));
        setting.database_url = setting.database_url.replace(&from, &to);
        // One connection, so that its statements come in their order.
        setting.pool_size = 1;
    })
    .await
    .unwrap();
    let ben = app.user("ben@acme").clone();
    let absent = chat_core::ids::ConversationId::new().to_string();
    let others = [app.conversation("ada@acme").await.unwrap(), app.conversation("ada@globex").await.unwrap(), absent];
    let begin = format!("begin; set local app.\"current_user\" = '{}'", ben.id);
    let of_ben = || {
        let all = wire.tape().transactions();
        all.into_iter().filter(|transaction| transaction[0] == begin).collect::<Vec<_>>()
    };
    let mut works = BTreeSet::new();
    // A token that names the tenant, one that does not, and one that claims to be the platform's: each takes its own way.
    for (role, tenant) in
        [(ben.role, ben.tenant), (ben.role, None), (Role::PlatformAdmin, ben.tenant), (Role::CustomerAdmin, ben.tenant)]
    {
        let token = app.mint.token(ben.id, role, tenant, Duration::from_secs(600));
        let rest = Rest::new(&app.product.rest(), Some(&token));
        for (method, path) in routes() {
            let mut ran = Vec::new();
            for id in &others {
                let before = of_ben().len();
                let answer = ask(&rest, method, path, id).await;
                assert_eq!(answer.status, 404, "{method} {path}");
                ran.push(of_ben().split_off(before));
            }
            assert!(!ran[0].is_empty(), "{method} {path} asked nothing");
            assert_eq!((&ran[0], &ran[1]), (&ran[2], &ran[2]), "{method} {path}, token {role} {tenant:?}");
            works.extend(ran.swap_remove(0));
        }
        let mut ran = Vec::new();
        for id in &others {
            let before = of_ben().len();
            let mut socket = Socket::open(&app.product.ws(), id, None).await.unwrap();
            socket.say(&json!({"type": "auth", "token": token})).await.unwrap();
            let end = socket.farewell_or_frame().await.unwrap();
            assert!(matches!(end, Farewell::Close(4404, _)), "{end:?}");
            ran.push(of_ben().split_off(before));
        }
        assert!(!ran[0].is_empty(), "the socket asked nothing");
        assert_eq!((&ran[0], &ran[1]), (&ran[2], &ran[2]), "the socket, token {role} {tenant:?}");
    }
    // Each route's own work is behind the door: it is run for nothing, and so it is seen here.
    assert!(works.len() >= routes().len(), "{works:#?}");
    app.finish().await.unwrap();
}

/// A measurement, not a promise of this machine: `cargo test --test it -- --ignored --nocapture takes_as_long`.
#[tokio::test]
#[ignore = "a measurement"]
#[expect(clippy::print_stdout, reason = "it prints figures")]
async fn what_is_not_theirs_takes_as_long_as_what_is_not() {
    const CALLS: usize = 1_000;
    let cast = Cast::assemble().await;
    let rest = cast.rest(Caller::Cleo);
    for (method, path) in routes() {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..CALLS {
            for (target, times) in [Target::Bens, Target::Absent].into_iter().zip(&mut times) {
                let id = cast.id(Caller::Cleo, target);
                let began = Instant::now();
                let answer = ask(&rest, method, path, &id).await;
                times.push(began.elapsed());
                assert_eq!(answer.status, 404);
            }
        }
        let [denied, absent] = times.map(|mut times| {
            times.sort();
            times[CALLS / 2].as_secs_f64() * 1_000.0
        });
        println!("{method:<6} {path:<46} denied {denied:.3} ms, absent {absent:.3} ms, ratio {:.3}", denied / absent);
        assert!((denied - absent).abs() < 2.0, "{method} {path}: the medians differ by 2 ms");
    }
    cast.app.finish().await.unwrap();
}
