//! What people make of their conversations: names, archive, read marks, thumbs; on all their devices, and theirs alone.

use chat_core::ids::{ClientMessageId, MessageId};
use harness::{
    app::{App, until},
    clients::{Rest, Socket},
};
use serde_json::{Value, json};

/// A message of somebody's, and the reply to it.
async fn exchange(socket: &mut Socket, text: &str) -> Value {
    socket.message(text, Some(&ClientMessageId::new().to_string())).await.unwrap();
    socket.until("response").await.unwrap()
}

async fn read(rest: &Rest, id: &str) -> Value {
    let answer = rest.get(&format!("/conversations/{id}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body
}

async fn listed(rest: &Rest, query: &str) -> Vec<String> {
    let pages = rest.pages(&format!("/conversations?{query}")).await.unwrap();
    pages.concat().iter().map(|listed| listed["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_name_shows_on_every_device_and_moves_nothing_in_the_list() {
    let app = App::start().await.unwrap();
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    let mut phone = app.socket("ben@acme", &id).await.unwrap();
    let before = read(&rest, &id).await;
    assert_eq!((&before["title"], &before["archived_at"]), (&Value::Null, &Value::Null));

    let path = format!("/conversations/{id}");
    let named = rest.patch(&path, &json!({"title": "  Holidays in May "})).await.unwrap();
    assert_eq!((named.status, &named.body["title"]), (200, &json!("Holidays in May")));
    let frame = phone.until("conversation").await.unwrap();
    let told = json!({"type": "conversation", "conversation_id": id, "title": "Holidays in May", "archived": false});
    assert_eq!(frame, told);
    assert_eq!(read(&rest, &id).await["updated_at"], before["updated_at"]);

    let unnamed = rest.patch(&path, &json!({"title": null})).await.unwrap();
    assert_eq!((unnamed.status, &unnamed.body["title"]), (200, &Value::Null));
    for (body, field) in [
        (json!({}), "body"),
        (json!({"title": ""}), "title"),
        (json!({"title": "a\nb"}), "title"),
        (json!({"title": "x".repeat(201)}), "title"),
        (json!({"title": 7}), "title"),
        (json!({"archived": "yes"}), "archived"),
        (json!({"epoch": 7}), "epoch"),
    ] {
        let refused = rest.patch(&path, &body).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{body}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_is_put_away_is_out_of_sight_until_something_is_said_in_it() {
    let app = App::start().await.unwrap();
    let (ben, rest) = (app.user("ben@acme"), app.rest("ben@acme"));
    let tenant = ben.tenant.unwrap();
    let mut ids = Vec::new();
    for agent in app.demo.agents.iter().filter(|agent| agent.tenant == tenant) {
        ids.push(rest.open(tenant, agent.id).await.unwrap());
    }
    let all = format!("tenant_id={tenant}");
    assert_eq!(listed(&rest, &all).await.len(), ids.len());
    let path = format!("/conversations/{}", ids[0]);
    let put_away = rest.patch(&path, &json!({"archived": true})).await.unwrap();
    assert!(put_away.body["archived_at"].is_string(), "{}", put_away.body);
    let again = rest.patch(&path, &json!({"archived": true})).await.unwrap();
    assert_eq!(again.body["archived_at"], put_away.body["archived_at"], "once");
    assert_eq!(listed(&rest, &all).await, ids[1..]);
    assert_eq!(listed(&rest, &format!("{all}&archived=true")).await, ids[..1]);
    assert_eq!(listed(&rest, &format!("{all}&archived=false")).await, ids[1..]);
    // Who runs the product sees both, and may ask for either.
    let root = app.rest("root");
    assert!(listed(&root, &all).await.contains(&ids[0]));
    assert!(!listed(&root, &format!("{all}&archived=false")).await.contains(&ids[0]));
    assert_eq!(listed(&root, "archived=true").await, ids[..1]);

    let mut socket = app.socket("ben@acme", &ids[0]).await.unwrap();
    exchange(&mut socket, "are you there?").await;
    assert_eq!(listed(&rest, &all).await.len(), ids.len(), "it is back");
    let back = rest.patch(&path, &json!({"archived": false})).await.unwrap();
    assert_eq!(back.body["archived_at"], Value::Null);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_person_waits_also_where_it_was_put_away() {
    let app = App::start().await.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    app.rest("ben@acme").patch(&format!("/conversations/{id}"), &json!({"archived": true})).await.unwrap();
    app.rest("root").post(&format!("/conversations/{id}/takeover"), &json!({})).await.unwrap();
    let tenant = app.user("ben@acme").tenant.unwrap();
    let inbox = format!("tenant_id={tenant}&status=escalated");
    for handle in ["ada@acme", "ben@acme"] {
        assert_eq!(listed(&app.rest(handle), &inbox).await, std::slice::from_ref(&id), "{handle}");
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn how_far_somebody_has_read_is_the_same_on_all_their_devices() {
    let app = App::start().await.unwrap();
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    let mut phone = app.socket("ben@acme", &id).await.unwrap();
    let mut desk = app.socket("ben@acme", &id).await.unwrap();
    // Whoever writes has read what stands before it, and not yet the reply.
    exchange(&mut phone, "one").await;
    let reply = exchange(&mut phone, "two").await;
    let conversation = read(&rest, &id).await;
    assert_eq!((&conversation["read_seq"], &conversation["unread"]), (&json!(3), &json!(1)));

    phone.say(&json!({"type": "read", "seq": reply["seq"]})).await.unwrap();
    for device in [&mut phone, &mut desk] {
        let told = device.until("read").await.unwrap();
        assert_eq!(told, json!({"type": "read", "conversation_id": id, "seq": 4}));
    }
    let conversation = read(&rest, &id).await;
    assert_eq!((&conversation["read_seq"], &conversation["unread"]), (&json!(4), &json!(0)));
    // Whoever comes later is told at the door; a mark goes neither back nor past what there is.
    let (_, ready) = Socket::join(&app.product.ws(), &id, &app.token(app.user("ben@acme"))).await.unwrap();
    assert_eq!(ready["read_seq"], 4);
    let path = format!("/conversations/{id}/read");
    for (seq, stands) in [(2, 4), (900, 4)] {
        let marked = rest.put(&path, &json!({"seq": seq})).await.unwrap();
        assert_eq!((marked.status, marked.body), (200, json!({"read_seq": stands, "unread": 0})), "{seq}");
    }
    for (body, field) in [(json!({"seq": -1}), "seq"), (json!({}), "seq"), (json!({"seq": 1, "x": 1}), "x")] {
        let refused = rest.put(&path, &body).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)));
    }
    // Over REST as well.
    exchange(&mut phone, "three").await;
    assert_eq!(read(&rest, &id).await["unread"], 1);
    rest.put(&path, &json!({"seq": 6})).await.unwrap();
    assert_eq!(desk.until("read").await.unwrap()["seq"], 6);
    // A reset leaves nothing to read.
    exchange(&mut phone, "four").await;
    rest.delete(&format!("/conversations/{id}")).await.unwrap();
    let conversation = read(&rest, &id).await;
    assert_eq!((&conversation["read_seq"], &conversation["unread"]), (&json!(8), &json!(0)));
    app.finish().await.unwrap();
}

#[tokio::test]
async fn many_marks_at_once_are_written_down_as_few_and_the_last_one_counts() {
    let app = App::start().await.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    let owner = app.owner().await.unwrap();
    let long = "update web_conversations set last_seq = 500 where id = $1::text::uuid";
    owner.execute(long, &[&id]).await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    let written = "select xmin::text from web_conversations where id = $1::text::uuid and read_seq >= $2";
    for seq in 1..=400 {
        socket.say(&json!({"type": "read", "seq": seq})).await.unwrap();
    }
    // Whoever leaves at once has read, too.
    drop(socket);
    until("the last mark", || async { Ok(!owner.query(written, &[&id, &400_i64]).await?.is_empty()) }).await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_lost_mark_is_told_with_the_next_look() {
    let app = App::with(|setting| setting.limits.ping_ms = 200).await.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    exchange(&mut socket, "hello").await;
    let owner = app.owner().await.unwrap();
    owner.execute("update web_conversations set read_seq = 2 where id = $1::text::uuid", &[&id]).await.unwrap();
    assert_eq!(socket.until("read").await.unwrap()["seq"], 2);
    app.finish().await.unwrap();
}

#[tokio::test]
async fn only_its_owner_marks_what_is_read() {
    let app = App::start().await.unwrap();
    let id = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("root", &id).await.unwrap();
    socket.say(&json!({"type": "read", "seq": 1})).await.unwrap();
    assert_eq!(socket.until("error").await.unwrap()["code"], "forbidden");
    assert_eq!(read(&app.rest("root"), &id).await["unread"], Value::Null, "that is not theirs to know");
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_reply_is_rated_rated_again_and_not_any_more() {
    let app = App::start().await.unwrap();
    let (rest, id) = (app.rest("ben@acme"), app.conversation("ben@acme").await.unwrap());
    let mut socket = app.socket("ben@acme", &id).await.unwrap();
    let reply = exchange(&mut socket, "hello").await["message_id"].as_str().unwrap().to_owned();
    let of = |message: &str| format!("/conversations/{id}/messages/{message}/feedback");
    let feedback = async || {
        let page = rest.get(&format!("/conversations/{id}/messages")).await.unwrap().body;
        assert_eq!(page[0].get("feedback"), None, "a user's message has none");
        page[1].get("feedback").cloned()
    };
    assert_eq!(feedback().await, None);
    let up = rest.put(&of(&reply), &json!({"rating": "up"})).await.unwrap();
    assert_eq!((up.status, &up.body["rating"], &up.body["comment"]), (200, &json!("up"), &Value::Null));
    assert_eq!(feedback().await, Some(up.body));
    let down = json!({"rating": "down", "comment": "That is\nwrong."});
    let down = rest.put(&of(&reply), &down).await.unwrap();
    assert_eq!((&down.body["rating"], &down.body["comment"]), (&json!("down"), &json!("That is\nwrong.")));
    assert_eq!(feedback().await, Some(down.body));
    assert_eq!(rest.delete(&of(&reply)).await.unwrap().status, 204);
    assert_eq!(rest.delete(&of(&reply)).await.unwrap().status, 204, "again");
    assert_eq!(feedback().await, None);

    for (body, field) in [
        (json!({}), "rating"),
        (json!({"rating": "sideways"}), "rating"),
        (json!({"rating": "up", "comment": " "}), "comment"),
        (json!({"rating": "up", "comment": "a\u{0}"}), "comment"),
        (json!({"rating": "up", "comment": "x".repeat(2_001)}), "comment"),
        (json!({"rating": "up", "rated_at": "now"}), "rated_at"),
    ] {
        let refused = rest.put(&of(&reply), &body).await.unwrap();
        assert_eq!((refused.status, &refused.body["errors"][0]["field"]), (400, &json!(field)), "{body}");
    }
    let page = rest.get(&format!("/conversations/{id}/messages")).await.unwrap().body;
    let question = page[0]["id"].as_str().unwrap().to_owned();
    for message in [question, MessageId::new().to_string()] {
        let absent = rest.put(&of(&message), &json!({"rating": "up"})).await.unwrap();
        assert_eq!(absent.status, 404, "only replies of this conversation");
    }
    assert_eq!(rest.put(&of("17"), &json!({"rating": "up"})).await.unwrap().body["errors"][0]["field"], "message_id");
    app.finish().await.unwrap();
}
