//! More than Postgres can do: who would wait too long is told so at once, and everybody else is served.

use chat_core::config::{Metrics, Secret};
use futures::{StreamExt, stream::FuturesUnordered};
use harness::{app::App, clients::http};

/// How many ask at once.
const MANY: usize = 40;

#[tokio::test]
async fn who_would_wait_too_long_is_told_so_at_once() {
    let token = "h7Yk-2mQx_9Zc4Vt1Lp8Rw5Nb3Gd6Fs0";
    let app = App::with(|setting| {
        setting.pool_size = 1;
        setting.metrics = Metrics { token: Some(Secret::from(token.to_owned())) };
    })
    .await
    .unwrap();
    let conversation = app.conversation("ben@acme").await.unwrap();
    let mut socket = app.socket("ben@acme", &conversation).await.unwrap();
    let owner = app.owner().await.unwrap();
    let hold = format!("begin; select from web_conversations where id = '{conversation}' for update");

    // One waits until Postgres itself gives up; so much is a transaction known to take now.
    owner.batch_execute(&hold).await.unwrap();
    socket.message("in vain", None).await.unwrap();
    assert_eq!(socket.until("error").await.unwrap()["code"], "unavailable");

    // The one connection is taken. Most of those who come then are not let into a queue that long.
    socket.message("patient", None).await.unwrap();
    socket.until("typing").await.unwrap();
    let (rest, path) = (app.rest("ben@acme"), format!("/conversations/{conversation}/messages"));
    let asked = (0..MANY).map(|_| rest.get(&path));
    let mut asked: FuturesUnordered<_> = asked.collect();
    for _ in 0..MANY / 2 {
        let answer = asked.next().await.unwrap().unwrap();
        assert_eq!((answer.status, &answer.body["code"]), (503, &"unavailable".into()), "{:?}", answer.body);
        assert_eq!(answer.headers["retry-after"], "2");
    }
    // Operators see that there were such, which asks no database.
    let figures = http().get(format!("{}/metrics", app.product.rest())).bearer_auth(token).send().await.unwrap();
    let figures = figures.text().await.unwrap();
    let told = figures.lines().find_map(|line| line.strip_prefix("chat_pool_turned_away_total "));
    assert!(told.unwrap().parse::<usize>().unwrap() >= MANY / 2, "{figures}");
    // All that was before the message's own time was over: it is stored.
    owner.batch_execute("rollback").await.unwrap();
    socket.until("accepted").await.unwrap();
    let mut served = 0;
    while let Some(answer) = asked.next().await {
        served += usize::from(answer.unwrap().status == 200);
    }
    assert!(served > 0, "whoever was let in is served");
    let after = rest.get(&path).await.unwrap();
    assert_eq!(after.status, 200);
    app.finish().await.unwrap();
}
