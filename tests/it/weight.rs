//! What a socket weighs: a ratio that may not grow unseen.

use std::path::Path;

use harness::{
    app::App,
    bench::{
        crowd::{Crowd, Order},
        idle::join,
        machine::memory,
    },
    hub_process::{HubProcess, environment},
    lambda::binaries,
    product::{QueueKind, Setting, SqsAddress},
};

/// Sockets that are weighed.
const SOCKETS: usize = 2_000;

/// Bytes of a hub's memory for each of them, authenticated and subscribed, all in one conversation, in a build that is not
/// optimized: it was 6,600.
const MOST_BYTES: u64 = 8 * 1024;

#[tokio::test]
async fn two_thousand_sockets_weigh_no_more_than_they_did() {
    let app = App::start().await.unwrap();
    let nowhere = "http://127.0.0.1:9".to_owned();
    let queue =
        SqsAddress { queue_url: format!("{nowhere}/queue"), dead_letters_url: String::new(), endpoint: nowhere };
    let setting = Setting { queue: QueueKind::Sqs(queue), ..app.setting.clone() };
    let hub = HubProcess::start(&binaries().await.unwrap().join("hub"), &environment(&setting).unwrap()).await.unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let entrant = (conversation, app.token(app.user("ben@acme")));
    let mut crowd = Crowd::start(Path::new(env!("CARGO_BIN_EXE_bench"))).unwrap();

    // Whatever a hub needs only once is there.
    let () = crowd.order(&join(&hub.ws(), vec![entrant.clone(); 100], 32)).await.unwrap();
    let before = memory(hub.pid());
    let () = crowd.order(&Order::Leave).await.unwrap();
    let () = crowd.order(&join(&hub.ws(), vec![entrant; SOCKETS], 32)).await.unwrap();
    let each = memory(hub.pid()).saturating_sub(before) / (SOCKETS as u64 - 100);
    assert!(each > 1_000, "{each} bytes: nothing was weighed");
    assert!(each <= MOST_BYTES, "{each} bytes a socket");
    crowd.leave().await.unwrap();
    app.finish().await.unwrap();
}
