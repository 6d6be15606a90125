//! When the connection breaks: nothing is lost, nothing is there twice.

use std::time::Duration;

use harness::{
    app::{App, until},
    browser::Browser,
    cache,
    hub_process::{HubProcess, environment},
    lambda::binaries,
    product::QueueKind,
    pump::create_queue,
    services::{Options, Services, free_port},
};

use crate::play::{FIELD, SAID, say, scene, stage, stage_with, start, stored};

#[tokio::test]
async fn what_is_said_while_the_hub_is_gone_arrives_once() {
    let set = async {
        // Services of its own, since a queue that another process reaches needs one more.
        let mut queues = Services::start(&Options { durable: false, max_connections: 10 }, &|_| {}).await?;
        let endpoint = queues.start_sqs(&cache(), &|_| {}).await?.endpoint();
        let queue = create_queue(&endpoint, "browser").await?;
        let hub_at = format!("127.0.0.1:{}", free_port()?);
        let (app, _) = stage_with(|setting| {
            setting.queue = QueueKind::Sqs(queue);
            setting.allowed_origins.push(format!("http://{hub_at}"));
            setting.local_portal.as_mut().unwrap().hub = Some(format!("http://{hub_at}"));
        })
        .await?;
        Ok((app, (queues, hub_at)))
    };
    scene("hub", set, async |browser, app, (_queues, hub_at)| {
        let program = binaries().await?.join("hub");
        let mut env = environment(&app.setting)?;
        env.push(("LISTEN", hub_at.clone()));
        // A portal, REST and a hub, each with an origin of its own.
        env.push(("PORTAL_HOSTS", app.product.rest()));
        env.push(("PORTAL_REST_URL", app.product.rest()));
        let mut hub = HubProcess::start(&program, &env).await?;
        start(browser, app, "ben@acme").await?;
        say(browser, "before").await?;
        browser.until_texts(SAID, &["before", "re: before"]).await?;

        // It does not hear this any more, and then it is dead.
        hub.signal("STOP")?;
        say(browser, "into the dark").await?;
        browser.until(".message.mine[data-state=sending]").await?;
        hub.signal("KILL")?;
        hub.exit().await?;
        browser.until(".banner[data-kind=bad]").await?;
        say(browser, "meanwhile").await?;
        browser.until_texts(".message.mine .body", &["before", "into the dark", "meanwhile"]).await?;
        let _hub = HubProcess::start(&program, &env).await?;
        let all = ["before", "re: before", "into the dark", "meanwhile"];
        settled(browser, app, &all).await?;
        browser.until_gone(".banner[data-kind=bad]").await?;
        Ok(())
    })
    .await;
}

/// Waits until these have been said, each once and in this order, with an answer to each; in the store and on the page.
async fn settled(browser: &Browser, app: &App, said: &[&str]) -> anyhow::Result<()> {
    let own: Vec<&str> = said.iter().copied().filter(|text| !text.starts_with("re: ")).collect();
    until("an answer to each", || async { Ok(stored(app, "ben@acme").await.len() == own.len() * 2) }).await?;
    let all = stored(app, "ben@acme").await;
    let (answers, mine): (Vec<&str>, Vec<&str>) =
        all.iter().map(String::as_str).partition(|text| text.starts_with("re: "));
    assert_eq!(mine, own);
    assert_eq!(answers, own.iter().map(|text| format!("re: {text}")).collect::<Vec<_>>());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    browser.until_texts(SAID, &all).await
}

#[tokio::test]
async fn who_is_offline_goes_on_writing_and_is_heard_once_when_they_are_back() {
    scene("offline", stage(), async |browser, app, player| {
        start(browser, app, "ben@acme").await?;
        let dictation = player.dictation();
        say(browser, "dictate").await?;
        dictation.say("While you");
        browser.until_texts(".message.streaming .body", &["While you"]).await?;
        browser.offline(true).await?;
        browser.until_says(".banner[data-kind=bad]", "offline").await?;
        dictation.say(" were away.");
        dictation.end();
        until("the answer to be stored", || async { Ok(stored(app, "ben@acme").await.len() == 2) }).await?;
        say(browser, "one").await?;
        say(browser, "two").await?;
        browser.until_texts(".message.mine.sending .body", &["one", "two"]).await?;
        assert_eq!(stored(app, "ben@acme").await.len(), 2);
        browser.offline(false).await?;
        browser.until_gone(".banner[data-kind=bad]").await?;
        browser.until_gone(".message.sending").await?;
        until("every answer", || async { Ok(stored(app, "ben@acme").await.len() == 6) }).await?;
        let all = stored(app, "ben@acme").await;
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_eq!(all[..3], ["dictate", "While you were away.", "one"]);
        browser.until_texts(SAID, &all).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_not_sent_is_sent_by_the_page_that_is_loaded_again() {
    scene("unsent", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        browser.offline(true).await?;
        browser.until(".banner[data-kind=bad]").await?;
        say(browser, "do not lose me").await?;
        browser.until_texts(".message.mine.sending .body", &["do not lose me"]).await?;
        browser.offline(false).await?;
        browser.come_again().await?;
        browser.until_texts(SAID, &["do not lose me", "re: do not lose me"]).await?;
        assert_eq!(stored(app, "ben@acme").await, ["do not lose me", "re: do not lose me"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_nobody_notices() {
    let life = Duration::from_secs(5);
    let set = stage_with(|setting| setting.local_portal.as_mut().unwrap().valid = life);
    scene("token", set, async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        browser.out().await?;
        browser.js("window.asked = []; addEventListener('message', ({data}) => asked.push(data.reason))", &[]).await?;
        let renewed = "return asked.filter((reason) => reason === 'refresh').length >= 2";
        browser.until_js("a second renewal", renewed, &[]).await?;
        assert_eq!(
            browser.js("return asked.every((reason) => reason === 'refresh')", &[]).await?,
            true,
            "none was refused"
        );
        browser.enter("iframe").await?;
        say(browser, "still here").await?;
        browser.until_texts(SAID, &["still here", "re: still here"]).await?;
        let sockets = browser.requests().await?.into_iter().filter(|request| request.url.starts_with("ws://")).count();
        assert_eq!(sockets, 1, "the connection stood");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn who_may_not_come_in_any_more_is_told_so() {
    let set = stage_with(|setting| setting.limits.ping_ms = 200);
    scene("put_out", set, async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        say(browser, "hello").await?;
        browser.until_texts(SAID, &["hello", "re: hello"]).await?;
        let owner = app.owner().await?;
        owner.execute("delete from user_tenant_roles where user_id = $1", &[&app.user("ben@acme").id]).await?;
        browser.until_says(".banner[data-kind=bad]", "no longer have access").await?;
        let writable = "return !document.querySelector(arguments[0]).disabled";
        assert_eq!(browser.js(writable, &[FIELD.into()]).await?, false);
        Ok(())
    })
    .await;
}
