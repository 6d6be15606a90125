//! What an operator sees of a running product, and closes in it: `hub admin sockets`, `hub admin turn`.

use std::time::Duration;

use chat_core::{bus::Publisher, config::Redis, keys::webchat_response_key};
use harness::{
    app::{App, until},
    clients::Socket,
    product::QueueKind,
    services::User,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    admin::{asked, run},
    streaming::dictated,
};

/// How soon sockets are closed.
const CLOSED: Duration = Duration::from_secs(5);

/// The steps of a turn's life, in their order.
pub(crate) fn steps(life: &Value) -> Vec<&str> {
    let steps: Vec<&Value> = life["steps"].as_array().unwrap().iter().collect();
    assert!(steps.iter().skip(1).all(|step| step["after_ms"].as_f64().unwrap() >= 0.0), "{life}");
    assert!(steps.iter().all(|step| step["at"].as_str().unwrap().ends_with('Z')), "{life}");
    steps.iter().map(|step| step["step"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_persons_sockets_are_counted_and_closed_on_all_hubs_and_nobody_elses() {
    let app = App::start().await.unwrap();
    let second = app.second(QueueKind::Local(None)).await.unwrap();
    let ben = app.user("ben@acme");
    let (user, tenant) = (ben.id.to_string(), ben.tenant.unwrap());
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut own = vec![
        app.socket("ben@acme", &conversation).await.unwrap(),
        app.socket("ben@acme", &conversation).await.unwrap(),
        Socket::join(&second.ws(), &conversation, &app.token(ben)).await.unwrap().0,
    ];
    let mut roots = app.socket("root", &conversation).await.unwrap();
    let adas = app.conversation("ada@acme").await.unwrap();
    let mut adas = app.socket("ada@acme", &adas).await.unwrap();

    let listed = asked(&app, &["sockets", "list", "--user", &user]).await;
    assert_eq!(listed, json!([{"tenant_id": tenant, "user_id": ben.id, "sockets": 3}]));
    let of_tenant = asked(&app, &["sockets", "list", "--tenant", &tenant.to_string()]).await;
    assert_eq!(of_tenant.as_array().unwrap().last().unwrap()["sockets"], 5, "{of_tenant}");
    assert_eq!(of_tenant.as_array().unwrap().len(), 4, "three people, and all together: {of_tenant}");

    // A forged hint is a look, and closes nothing.
    let forger = Publisher::new(&Redis::at(app.setting.redis.url(User::DeadLetters))).unwrap();
    let topic = webchat_response_key(tenant, conversation.parse().unwrap());
    forger.look_again(&[topic]).await.unwrap();
    own[0].message("still here", None).await.unwrap();
    own[0].until("response").await.unwrap();
    own[2].until("response").await.unwrap();

    let began = Instant::now();
    let close = ["sockets", "close", "--user", &user];
    let closing = run(&app, &close, "");
    let closed = async {
        for socket in &mut own {
            assert_eq!(socket.closed().await.unwrap(), Some(1012));
        }
        began.elapsed()
    };
    let (done, took) = tokio::join!(closing, closed);
    assert_eq!(String::from_utf8(done.stdout).unwrap(), "closed 3 sockets\n");
    assert!(took < CLOSED, "closed after {took:?}");
    let audit = "select subject_id::text, detail->>'by' from audit_events where action = 'user.sockets_closed'";
    let row = app.owner().await.unwrap().query_one(audit, &[]).await.unwrap();
    assert_eq!((row.get::<_, String>(0), row.get::<_, String>(1)), (user.clone(), "olga".to_owned()));

    // They come back with the same token, and stay; and whoever else was there never went.
    let mut back = app.socket("ben@acme", &conversation).await.unwrap();
    back.message("back", None).await.unwrap();
    back.until("response").await.unwrap();
    roots.until("response").await.unwrap();
    adas.message("hello", None).await.unwrap();
    adas.until("response").await.unwrap();
    until("one socket to be counted", || async {
        Ok(asked(&app, &["sockets", "list", "--user", &user]).await[0]["sockets"] == 1)
    })
    .await
    .unwrap();

    // The product's own admin has no membership, and is closed all the same.
    let root = app.user("root").id.to_string();
    let close = ["sockets", "close", "--user", &root];
    let (done, closed) = tokio::join!(asked(&app, &close), async { roots.closed().await.unwrap() });
    assert_eq!((closed, &done["sockets"]), (Some(1012), &json!(1)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_turns_life_shows_how_far_it_is_and_no_word_of_it() {
    let (app, dictations) = dictated(2, |_| {}).await;
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let mut turns = Vec::new();
    for text in ["the first blue cupboard", "the second blue cupboard"] {
        socket.message(text, None).await.unwrap();
        turns.push(socket.until("accepted").await.unwrap()["turn_id"].as_str().unwrap().to_owned());
    }
    let life = |turn: usize| {
        let (app, turn) = (&app, turns[turn].clone());
        async move { asked(app, &["turn", "show", &turn]).await }
    };
    dictations[0].say("It goes ");
    socket.until("delta").await.unwrap();
    let (running, waiting) = (life(0).await, life(1).await);
    assert_eq!((&running["state"], &running["attempt"]), (&json!("running"), &json!(1)));
    assert!(steps(&running).contains(&"claimed") && !steps(&running).contains(&"ended"), "{running}");
    assert_eq!((&waiting["state"], &waiting["attempt"]), (&json!("queued"), &json!(0)));
    assert_eq!(steps(&waiting), ["accepted", "hinted"]);

    socket.say(&json!({"type": "stop", "turn_id": turns[0]})).await.unwrap();
    socket.until("turn").await.unwrap();
    let stopped = life(0).await;
    assert_eq!(stopped["state"], "stopped");
    assert_eq!((steps(&stopped).first(), steps(&stopped).contains(&"ended")), (Some(&"accepted"), true), "{stopped}");
    assert!(steps(&stopped).contains(&"claimed"), "{stopped}");

    let second = dictations.into_iter().nth(1).unwrap();
    second.say("The end.");
    second.end();
    let reply = socket.until("response").await.unwrap();
    let answered = life(1).await;
    assert_eq!((&answered["state"], &answered["reply_id"]), (&json!("answered"), &reply["message_id"]));
    let mut all = steps(&answered);
    all.sort_unstable();
    assert_eq!(all, ["accepted", "claimed", "ended", "hinted", "reply_stored"]);
    let words = String::from_utf8(run(&app, &["turn", "show", &turns[1]], "").await.stdout).unwrap();
    assert!(words.contains("claimed") && words.contains(" ms") && !words.contains("The end."), "{words}");
    app.finish().await.unwrap();
}
