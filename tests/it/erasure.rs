//! Erasure: whoever leaves is named nowhere any more, is put out at once, and nothing of it touches anybody else.

use std::{process::Output, time::Duration};

use chat_core::{
    Code,
    bus::{Place, Publisher},
    config::{Redis, Secret, Times},
    ids::{ClientMessageId, TenantId, TurnId},
    job::Job,
    keys::{escalation_status_key, memory_short_key, ratelimit_key, webchat_stop_key},
    store::{
        erasure::Whom,
        owner::Owner,
        spend::{Bill, Line, Payer, Purpose},
    },
};
use harness::{
    app::{App, until},
    clients::Socket,
    lambda::binaries,
    product::QueueKind,
    pump::{event, record},
    services::User,
};
use hub::admin::erase::erase;
use serde_json::json;
use tokio::{process::Command, time::Instant};

use crate::{
    filled::{Rows, filled, naming, rows, superuser, words_of},
    stage::{Stage, stage, well},
    streaming::dictated,
};

/// How soon whoever is erased is put out.
const OUT: Duration = Duration::from_secs(5);

/// Leases that a test can wait for.
fn hurried() -> Times {
    Times { lease: Duration::from_secs(1), renew: Duration::from_millis(300), ..Times::default() }
}

/// `hub admin …`, as an operator runs it.
async fn admin(app: &App, redis_url: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(binaries().await.unwrap().join("hub"));
    command.arg("admin").args(arguments).env_clear().kill_on_drop(true);
    command.env("DATABASE_URL", &app.owner_url).env("REDIS_URL", redis_url);
    command.env("TURN_LEASE_MS", "1000").env("TURN_RENEW_MS", "300");
    command.output().await.unwrap()
}

/// The same in this process, while the test watches.
async fn erased(app: &App, whom: Whom, meant: &str) {
    let mut owner = Owner::connect(&Secret::from(app.owner_url.clone())).await.unwrap();
    let redis = Publisher::new(&Redis::at(Secret::from(app.setting.redis.url(User::Admin)))).unwrap();
    erase(&mut owner, &redis, whom, meant, &hurried(), Vec::new()).await.unwrap();
    owner.close().await.unwrap();
}

/// A publisher that may write every key.
fn unbound(app: &App) -> Publisher {
    Publisher::new(&Redis::at(Secret::from(app.setting.redis.url(User::Harness)))).unwrap()
}

/// The names in Redis that match, and whether each expires by itself.
async fn keys(app: &App, pattern: &str) -> Vec<String> {
    let client = redis::Client::open(app.setting.redis.url(User::Harness)).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("KEYS").arg(pattern).query_async(&mut redis).await.unwrap()
}

/// All rows but those of the audit that say that somebody was erased.
fn but_the_note(mut all: Rows) -> Rows {
    all.get_mut("audit_events").unwrap().retain(|row| !row.contains(".erased"));
    all
}

/// The rows that hold none of these.
fn without(mut all: Rows, words: &[String]) -> Rows {
    all.values_mut().for_each(|rows| rows.retain(|row| !words.iter().any(|word| row.contains(word))));
    all
}

/// Every kind of key for a conversation of ben's, as if all that happens had happened.
async fn keep_everything(app: &App, handle: &str, conversation: &str) {
    let ben = app.user(handle);
    let (tenant, agent) = (ben.tenant.unwrap(), app.agent_of(ben).id);
    let redis = &unbound(app);
    let place = Place { tenant, conversation: conversation.parse().unwrap(), turn: TurnId::new(), attempt: 1 };
    redis.append(place, 0, "so far").await.unwrap();
    let week = Duration::from_secs(3_600);
    for key in [
        webchat_stop_key(tenant, TurnId::new()),
        memory_short_key(tenant, agent, ben.id),
        escalation_status_key(tenant, conversation),
        ratelimit_key(tenant, ben.id),
    ] {
        redis.delete(&key).await.unwrap();
        redis.set(&key, "1", week).await.unwrap();
    }
}

#[tokio::test]
async fn an_erased_company_is_named_nowhere_and_the_other_is_untouched() {
    let app = App::start().await.unwrap();
    let [bens, others] = filled(&app).await;
    let acme = app.user("ben@acme").tenant.unwrap();
    keep_everything(&app, "ben@acme", &bens).await;
    keep_everything(&app, "ben@globex", &others).await;
    let (of_acme, of_globex) = (format!("{acme}:*"), format!("{}:*", app.user("ben@globex").tenant.unwrap()));
    let (theirs, ours) = (keys(&app, &of_acme).await, keys(&app, &of_globex).await);
    assert_eq!((theirs.len(), ours.len()), (5, 5), "{theirs:?} {ours:?}");
    let superuser = superuser(&app).await;
    let before = rows(&superuser).await;
    let names = [acme.to_string(), words_of("ben@acme"), words_of("ada@acme")];
    assert!(naming(&superuser, &names).await.len() > 15, "or this test finds nothing");

    let mut sockets = Vec::new();
    for handle in ["ben@acme", "ada@acme", "root"] {
        sockets.push((handle, app.socket(handle, &bens).await.unwrap()));
    }
    let mut stays = app.socket("ben@globex", &others).await.unwrap();
    let redis = app.setting.redis.url(User::Admin);
    let acme_text = acme.to_string();
    let wrong = admin(&app, &redis, &["erase-tenant", &acme_text, "--name", "globex"]).await;
    assert!(!wrong.status.success());
    assert_eq!(rows(&superuser).await["web_conversations"], before["web_conversations"], "nothing was done");

    let began = Instant::now();
    let command = ["erase-tenant", &acme_text, "--name", "acme"];
    let erasing = admin(&app, &redis, &command);
    let putting_out = async {
        for (handle, socket) in &mut sockets {
            assert_eq!(socket.closed().await.unwrap(), Some(4403), "{handle}");
        }
        began.elapsed()
    };
    let (done, took) = tokio::join!(erasing, putting_out);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(took < OUT, "put out after {took:?}");
    let told = String::from_utf8(done.stdout).unwrap();
    for line in ["tenants 1", "web_conversations 1", "web_conversation_messages 3", "turns 2", "agents 2"] {
        assert!(told.lines().any(|said| said == line), "{line} in:\n{told}");
    }

    assert_eq!(naming(&superuser, &names).await, Vec::<String>::new());
    let after = rows(&superuser).await;
    assert_eq!(without(before, &names), but_the_note(after), "the other's rows, and the people's");
    assert_eq!(keys(&app, &of_acme).await, Vec::<String>::new());
    let mut left = keys(&app, &of_globex).await;
    left.retain(|key| ours.contains(key));
    assert_eq!(left.len(), ours.len());
    stays.message("still here", None).await.unwrap();
    stays.until("accepted").await.unwrap();
    assert_eq!(app.rest("ben@acme").get(&format!("/conversations?tenant_id={acme}")).await.unwrap().status, 403);

    // Once more: nothing to delete, and Redis is looked through again.
    unbound(&app).set(&ratelimit_key(acme, app.user("ben@acme").id), "1", OUT).await.unwrap();
    let again = admin(&app, &redis, &command).await;
    assert!(again.status.success() && again.stdout.is_empty(), "{again:?}");
    assert_eq!(keys(&app, &of_acme).await, Vec::<String>::new());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn an_erased_person_is_named_nowhere_and_what_is_others_stays() {
    let app = App::start().await.unwrap();
    let [bens, _] = filled(&app).await;
    let superuser = superuser(&app).await;
    keep_everything(&app, "ben@acme", &bens).await;
    let (ada, ben) = (app.user("ada@acme"), app.user("ben@acme"));
    let mut adas = app.socket("ada@acme", &bens).await.unwrap();
    let mut own = app.socket("ben@acme", &bens).await.unwrap();

    // Who has answered somebody else: the answer is that person's, and by nobody.
    let names = [ada.id.to_string(), "ada@acme.example".to_owned()];
    assert!(naming(&superuser, &names).await.len() > 8, "or this test finds nothing");
    let before = without(rows(&superuser).await, &names);
    let began = Instant::now();
    let (done, closed) =
        tokio::join!(erased(&app, Whom::User(ada.id), "ada@acme.example"), async { adas.closed().await.unwrap() });
    let () = done;
    assert_eq!(closed, Some(4403));
    assert!(began.elapsed() < OUT + hurried().lease);
    assert_eq!(naming(&superuser, &names).await, Vec::<String>::new());
    let mut after = but_the_note(rows(&superuser).await);
    for (table, rows) in &before {
        let left = after.get_mut(table).unwrap();
        for row in rows {
            let place = left.iter().position(|other| other == row).unwrap_or_else(|| panic!("{table} lost {row}"));
            left.remove(place);
        }
        let nobodys = left.iter().all(|row| {
            row.contains("00000000-0000-0000-0000-000000000000") || row.contains("user.changed") || row.contains(&bens)
        });
        assert!(nobodys, "{table} has {left:?}");
    }
    let answer = "select author_id::text from web_conversation_messages where content = $1";
    let author: String = superuser.query_one(answer, &[&words_of("ada@acme")]).await.unwrap().get(0);
    assert_eq!(author, "00000000-0000-0000-0000-000000000000");
    let waits = "select taken_by is null and tell_at is not null from web_conversations where id = $1::text::uuid";
    assert!(superuser.query_one(waits, &[&bens]).await.unwrap().get::<_, bool>(0), "it waits for a person again");

    // Whose conversation it is: it goes, with all that was said in it.
    let names = [ben.id.to_string(), "ben@acme".to_owned(), words_of("ada@acme"), bens.clone()];
    let before = without(rows(&superuser).await, &names);
    let (done, closed) =
        tokio::join!(erased(&app, Whom::User(ben.id), "ben@acme.example"), async { own.closed().await.unwrap() });
    let () = done;
    assert!(matches!(closed, Some(4401 | 4403)), "{closed:?}");
    let left = naming(&superuser, &names).await;
    assert!(left.iter().all(|place| place.starts_with("audit_events.subject_id")), "{left:?}");
    let after = without(rows(&superuser).await, &[bens]);
    for (table, rows) in &before {
        assert!(rows.iter().all(|row| after[table].contains(row)), "{table} lost a row of somebody else");
    }
    assert_eq!(keys(&app, &format!("*{}*", ben.id)).await, Vec::<String>::new());
    assert_eq!(app.rest("ben@acme").get("/conversations").await.unwrap().status, 401);
    app.finish().await.unwrap();
}

/// A reply of ben's that is being written; and the socket that hears it.
async fn being_written(app: &App, dictation: &crate::streaming::Dictation) -> (String, Socket) {
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message(&words_of("ben@acme"), None).await.unwrap();
    dictation.say("It goes ");
    socket.until("delta").await.unwrap();
    (conversation, socket)
}

#[tokio::test]
async fn a_reply_that_is_being_written_is_dropped_and_leaves_nothing() {
    let (app, dictations) = dictated(2, |setting| setting.times = hurried()).await;
    let superuser = superuser(&app).await;
    let (ben, names) = (app.user("ben@acme"), [words_of("ben@acme"), "It goes".to_owned()]);
    let (tenant, all) = (ben.tenant.unwrap(), format!("{}:*", ben.tenant.unwrap()));

    let (_, mut socket) = being_written(&app, &dictations[0]).await;
    let writing = async {
        // A provider that goes on and on, until nobody listens any more.
        until("the call to be given up", || async {
            if !dictations[0].given_up() {
                dictations[0].say("on ");
            }
            Ok(dictations[0].given_up())
        })
        .await
        .unwrap();
    };
    tokio::join!(erased(&app, Whom::User(ben.id), "ben@acme.example"), writing);
    // As one who may not any more, or, if it looked as late as that, as one whom nobody knows.
    let closed = socket.closed().await.unwrap();
    assert!(matches!(closed, Some(4401 | 4403)), "{closed:?}");
    assert_eq!(naming(&superuser, &[ben.id.to_string()]).await, Vec::<String>::new());
    assert_eq!(naming(&superuser, &names).await, Vec::<String>::new());
    until("no key to be left", || async { Ok(keys(&app, &all).await.is_empty()) }).await.unwrap();

    // The same for a company, and its spending is not written down after it.
    let ada = app.conversation("ada@acme").await.unwrap();
    let mut socket = app.socket("ada@acme", &ada).await.unwrap();
    socket.message("hello", None).await.unwrap();
    dictations[1].say("It goes ");
    socket.until("delta").await.unwrap();
    tokio::join!(erased(&app, Whom::Tenant(tenant), "acme"), async {
        until("the call to be given up", || async { Ok(dictations[1].given_up()) }).await.unwrap();
    });
    assert_eq!(socket.closed().await.unwrap(), Some(4403));
    until("no key to be left", || async { Ok(keys(&app, &all).await.is_empty()) }).await.unwrap();
    assert_eq!(naming(&superuser, &[tenant.to_string()]).await, Vec::<String>::new());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn what_the_queue_still_holds_of_an_erased_company_wakes_nobody_and_leaves_no_row() {
    let stage: Stage = stage(well, |_| {}).await;
    let (app, superuser) = (&stage.app, superuser(&stage.app).await);
    let ben = app.user("ben@acme");
    let conversation = app.conversation("ben@acme").await.unwrap();
    erased(app, Whom::Tenant(stage.tenant), "acme").await;

    let web = Job::web(stage.tenant, conversation.parse().unwrap(), ben.id, TurnId::new());
    let mut nowhere = web.clone();
    nowhere.extras.conversation_id = None;
    let (slack, whatsapp) = (stage.slack("1", "hello"), stage.whatsapp("2", "hello"));
    assert_eq!(
        stage.deliver(&[&slack, &whatsapp, &serde_json::from_str(&web.body()).unwrap()]).await,
        0,
        "all are done"
    );
    let letters = [slack.to_string(), web.body(), nowhere.body(), json!({"tenant_id": stage.tenant}).to_string()];
    let letters = letters.iter().enumerate().map(|(id, body)| record(&id.to_string(), body)).collect();
    assert!(app.product.dead_letters.handle(event(letters)).await.batch_item_failures.is_empty());
    assert_eq!(naming(&superuser, &[stage.tenant.to_string()]).await, Vec::<String>::new());
    // Nor does a worker that was still at it write down what that took, or begin another call.
    let payer =
        Payer { tenant: stage.tenant, agent: stage.agent, turn: TurnId::new(), attempt: 1, purpose: Purpose::Reply };
    let line = Line {
        model: "large".to_owned(),
        calls: 1,
        input_tokens: 1,
        output_tokens: 1,
        released_tokens: 0,
        reserved_tokens: 0,
    };
    let store = &app.product.orchestrator.store;
    store.settle(stage.tenant, &Bill::new(&payer, vec![line], None)).await.unwrap();
    assert_eq!(store.reserve(&payer, "large", 1).await.unwrap_err().code(), Code::OverBudget);
    assert_eq!(naming(&superuser, &[stage.tenant.to_string()]).await, Vec::<String>::new());
    assert!(stage.talker.asked.lock().unwrap().is_empty(), "no model was asked");
    assert_eq!(stage.shown(), Vec::<String>::new());
    stage.app.finish().await.unwrap();
}

#[tokio::test]
async fn without_redis_the_facts_are_gone_and_it_is_said_what_is_left() {
    let app = App::start().await.unwrap();
    let [bens, _] = filled(&app).await;
    let acme = app.user("ben@acme").tenant.unwrap().to_string();
    keep_everything(&app, "ben@acme", &bens).await;
    let nobody = format!("redis://127.0.0.1:{}", harness::services::free_port().unwrap());
    let done = admin(&app, &nobody, &["erase-tenant", &acme, "--name", "acme"]).await;
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("Redis did not answer") && said.contains("168 h"), "{said}");
    assert_eq!(naming(&superuser(&app).await, std::slice::from_ref(&acme)).await, Vec::<String>::new());
    let done = admin(&app, &app.setting.redis.url(User::Admin), &["erase-tenant", &acme, "--name", "acme"]).await;
    assert!(done.status.success());
    assert_eq!(keys(&app, &format!("{acme}:*")).await, Vec::<String>::new());
    app.finish().await.unwrap();
}

#[tokio::test]
async fn the_doors_are_shut_before_anything_is_deleted_and_what_slips_in_goes_along() {
    let app = App::start().await.unwrap();
    let ben = app.user("ben@acme");
    let (acme, agent) = (ben.tenant.unwrap(), app.agent_of(ben).id);
    let conversation = app.conversation("ben@acme").await.unwrap();
    let superuser = superuser(&app).await;
    let mut owner = Owner::connect(&Secret::from(app.owner_url.clone())).await.unwrap();
    let whom = Whom::Tenant(acme);
    let rows = owner.shut(whom, "acme").await.unwrap();
    let said = app.rest("ben@acme").say(&conversation, &ClientMessageId::new().to_string(), "late").await.unwrap();
    assert_eq!(said.status, 404, "a member comes in no more");
    let open = json!({"tenant_id": acme, "agent_id": agent});
    assert_eq!(app.rest("root").post("/conversations", &open).await.unwrap().status, 404, "nobody begins anything");

    while owner.erase_some(whom).await.unwrap().is_some() {}
    let slips_in = format!(
        "with c as (insert into web_conversations (id, tenant_id, agent_id, user_id)
                    values (gen_random_uuid(), '{acme}', '{agent}', '{}') returning id)
         insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
         select gen_random_uuid(), c.id, '{acme}', 1, 0, 'user', 'late' from c",
        ben.id
    );
    superuser.batch_execute(&slips_in).await.unwrap();
    owner.erase_rest(whom, "acme", rows).await.unwrap();
    assert_eq!(naming(&superuser, &[acme.to_string()]).await, Vec::<String>::new());
    let too_late = superuser.batch_execute(&slips_in).await.unwrap_err();
    assert_eq!(too_late.code().unwrap().code(), "23503", "and what comes later finds nothing to belong to");
    owner.close().await.unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_large_company_goes_in_steps_while_others_talk() {
    let app = App::with(|setting| setting.queue = QueueKind::Local(None)).await.unwrap();
    let acme: TenantId = app.user("ben@acme").tenant.unwrap();
    let ben = app.user("ben@acme").id;
    let many = format!(
        "with a as (insert into agents (id, tenant_id, name) select gen_random_uuid(), '{acme}', 'n' from generate_series(1, 500) returning id),
         c as (insert into web_conversations (id, tenant_id, agent_id, user_id, last_seq)
               select gen_random_uuid(), '{acme}', a.id, '{ben}', 40 from a returning id)
         insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
         select gen_random_uuid(), c.id, '{acme}', s, 0, 'user', repeat('word ', 20) from c, generate_series(1, 40) s"
    );
    let owner = app.owner().await.unwrap();
    owner.batch_execute(&many).await.unwrap();
    let conversation = app.conversation("ben@globex").await.unwrap();
    let mut socket = app.socket("ben@globex", &conversation).await.unwrap();
    let talking = async {
        for _ in 0..20 {
            socket.message("hello", Some(&ClientMessageId::new().to_string())).await.unwrap();
            socket.until("response").await.unwrap();
        }
    };
    tokio::join!(erased(&app, Whom::Tenant(acme), "acme"), talking);
    assert_eq!(naming(&superuser(&app).await, &[acme.to_string()]).await, Vec::<String>::new());
    app.finish().await.unwrap();
}
