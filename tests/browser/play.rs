//! What scenes have in common: a product with a model that can be dictated to, and what people do at the page, in words.

use std::sync::Arc;

use anyhow::Result;
use futures::future::LocalBoxFuture;
use harness::{
    app::App,
    browser::{self, Browser, Key, Player},
    product::Setting,
};
use orchestrator::model::Model;

/// Plays a scene in a product, and then waits for all of its turns to end.
pub(crate) fn scene<'a, T: 'a>(
    name: &'a str,
    set: impl Future<Output = Result<(App, T)>> + 'a,
    play: impl AsyncFnOnce(&mut Browser, &App, &T) -> Result<()> + 'a,
) -> LocalBoxFuture<'a, ()> {
    let played = async move |browser: &mut Browser| {
        let (app, besides) = set.await?;
        match play(browser, &app, &besides).await {
            Ok(()) => app.finish().await,
            // Here, since a product that is dropped unfinished would fail with another word.
            Err(error) => panic!("{name}: {error:?}"),
        }
    };
    Box::pin(browser::scene(name, played))
}

/// Where one writes.
pub(crate) const FIELD: &str = ".composer textarea";

/// What is said, in its order.
pub(crate) const SAID: &str = ".message .body";

/// A product with a portal and a player.
pub(crate) async fn stage() -> Result<(App, Arc<Player>)> {
    stage_with(|_| {}).await
}

/// One whose setting `change` has had a hand in.
pub(crate) async fn stage_with(change: impl FnOnce(&mut Setting)) -> Result<(App, Arc<Player>)> {
    let player = Arc::new(Player::default());
    let app = App::with_portal(|setting| {
        setting.model = Arc::clone(&player) as Arc<dyn Model>;
        change(setting);
    })
    .await?;
    Ok((app, player))
}

/// Signs in, and starts a chat with the first agent there is.
pub(crate) async fn start(browser: &Browser, app: &App, handle: &str) -> Result<()> {
    browser.sign_in(app, handle).await?;
    browser.click("[data-does=new]").await?;
    browser.click(".agents li:first-child button").await?;
    browser.until(FIELD).await
}

/// Signs in, and opens the chat that is first in the list.
pub(crate) async fn open(browser: &Browser, app: &App, handle: &str) -> Result<()> {
    browser.sign_in(app, handle).await?;
    browser.click(".conversations li:first-child a").await?;
    browser.until(FIELD).await
}

/// Writes something and sends it.
pub(crate) async fn say(browser: &Browser, text: &str) -> Result<()> {
    browser.write(FIELD, text).await?;
    browser.press(&[Key::Enter]).await
}

/// What is stored of a person's conversation, in its order.
pub(crate) async fn stored(app: &App, handle: &str) -> Vec<String> {
    let rows = "select m.content from web_conversation_messages m join web_conversations c on c.id = m.conversation_id
        where c.user_id = $1 order by m.seq";
    let rows = app.owner().await.unwrap().query(rows, &[&app.user(handle).id]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
