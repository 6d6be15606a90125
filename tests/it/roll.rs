//! Those who sit in conversations and say nothing: asked for all together, and out as soon as each of them would be.

use std::{collections::HashMap, time::Duration};

use chat_core::{
    config::{self, Secret},
    ids::ConversationId,
    store::door::Action,
    timestamp::Timestamp,
    token::Identity,
};
use harness::app::{App, until};
use tokio::task::JoinSet;

use crate::metrics::{Scraped, TOKEN};

/// A product that calls the roll so often, and pings so seldom.
async fn app(look_all: Duration, ping: Duration) -> App {
    App::with(|setting| {
        setting.metrics = config::Metrics { token: Some(Secret::from(TOKEN.to_owned())) };
        (setting.times.look, setting.times.look_all) = (look_all, look_all);
        setting.limits.ping_ms = u64::try_from(ping.as_millis()).unwrap();
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn whoever_may_not_be_there_any_more_is_out_without_a_ping() {
    // No ping comes while this runs.
    let app = app(Duration::from_millis(200), Duration::from_secs(29)).await;
    let owner = app.owner().await.unwrap();
    let (ada, ben) = (app.user("ada@acme").id, app.user("ben@acme").id);
    let conversation = app.conversation("ben@acme").await.unwrap();
    let escalated = "update web_conversations set status = 'escalated'";
    let back = [
        "update portal_users set role = 'customer_admin' where email like 'ada@%'",
        "update user_tenant_roles set role = 'customer_admin' where user_id = (select id from portal_users where email like 'ada@acme%')",
    ];
    for (what, who, change, code) in [
        ("demoted by the portal", "ada@acme", "update portal_users set role = 'customer_operator' where id = $1", 4403),
        (
            "demoted in the company",
            "ada@acme",
            "update user_tenant_roles set role = 'customer_operator' where user_id = $1",
            4403,
        ),
        (
            "of no use any more",
            "ada@acme",
            "update web_conversations set status = 'agent' where $1::uuid is not null",
            4403,
        ),
        ("put out", "ben@acme", "update portal_users set put_out = put_out + 1 where id = $1", 1012),
        ("no member any more", "ben@acme", "delete from user_tenant_roles where user_id = $1", 4403),
    ] {
        owner.execute(escalated, &[]).await.unwrap();
        let mut socket = app.socket(who, &conversation).await.unwrap();
        owner.execute(change, &[if who == "ada@acme" { &ada } else { &ben }]).await.unwrap();
        assert_eq!(socket.closed().await.unwrap(), Some(code), "{what}");
        for change in back {
            owner.execute(change, &[]).await.unwrap();
        }
    }
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_crowd_on_the_roll_asks_for_nothing_of_its_own() {
    const CROWD: usize = 60;
    let app = app(Duration::from_millis(250), Duration::from_millis(500)).await;
    let mut crowd = JoinSet::new();
    for handle in ["ben@acme", "ada@acme"] {
        let conversation = app.conversation(handle).await.unwrap();
        for _ in 0..CROWD / 2 {
            let mut socket = app.socket(handle, &conversation).await.unwrap();
            // Whoever does not listen answers no ping.
            crowd.spawn(async move { socket.closed().await });
        }
    }
    let before = Scraped::of(&app).await;
    let grown = |now: &Scraped, name: &str| now.get(name) - before.get(name);
    let pongs = r#"chat_frames_received_total{type="control"}"#;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let enough = (CROWD * 6) as f64;
    until("six pings each", || async { Ok(grown(&Scraped::of(&app).await, pongs) >= enough) }).await.unwrap();
    let after = Scraped::of(&app).await;
    let (pongs, scripts) = (grown(&after, pongs), grown(&after, "chat_pool_wait_seconds_count"));
    assert!(scripts < pongs / 3.0, "{scripts} scripts for {pongs} pings");
    assert!((after.get("chat_sockets") - before.get("chat_sockets")).abs() < 0.5, "everybody is still there");
    crowd.abort_all();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_roll_says_of_everybody_what_the_door_says() {
    let app = App::start().await.unwrap();
    let (owner, store) = (app.owner().await.unwrap(), &app.product.orchestrator.store);
    let mut conversations: HashMap<&str, Vec<ConversationId>> = HashMap::new();
    for handle in ["ben@acme", "ada@acme", "ben@globex"] {
        let company = handle.rsplit('@').next().unwrap();
        conversations.entry(company).or_default().push(app.conversation(handle).await.unwrap().parse().unwrap());
    }
    let people = &app.demo.users;
    let mut seen = [0, 0];
    for change in [
        "select 1",
        "update web_conversations set status = 'escalated'",
        "update portal_users set role = 'customer_operator' where email like 'ada@acme%'",
        "update user_tenant_roles set role = 'customer_operator'",
        "delete from user_tenant_roles where user_id = (select id from portal_users where email like 'ben@acme%')",
    ] {
        owner.batch_execute(change).await.unwrap();
        for (company, conversations) in &conversations {
            let tenant = app.user(&format!("ben@{company}")).tenant.unwrap();
            for user in people {
                let found = store.roll(tenant, conversations, &vec![user.id; conversations.len()]).await.unwrap();
                for (conversation, found) in conversations.iter().zip(found) {
                    let (role_hint, expires_at) = (Some(user.role), Timestamp::now());
                    let who = Identity { user_id: user.id, expires_at, role_hint, tenant_hint: None };
                    let seat = store.seat(&who, *conversation, Action::Stay).await.ok();
                    let footing = seat.and_then(|seat| seat.footing());
                    assert_eq!(found.map(|found| found.footing), footing, "{} after {change}", user.handle);
                    assert_eq!(
                        found.map(|found| found.read_seq),
                        seat.filter(|_| footing.is_some()).map(|seat| seat.read_seq)
                    );
                    seen[usize::from(found.is_some())] += 1;
                }
            }
        }
    }
    assert!(seen.iter().all(|seen| *seen > 5), "absent and present: {seen:?}");
    app.finish().await.unwrap();
}
