//! What scenes have in common: a product with a model that can be dictated to, and what people do at the page, in words.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use chat_core::{Code, Error};
use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
    stream::BoxStream,
};
use harness::{
    app::App,
    browser::{self, Browser, Key},
    product::Setting,
};
use orchestrator::model::{Ended, Model, Piece, Prompt, Purse, at_once};

/// Plays a scene in a product, and then waits for all of its turns to end.
pub(crate) async fn scene<T>(
    name: &str,
    set: impl Future<Output = Result<(App, T)>>,
    play: impl AsyncFnOnce(&mut Browser, &App, &T) -> Result<()>,
) {
    browser::scene(name, async |browser| {
        let (app, besides) = set.await?;
        match play(browser, &app, &besides).await {
            Ok(()) => app.finish().await,
            // Here, since a product that is dropped unfinished would fail with another word.
            Err(error) => panic!("{name}: {error:?}"),
        }
    })
    .await;
}

/// Where one writes.
pub(crate) const FIELD: &str = ".composer textarea";

/// What is said, in its order.
pub(crate) const SAID: &str = ".message .body";

/// A model that answers `re: …`. It fails when told to for the first time, and says a dictation when told to.
#[derive(Default)]
pub(crate) struct Player {
    dictations: Mutex<VecDeque<UnboundedReceiver<Piece>>>,
    failed: Mutex<bool>,
}

impl Player {
    /// What it says when it is next told to `dictate`.
    pub(crate) fn dictation(&self) -> Dictation {
        let (says, hears) = unbounded();
        self.dictations.lock().unwrap().push_back(hears);
        Dictation(says)
    }
}

impl Model for Player {
    fn speak<'a>(&'a self, prompt: &'a Prompt, _: &'a dyn Purse) -> BoxStream<'a, chat_core::Result<Piece>> {
        let message = prompt.message();
        if message.starts_with("dictate") {
            let hears = self.dictations.lock().unwrap().pop_front().expect("a dictation for each such message");
            return hears.map(Ok).boxed();
        }
        at_once("player", async move {
            if message == "fail once" && !std::mem::replace(&mut *self.failed.lock().unwrap(), true) {
                return Err(Error::new(Code::ModelFailed, "no answer"));
            }
            Ok(message.strip_prefix("say ").map_or_else(|| format!("re: {message}"), str::to_owned))
        })
    }
}

/// Who tells it.
pub(crate) struct Dictation(UnboundedSender<Piece>);

impl Dictation {
    pub(crate) fn say(&self, words: &str) {
        self.0.unbounded_send(Piece::Text(words.to_owned())).unwrap();
    }

    pub(crate) fn end(self) {
        self.0.unbounded_send(Piece::End(Ended { model: "player".to_owned(), usage: None })).unwrap();
    }
}

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
