//! One connection for two companies, whatever becomes of who uses it.

use std::{panic::AssertUnwindSafe, time::Duration};

use chat_core::{
    Code,
    config::{Database, Secret, Times},
    ids::{AgentId, ClientMessageId, ConnectionId, ConversationId, TenantId},
    job::Job,
    message::ChannelType,
    store::{Store, channel_turns::Heard, door::Action, messages::Page},
    text::Text,
    timestamp::Timestamp,
    token::Identity,
};
use futures::FutureExt;
use harness::{
    app::{self, App},
    wire::Wire,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::timeout;

/// How often the connection goes from one company to the other.
const SWAPS: usize = 10_000;

/// Somebody of one company, and what is theirs.
struct Side {
    who: Identity,
    tenant: TenantId,
    own: ConversationId,
    agent: AgentId,
    text: Text,
}

#[tokio::test]
async fn a_connection_swapped_between_tenants_ten_thousand_times_shows_nothing_foreign() {
    let port = app::services().await.unwrap().postgres.port();
    let wire = Wire::before(([127, 0, 0, 1], port).into()).await.unwrap();
    let app = App::start().await.unwrap();
    let url = app.setting.database_url.replace(&format!(":{port}/"), &format!(":{}/", wire.address.port()));
    let store = Store::connect(&Database { url: Secret::from(url), pool_size: 1 }).await.unwrap();
    let mut sides = Vec::new();
    for handle in ["ben@acme", "ben@globex"] {
        let user = app.user(handle);
        sides.push(Side {
            who: Identity {
                user_id: user.id,
                expires_at: Timestamp::now(),
                role_hint: Some(user.role),
                tenant_hint: None,
            },
            tenant: user.tenant.unwrap(),
            own: app.conversation(handle).await.unwrap().parse().unwrap(),
            agent: app.agent_of(user).id,
            text: Text::parse(format!("of {handle}"), 100).unwrap(),
        });
    }
    let everything = every_row(&app).await;
    let seed: u64 = rand::random();
    let mut dice = StdRng::seed_from_u64(seed);
    let (mut cut, mut panicked) = (0, 0);
    for swap in 0..SWAPS {
        let (side, other) = (&sides[swap % 2], &sides[(swap + 1) % 2]);
        let moment = Duration::from_micros(dice.random_range(0..2_000));
        let said = store.accept(&side.who, side.own, &side.text, Some(ClientMessageId::new()), 1_000_000);
        match dice.random_range(0..6) {
            // Cut somewhere: the script may be queued, sent, or answered in part.
            0 => cut += usize::from(timeout(moment, said).await.is_err()),
            // The same by a panic of whoever waits for it.
            1 => {
                let panics = async {
                    tokio::select! {
                        _ = said => {}
                        _ = timeout(moment, std::future::pending::<()>()) => std::panic::resume_unwind(Box::new("on purpose")),
                    }
                };
                panicked += usize::from(AssertUnwindSafe(panics).catch_unwind().await.is_err());
            }
            // An error of the database in the middle of a script.
            2 => {
                let error = store.hear(&stranger(side, other), &Times::default()).await.unwrap_err();
                assert_eq!(error.code(), Code::Internal);
            }
            3 => {
                let error = store.accept(&side.who, other.own, &side.text, None, 1).await.unwrap_err();
                assert_eq!(error.code(), Code::NotFound);
            }
            4 => {
                let held = store.progress(side.tenant, &[side.own, other.own]).await.unwrap();
                assert!(held.len() == 1 && held[0].id == side.own, "seed {seed}, swap {swap}: {held:?}");
            }
            _ => {
                let page = store.messages(&side.who, side.own, Page::Newest, 3, Action::Read).await.unwrap().1;
                let own = page.iter().all(|message| message.content.ends_with(side.text.as_str()));
                assert!(own, "seed {seed}, swap {swap}: {page:?}");
            }
        }
        if swap % 20 == 0 {
            // Whatever was queued is answered before this is.
            store.ping().await.unwrap();
            let rows = wire.ask_aside(&everything).await.unwrap();
            assert_eq!(rows, 0, "seed {seed}, swap {swap}: rows without a transaction");
        }
    }
    assert!(cut > 100 && panicked > 100, "cut {cut}, panicked {panicked}");
    let owner = app.owner().await.unwrap();
    owner.execute("delete from turns", &[]).await.unwrap();
    app.finish().await.unwrap();
}

/// How many rows of the tables with a tenant there are, for whoever may look.
async fn every_row(app: &App) -> String {
    let tables = "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and c.relrowsecurity
          and has_table_privilege('chat_app', c.oid, 'select')
          and (a.attname = 'tenant_id' or (c.relname in ('tenants', 'portal_users') and a.attname = 'id'))";
    let owner = app.owner().await.unwrap();
    let counts: Vec<String> = owner
        .query(tables, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| format!("(select count(*) from {})", row.get::<_, String>(0)))
        .collect();
    assert!(counts.len() > 10, "{counts:?}");
    format!("select {}", counts.join(" + "))
}

/// A message of one company that names what is the other's: the foreign key refuses it.
fn stranger(side: &Side, other: &Side) -> Heard {
    Heard {
        tenant: side.tenant,
        channel: ChannelType::Slack,
        message: "M1".to_owned(),
        connection: ConnectionId::new(),
        agent: other.agent,
        thread: String::new(),
        sender: "U1".to_owned(),
        said: Ok("hello".to_owned()),
        said_at: Timestamp::now(),
        hint: Job::web(side.tenant, side.own, side.who.user_id, chat_core::ids::TurnId::new()),
    }
}
