//! A chat from end to end.

use std::time::Duration;

use harness::{app::App, clients::Socket};
use serde_json::json;

#[tokio::test]
async fn a_message_is_typed_accepted_answered_and_found_in_the_history() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let token = app.token(app.user("ben@acme"));
    let (mut socket, ready) = Socket::join(&app.product.ws(), &conversation, &token).await.unwrap();
    assert_eq!(ready["conversation_id"], conversation.as_str());
    assert_eq!((&ready["last_seq"], &ready["epoch"], &ready["resumed"]), (&json!(0), &json!(0), &json!(false)));
    assert_eq!(ready["status"], "agent");

    let own = "0193b3a0-0000-7000-8000-000000000001";
    socket.message("Grüße 😀", Some(own)).await.unwrap();
    let typing = socket.expect("typing").await.unwrap();
    assert_eq!((&typing["conversation_id"], &typing["origin"]), (&json!(conversation), &json!("agent")));
    let accepted = socket.expect("accepted").await.unwrap();
    assert_eq!((&accepted["seq"], &accepted["duplicate"]), (&json!(1), &json!(false)));
    assert_eq!(accepted["client_message_id"], own);
    let response = socket.expect("response").await.unwrap();
    assert_eq!(response["text"], "Echo: Grüße 😀");
    assert_eq!((&response["seq"], &response["turn_id"]), (&json!(2), &accepted["turn_id"]));
    assert_eq!(response["conversation_id"], conversation.as_str());

    let page = app.rest("ben@acme").get(&format!("/conversations/{conversation}/messages")).await.unwrap();
    assert_eq!(page.status, 200);
    let (said, answered) = (&page.body[0], &page.body[1]);
    assert_eq!(page.body.as_array().unwrap().len(), 2);
    assert_eq!(
        (&said["id"], &said["role"], &said["content"]),
        (&accepted["message_id"], &json!("user"), &json!("Grüße 😀"))
    );
    assert_eq!(said["turn"], json!({"id": accepted["turn_id"], "state": "answered"}));
    assert_eq!((&answered["id"], &answered["role"]), (&response["message_id"], &json!("assistant")));
    assert_eq!((&answered["reply_to"], &answered["content"]), (&said["id"], &response["text"]));
    assert_eq!(answered["created_at"], response["created_at"]);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn every_tab_sees_the_same_sequence_and_its_own_typing_once() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut here = app.socket("ben@acme", &conversation).await.unwrap();
    let mut there = app.socket("ben@acme", &conversation).await.unwrap();

    here.message("one", None).await.unwrap();
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(here.next().await.unwrap()["type"].as_str().unwrap().to_owned());
    }
    assert_eq!(kinds, ["typing", "accepted", "response"]);
    assert_eq!(there.expect("typing").await.unwrap()["origin"], "agent");
    let message = there.expect("message").await.unwrap();
    assert_eq!((&message["message"]["seq"], &message["message"]["content"]), (&json!(1), &json!("one")));
    assert_eq!(there.expect("response").await.unwrap()["seq"], 2);

    // REST is one more way in.
    let sent = app.rest("ben@acme").say(&conversation, "0193b3a0-0000-7000-8000-000000000002", "two").await.unwrap();
    assert_eq!((sent.status, &sent.body["seq"]), (202, &json!(3)));
    for socket in [&mut here, &mut there] {
        assert_eq!(socket.until("message").await.unwrap()["message"]["content"], "two");
        assert_eq!(socket.until("response").await.unwrap()["seq"], 4);
        assert!(socket.next_within(Duration::from_millis(200)).await.is_err(), "nothing comes twice");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn whoever_comes_back_gets_what_was_missed_and_no_more() {
    let app = App::start().await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["one", "two", "three"] {
        socket.message(text, None).await.unwrap();
        socket.until("response").await.unwrap();
    }
    drop(socket);

    let token = app.token(app.user("ben@acme"));
    let mut back = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
    back.say(&json!({"type": "auth", "token": token, "last_seq": 3, "epoch": 0})).await.unwrap();
    assert_eq!(back.expect("response").await.unwrap()["seq"], 4);
    assert_eq!(back.expect("message").await.unwrap()["message"]["seq"], 5);
    assert_eq!(back.expect("response").await.unwrap()["seq"], 6);
    let ready = back.expect("ready").await.unwrap();
    assert_eq!((&ready["resumed"], &ready["last_seq"]), (&json!(true), &json!(6)));

    // A position that is not ours is told, not guessed at.
    for (last_seq, epoch) in [(7, 0), (3, 1), (-1, 0)] {
        let mut lost = Socket::open(&app.product.ws(), &conversation, None).await.unwrap();
        lost.say(&json!({"type": "auth", "token": token, "last_seq": last_seq, "epoch": epoch})).await.unwrap();
        assert_eq!(lost.expect("reset").await.unwrap()["epoch"], 0);
        assert_eq!(lost.expect("ready").await.unwrap()["resumed"], false);
    }
    app.finish().await.unwrap();
}
