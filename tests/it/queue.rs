//! The SQS path, against a real SQS-compatible server whose behaviour is probed first.

use std::{collections::HashSet, time::Duration};

use chat_core::{
    ids::{ConversationId, TenantId, TurnId, UserId},
    job::Job,
    queue::{Queue, Sqs},
};
use harness::{
    app::App,
    cache,
    product::{QueueKind, sqs_client},
    pump::create_queue,
    services::{Options, Services},
};
use tokio::sync::Mutex;

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
