//! The main states of the page, one after the other, for whoever wants to look at each.

use std::sync::Arc;

use anyhow::Result;
use orchestrator::model::Model;

use super::{Browser, Key, Player};
use crate::app::{App, until};

/// What an agent writes who can.
const REPLY: &str = "Gladly. There are **three ways**, and the first is the usual one:\n\n\
    1. Order it again from the *last invoice*.\n2. Call [the shop](https://shop.example).\n3. Write to us.\n\n\
    | size | price | in stock |\n|---|---:|:---:|\n| small | 9.50 | yes |\n| large | 14.00 | from Monday |\n\n\
    ```sh\ncurl -s https://shop.example/orders/4711\n```\n\n> Delivery takes two days.";

/// A product to show: with a portal, the player, and agents who call a person when somebody asks for one.
///
/// # Errors
/// What is missing on this machine.
pub async fn stage() -> Result<(App, Arc<Player>)> {
    let player = Arc::new(Player::default());
    let model = Arc::clone(&player) as Arc<dyn Model>;
    let app = App::with_portal(|setting| setting.model = model).await?;
    let rules = r#"[{"condition": "a person", "reason": "asked for a person"}]"#;
    app.owner().await?.execute("update agents set escalation_rules = $1::text::jsonb", &[&rules]).await?;
    Ok((app, player))
}

/// Walks through the states, and has each looked at.
///
/// # Errors
/// If one does not come, and what whoever looks has to say.
pub async fn walk(
    browser: &Browser,
    app: &App,
    player: &Player,
    mut look: impl AsyncFnMut(&Browser, &str) -> Result<()>,
) -> Result<()> {
    let field = ".composer textarea";
    let say = async |text: &str| {
        browser.write(field, text).await?;
        browser.press(&[Key::Enter]).await
    };
    browser.sign_in(app, "ben@acme").await?;
    browser.until(".nothing").await?;
    look(browser, "nobody").await?;
    browser.click("[data-does=new]").await?;
    browser.until("dialog[open] .agent").await?;
    look(browser, "choose").await?;
    browser.click(".agents li:first-child button").await?;
    browser.until(".empty").await?;
    look(browser, "empty").await?;
    let dictation = player.to("Hello");
    dictation.say(REPLY);
    dictation.end();
    say("Hello! Can I have the same again?").await?;
    browser.until(".message.agent.whole table").await?;
    let dictation = player.to("Is the large");
    say("Is the large one there before Friday?").await?;
    browser.until(".dots").await?;
    look(browser, "thinking").await?;
    dictation.say("Let me see what the");
    browser.until(".message.streaming").await?;
    look(browser, "writing").await?;
    dictation.say(" shelf says: **yes**, from Monday on.");
    dictation.end();
    browser.until_gone(".message.streaming").await?;
    browser.until_gone(".composer .stop").await?;
    look(browser, "chat").await?;
    browser.click("[data-does=options]").await?;
    browser.until(".menu").await?;
    look(browser, "menu").await?;
    browser.click(".menu [data-does=reset]").await?;
    browser.until("dialog[open]").await?;
    look(browser, "start_over").await?;
    browser.press(&[Key::Escape]).await?;
    browser.until_gone("dialog").await?;
    browser.write("input[type=search]", "invoice").await?;
    browser.until(".conversations mark").await?;
    look(browser, "search").await?;
    let emptied = "const search = document.querySelector('input[type=search]');
        search.value = ''; search.dispatchEvent(new Event('input'))";
    browser.js(emptied, &[]).await?;
    browser.until_gone(".conversations mark").await?;
    say("fail once").await?;
    browser.until(".message.failed").await?;
    look(browser, "failed").await?;
    browser.offline(true).await?;
    browser.until(".banner[data-kind=bad]").await?;
    say("Are you there?").await?;
    browser.until(".message.sending").await?;
    look(browser, "offline").await?;
    browser.offline(false).await?;
    browser.until_gone(".message.sending").await?;
    browser.until_gone(".banner[data-kind=bad]").await?;
    say("I would like to talk to a person.").await?;
    browser.until(".banner[data-kind=person]").await?;
    look(browser, "escalated").await?;
    inbox(browser, app, &mut look).await?;
    until("every turn to end", || async {
        let open = "select count(*) from turns where state in ('queued', 'running')";
        Ok(app.owner().await?.query_one(open, &[]).await?.get::<_, i64>(0) == 0)
    })
    .await
}

/// The other side of it.
async fn inbox(browser: &Browser, app: &App, look: &mut impl AsyncFnMut(&Browser, &str) -> Result<()>) -> Result<()> {
    browser.out().await?;
    browser.click("#switch").await?;
    browser.until("#people button").await?;
    browser.sign_in(app, "ada@acme").await?;
    browser.click("[data-shows=inbox]").await?;
    browser.until(".conversations a").await?;
    look(browser, "inbox").await?;
    browser.click(".conversations li:first-child a").await?;
    browser.click("[data-does=takeover]").await?;
    browser.until("[data-does=handback]").await?;
    look(browser, "taken_over").await
}
