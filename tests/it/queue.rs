//! The SQS path, against a real SQS-compatible server whose behaviour is probed first.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chat_core::{
    Error, Result,
    config::Times,
    dispatch::Dispatcher,
    ids::{ClientMessageId, ConversationId, TenantId, TurnId, UserId},
    job::Job,
    queue::{Queue, Sqs},
    store::sweep::Pace,
};
use futures::future::BoxFuture;
use harness::{
    app::App,
    cache,
    product::{QueueKind, sqs_client},
    pump::create_queue,
    services::{Options, Services},
};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::{Mutex, watch},
};
use tokio_util::sync::CancellationToken;

/// One server for these tests, started by the first.
static SERVICES: Mutex<Option<Services>> = Mutex::const_new(None);

pub(crate) async fn endpoint() -> String {
    let mut services = SERVICES.lock().await;
    let running = match services.take() {
        Some(running) => running,
        None => Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await.unwrap(),
    };
    let running = services.insert(running);
    running.start_sqs(&cache(), &|_| {}).await.unwrap().endpoint()
}

#[tokio::test]
async fn the_server_behaves_as_a_standard_queue_does() {
    let endpoint = endpoint().await;
    let address = create_queue(&endpoint, "probe").await.unwrap();
    let (client, url) = (sqs_client(&endpoint), address.queue_url);
    let receive = async |wait: i32| {
        let call = client.receive_message().queue_url(&url).max_number_of_messages(10).wait_time_seconds(wait);
        call.visibility_timeout(1).send().await.unwrap().messages.unwrap_or_default()
    };
    let jobs: Vec<Job> =
        (0..25).map(|_| Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new())).collect();
    Sqs::new(client.clone(), url.clone()).send(&jobs).await.unwrap();

    // More than one call takes; each body arrives as it was sent, and hides while it is worked on.
    let mut bodies = HashSet::new();
    let mut kept = None;
    while bodies.len() < 25 {
        for message in receive(5).await {
            assert!(bodies.insert(message.body.unwrap()), "came twice while it was hidden");
            let handle = message.receipt_handle.unwrap();
            if kept.is_none() {
                kept = Some(handle);
            } else {
                client.delete_message().queue_url(&url).receipt_handle(handle).send().await.unwrap();
            }
        }
    }
    assert_eq!(bodies, jobs.iter().map(Job::body).collect());
    // What is not deleted comes again, and after maxReceiveCount is a dead letter.
    for _ in 0..4 {
        assert_eq!(receive(5).await.len(), 1);
    }
    harness::app::until("the dead letter", || async {
        assert_eq!(receive(1).await.len(), 0);
        let dead = client.receive_message().queue_url(url.replace("probe", "probe-dead")).send().await?;
        Ok(dead.messages.is_some_and(|messages| messages.len() == 1))
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_chat_over_sqs_is_answered() {
    let address = create_queue(&endpoint().await, "chat").await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(address.clone())).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    for text in ["one", "two", "three"] {
        socket.message(text, None).await.unwrap();
    }
    for text in ["one", "two", "three"] {
        assert_eq!(socket.until("response").await.unwrap()["text"], format!("Echo: {text}"));
    }
    // Nothing is left in the queue to come again.
    let client = sqs_client(&address.endpoint);
    harness::app::until("an empty queue", || async {
        use aws_sdk_sqs::types::QueueAttributeName::{
            ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible,
        };
        let names = [ApproximateNumberOfMessages, ApproximateNumberOfMessagesNotVisible];
        let counts =
            client.get_queue_attributes().queue_url(&address.queue_url).set_attribute_names(Some(names.into()));
        Ok(counts.send().await?.attributes.unwrap_or_default().values().all(|count| count == "0"))
    })
    .await
    .unwrap();
    app.finish().await.unwrap();
}

#[tokio::test]
async fn a_malformed_record_fails_alone_and_the_others_are_deleted() {
    let address = create_queue(&endpoint().await, "mixed").await.unwrap();
    let client = sqs_client(&address.endpoint);
    client.send_message().queue_url(&address.queue_url).message_body("not a job").send().await.unwrap();
    let app = App::with(|setting| setting.queue = QueueKind::Sqs(address.clone())).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    socket.message("hello", None).await.unwrap();
    socket.until("response").await.unwrap();
    harness::app::until("the bad one alone to stay", || async {
        use aws_sdk_sqs::types::QueueAttributeName::ApproximateNumberOfMessagesNotVisible as Hidden;
        let hidden = client.get_queue_attributes().queue_url(&address.queue_url).attribute_names(Hidden).send().await?;
        Ok(hidden.attributes.unwrap_or_default().remove(&Hidden).as_deref() == Some("1"))
    })
    .await
    .unwrap();
    tokio::time::timeout(Duration::from_secs(20), app.finish()).await.unwrap().unwrap();
}

/// A line to a server that can be cut: then connections end, and new ones end at once.
struct Line {
    address: SocketAddr,
    cut: watch::Sender<bool>,
}

impl Line {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, is_cut) = watch::channel(false);
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut is_cut = is_cut.clone();
                tokio::spawn(async move {
                    let pass = async { copy_bidirectional(&mut client, &mut TcpStream::connect(server).await?).await };
                    tokio::select! {
                        biased;
                        _ = is_cut.wait_for(|cut| *cut) => {}
                        _ = pass => {}
                    }
                });
            }
        });
        Self { address, cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

#[tokio::test]
async fn without_the_queue_messages_are_accepted_up_to_a_bound_and_answered_in_order_when_it_is_back() {
    const CONVERSATIONS: usize = 4;
    const EACH: usize = 5;
    let endpoint = endpoint().await;
    let line = Line::to(endpoint.trim_start_matches("http://").parse().unwrap()).await;
    let mut address = create_queue(&endpoint, "away").await.unwrap();
    address.endpoint = format!("http://{}", line.address);
    let app = App::with(|setting| {
        setting.queue = QueueKind::Sqs(address);
        setting.limits.unsent_hints = CONVERSATIONS * EACH;
        setting.times.sweep_first = Duration::from_millis(500);
    })
    .await
    .unwrap();
    let mut sockets = Vec::new();
    for handle in ["ada@acme", "ben@acme", "ada@globex", "ben@globex"] {
        let conversation = app.conversation(handle).await.unwrap();
        let mut socket = app.socket(handle, &conversation).await.unwrap();
        // What is cut is a line that was in use. By REST, so that this hub has given no hint of its own yet.
        let key = ClientMessageId::new().to_string();
        app.rest(handle).say(&conversation, &key, "before").await.unwrap();
        socket.until("response").await.unwrap();
        sockets.push(socket);
    }

    line.cut(true);
    for number in 0..EACH {
        for socket in &mut sockets {
            socket.message(&number.to_string(), None).await.unwrap();
            socket.until("accepted").await.unwrap();
        }
    }
    let owner = app.owner().await.unwrap();
    let count = async |what: &str| {
        let row = owner.query_one(&format!("select count(*) from turns where {what}"), &[]).await.unwrap();
        usize::try_from(row.get::<_, i64>(0)).unwrap()
    };
    let id = ClientMessageId::new().to_string();
    sockets[0].message("one too many", Some(&id)).await.unwrap();
    let error = sockets[0].next().await.unwrap();
    assert_eq!((&error["code"], &error["client_message_id"]), (&json!("unavailable"), &json!(id)), "{error}");
    assert!(error["retry_after_ms"].is_u64());
    // The sweep has tried each of the first in line, and nothing reaches anybody.
    harness::app::until("sweeps", || async {
        Ok(count("state = 'queued' and waiting_since is not null").await == CONVERSATIONS)
    })
    .await
    .unwrap();
    assert_eq!(count("state = 'queued'").await, CONVERSATIONS * EACH);

    line.cut(false);
    for socket in &mut sockets {
        for number in 0..EACH {
            assert_eq!(socket.until("response").await.unwrap()["text"], format!("Echo: {number}"));
        }
    }
    sockets[0].message("one too many", Some(&id)).await.unwrap();
    let accepted = sockets[0].until("accepted").await.unwrap();
    assert_eq!((&accepted["client_message_id"], &accepted["duplicate"]), (&json!(id), &json!(false)));
    assert_eq!(sockets[0].until("response").await.unwrap()["text"], "Echo: one too many");
    assert_eq!(count("state = 'answered'").await, CONVERSATIONS * (EACH + 1) + 1);
    let replies = "select count(*) from web_conversation_messages where role = 'assistant'";
    let replies: i64 = owner.query_one(replies, &[]).await.unwrap().get(0);
    assert_eq!(usize::try_from(replies).unwrap(), CONVERSATIONS * (EACH + 1) + 1, "one each");
    app.finish().await.unwrap();
}

/// A queue that takes hints when it is let.
#[derive(Default)]
struct Moody {
    /// So many more.
    room: AtomicUsize,
    taken: AtomicUsize,
    refused: AtomicUsize,
}

impl Queue for Moody {
    fn send<'a>(&'a self, jobs: &'a [Job]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let left = self.room.load(Ordering::SeqCst).checked_sub(jobs.len());
            let Some(left) = left else {
                self.refused.fetch_add(jobs.len(), Ordering::SeqCst);
                return Err(Error::unavailable("not in the mood"));
            };
            self.room.store(left, Ordering::SeqCst);
            self.taken.fetch_add(jobs.len(), Ordering::SeqCst);
            Ok(())
        })
    }
}

#[tokio::test]
async fn a_hint_that_the_queue_did_not_take_comes_again_soon_and_many_batches_go_out_at_once() {
    const TURNS: i64 = 250;
    const HOUR: Duration = Duration::from_secs(3_600);
    const ALL: usize = usize::MAX;
    // Nothing else sweeps here.
    let app = App::with(|setting| {
        setting.queue = crate::turns::silent();
        (setting.times.sweep_first, setting.times.sweep_longest) = (HOUR, HOUR);
    })
    .await
    .unwrap();
    let owner = app.owner().await.unwrap();
    let agent = app.agent_of(app.user("ben@acme"));
    let fill = format!(
        "insert into portal_users (id, email, display_name, role)
          select gen_random_uuid(), 'user' || n, 'user', 'customer_operator' from generate_series(1, {TURNS}) n;
        insert into web_conversations (id, tenant_id, agent_id, user_id)
          select gen_random_uuid(), '{}', '{}', id from portal_users where email like 'user%';
        insert into turns (id, tenant_id, conversation_id, user_id, seq, epoch, text_sha256)
          select gen_random_uuid(), tenant_id, id, user_id, 1, 0, '' from web_conversations",
        agent.tenant, agent.id
    );
    owner.batch_execute(&fill).await.unwrap();
    let queue = Arc::new(Moody::default());
    let stop = CancellationToken::new();
    let (dispatcher, sending) = Dispatcher::start(Arc::clone(&queue) as Arc<dyn Queue>, stop.clone());
    let store = &app.product.orchestrator.store;
    let hints = async || {
        let row = owner.query_one("select min(hints), max(hints) from turns", &[]).await.unwrap();
        (row.get::<_, i32>(0), row.get::<_, i32>(1))
    };

    // As if the queue had been away for so long that nobody would look again for a minute.
    owner.execute("update turns set hints = 9, hinted_at = now() - interval '61 s'", &[]).await.unwrap();
    let everything = Pace { batch: 10_000, ..Pace::new(&Times::default()) };
    let swept = dispatcher.sweep(store, &everything).await.unwrap();
    assert!(!swept.more && hints().await == (1, 1), "{:?}", hints().await);
    let later = "update turns set hinted_at = hinted_at - interval '6 s'";
    owner.execute(later, &[]).await.unwrap();
    let batches = Pace { batch: 100, ..everything };
    assert!(!dispatcher.sweep(store, &batches).await.unwrap().more, "no second batch while the first does not go out");

    // What it takes before it refuses is hinted, and stays so.
    queue.room.store(100, Ordering::SeqCst);
    owner.execute(later, &[]).await.unwrap();
    assert!(!dispatcher.sweep(store, &everything).await.unwrap().more);
    let twice = owner.query_one("select count(*) from turns where hints = 2", &[]).await.unwrap();
    assert_eq!((twice.get::<_, i64>(0), queue.taken.swap(0, Ordering::SeqCst)), (80, 80), "one part of them");
    owner.execute("update turns set hints = 1", &[]).await.unwrap();

    queue.room.store(ALL, Ordering::SeqCst);
    owner.execute(later, &[]).await.unwrap();
    let mut sweeps = 1;
    while dispatcher.sweep(store, &batches).await.unwrap().more {
        sweeps += 1;
    }
    assert_eq!((sweeps, queue.taken.load(Ordering::SeqCst), hints().await), (3, 250, (2, 2)));

    // A hub with nothing to sweep finds out all the same that the queue is back.
    queue.room.store(0, Ordering::SeqCst);
    let job = Job::web(TenantId::new(), ConversationId::new(), UserId::new(), TurnId::new());
    let refused = queue.refused.load(Ordering::SeqCst);
    for expected in 1..=3 {
        dispatcher.hint(job.clone());
        assert_eq!(dispatcher.unsent(), expected);
    }
    let all_tried = || async { Ok(queue.refused.load(Ordering::SeqCst) >= refused + 3) };
    harness::app::until("each to be tried", all_tried).await.unwrap();
    queue.room.store(ALL, Ordering::SeqCst);
    harness::app::until("a hint to be taken", || async { Ok(dispatcher.unsent() == 0) }).await.unwrap();
    stop.cancel();
    sending.await.unwrap();
    owner.execute("delete from turns", &[]).await.unwrap();
    app.finish().await.unwrap();
}
