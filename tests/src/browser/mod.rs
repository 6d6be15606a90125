//! A real browser that looks at the page as people do: Chromium through WebDriver, on an address of this machine and nowhere
//! else.
//!
//! [`scene`] gives a test a fresh browser, and a picture of what it showed if it fails. What can be done with it is here;
//! [`seen`] is what can be said about what it shows, [`log`](Browser::complaints) what it says itself, [`axe`] what keeps
//! people out.

mod axe;
mod driver;
pub mod gallery;
mod keys;
mod log;
mod player;
mod seen;
mod stage;

use std::{
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::{OnceCell, Semaphore};

pub use driver::Tab;
use driver::{Driver, Element};
pub use keys::Key;
pub use player::{Dictation, Player};

use crate::{
    app,
    services::{Chromedriver, explained},
};

/// Browsers at a time: each is a dozen processes.
static SLOTS: Semaphore = Semaphore::const_new(2);

/// The driver of this process. As with the services, the watchdog ends it.
static DRIVER: OnceCell<Option<Chromedriver>> = OnceCell::const_new();

/// A computer's window, and a phone's.
pub const WIDE: (u32, u32) = (1280, 800);
/// A phone's.
pub const PHONE: (u32, u32) = (390, 844);

/// A browser with a profile of its own.
pub struct Browser {
    driver: Driver,
    forgiven: Vec<&'static str>,
}

/// Plays a scene in a fresh browser, if there is one on this machine; whatever it must not say, it has not said.
///
/// # Panics
/// If the scene fails; a picture of the page is in `target/browser/` then.
pub async fn scene(name: &str, play: impl AsyncFnOnce(&mut Browser) -> Result<()>) {
    let driver =
        DRIVER.get_or_try_init(|| async { explained(Chromedriver::start(app::services().await?, &|_| {}).await) });
    let Some(driver) = driver.await.expect("a browser to test with") else { return };
    let _slot = SLOTS.acquire().await.expect("never closed");
    let mut browser = Browser::start(driver).await.expect("a browser");
    let played = AssertUnwindSafe(play(&mut browser)).catch_unwind().await;
    let complaints = browser.complaints().await.unwrap_or_default();
    if !matches!(played, Ok(Ok(()))) || !complaints.is_empty() {
        let picture = pictures().join(format!("{name}.png"));
        let _ = browser.picture(&picture).await;
        let at = browser.js("return location.href", &[]).await.unwrap_or_default();
        eprintln_of(&format!("{name}: what it showed is in {}; at {at}; it said: {complaints:#?}", picture.display()));
    }
    let strangers = browser.strangers().await.unwrap_or_default();
    browser.driver.quit().await.expect("the browser ends");
    match played {
        Ok(played) => played.unwrap_or_else(|error| panic!("{name}: {error:?}")),
        Err(panic) => std::panic::resume_unwind(panic),
    }
    assert!(complaints.is_empty(), "{name}: {complaints:#?}");
    assert!(strangers.is_empty(), "{name}: the page asked others: {strangers:#?}");
}

#[expect(clippy::print_stderr, reason = "the test runner shows it with the failure")]
fn eprintln_of(text: &str) {
    eprintln!("{text}");
}

/// Where pictures of failures lie.
fn pictures() -> PathBuf {
    crate::cache().join("browser")
}

impl Browser {
    async fn start(driver: &Chromedriver) -> Result<Self> {
        let profile = driver.folder().join(format!("profile-{:016x}", rand::random::<u64>()));
        let mut wishes = vec![
            "--headless=new".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-breakpad".to_owned(),
            "--disable-extensions".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--force-color-profile=srgb".to_owned(),
            "--lang=en-US".to_owned(),
            "--accept-lang=en-US".to_owned(),
            // The page shall need nobody but us; whoever it asked would not be found.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        if driver.root() {
            wishes.push("--no-sandbox".to_owned());
        }
        let driver = Driver::start(&driver.url(), driver.browser(), &wishes).await.context("starting a browser")?;
        let browser = Self { driver, forgiven: Vec::new() };
        browser.window(WIDE).await?;
        browser.media("light", false).await?;
        Ok(browser)
    }

    /// Does not fail the scene for what the browser says with this in it.
    pub fn forgive(&mut self, part: &'static str) {
        self.forgiven.push(part);
    }

    /// Goes to an address, and returns when it is loaded with all that is in it.
    ///
    /// # Errors
    /// If there is nothing.
    pub async fn visit(&self, url: &str) -> Result<()> {
        self.driver.post("url", &json!({"url": url})).await?;
        Ok(())
    }

    /// Enters the frame of the page; what is done from here on is done in it.
    ///
    /// # Errors
    /// If there is none.
    pub async fn enter(&self, css: &str) -> Result<()> {
        self.out().await?;
        self.until(css).await?;
        let frame = self.find(css).await?;
        self.driver.post("frame", &json!({"id": frame})).await?;
        Ok(())
    }

    /// Back to the page that is around the frame.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn out(&self) -> Result<()> {
        self.driver.post("frame", &json!({"id": null})).await?;
        Ok(())
    }

    async fn find(&self, css: &str) -> Result<Element> {
        let found = self.driver.post("element", &json!({"using": "css selector", "value": css})).await;
        Ok(serde_json::from_value(found.with_context(|| format!("there is no {css}"))?)?)
    }

    /// Clicks as people do: on what is to be seen, once it is there.
    ///
    /// # Errors
    /// If it does not come, or something else lies over it.
    pub async fn click(&self, css: &str) -> Result<()> {
        self.until(css).await?;
        let element = self.find(css).await?;
        let clicked = self.driver.post(&format!("element/{element}/click"), &json!({})).await;
        clicked.map(drop).with_context(|| format!("clicking {css}"))
    }

    /// Types into a field, once it is there.
    ///
    /// # Errors
    /// If it does not come, or takes nothing.
    pub async fn write(&self, css: &str, text: &str) -> Result<()> {
        self.until(css).await?;
        let element = self.find(css).await?;
        let written = self.driver.post(&format!("element/{element}/value"), &json!({"text": text})).await;
        written.map(drop).with_context(|| format!("writing into {css}"))
    }

    /// Presses keys where the focus is; modifiers are held while the others are pressed.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn press(&self, keys: &[Key]) -> Result<()> {
        let (held, struck): (Vec<Key>, Vec<Key>) = keys.iter().copied().partition(|key| key.is_held());
        let down = |key: &Key| json!({"type": "keyDown", "value": key.sign()});
        let up = |key: &Key| json!({"type": "keyUp", "value": key.sign()});
        let mut actions: Vec<Value> = held.iter().map(down).collect();
        actions.extend(struck.iter().flat_map(|key| [down(key), up(key)]));
        actions.extend(held.iter().map(up));
        self.act(&actions).await
    }

    async fn act(&self, actions: &[Value]) -> Result<()> {
        let keyboard = json!({"type": "key", "id": "keyboard", "actions": actions});
        self.driver.post("actions", &json!({"actions": [keyboard]})).await?;
        Ok(())
    }

    /// Types where the focus is.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn keys(&self, text: &str) -> Result<()> {
        let stroke = |key: char| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key}));
        self.act(&text.chars().flat_map(stroke).collect::<Vec<_>>()).await
    }

    /// Loads the page again, as a person does; one is out of its frames then.
    ///
    /// # Errors
    /// If it does not come.
    pub async fn reload(&self) -> Result<()> {
        self.out().await?;
        self.driver.post("refresh", &json!({})).await?;
        Ok(())
    }

    /// A second tab of the same person, which is the one in front from now on.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn new_tab(&self) -> Result<Tab> {
        let made = self.driver.post("window/new", &json!({"type": "tab"})).await?;
        let tab = serde_json::from_value(made["handle"].clone())?;
        self.switch_to(&tab).await?;
        Ok(tab)
    }

    /// The tab in front.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn tab(&self) -> Result<Tab> {
        Ok(serde_json::from_value(self.driver.get("window").await?)?)
    }

    /// Brings a tab to the front.
    ///
    /// # Errors
    /// If it is closed.
    pub async fn switch_to(&self, tab: &Tab) -> Result<()> {
        self.driver.post("window", &json!({"handle": tab})).await?;
        Ok(())
    }

    /// Runs a script where we are, and returns what it returns. The page's own policy does not hold for it.
    ///
    /// # Errors
    /// What it throws.
    pub async fn js(&self, script: &str, args: &[Value]) -> Result<Value> {
        let said = self.driver.post("execute/sync", &json!({"script": script, "args": args})).await;
        said.with_context(|| format!("running {script:.200}"))
    }

    /// Takes the network away, or gives it back; the page is told, as by a system.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn offline(&self, offline: bool) -> Result<()> {
        let conditions = json!({"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1});
        self.cdp("Network.enable", json!({})).await?;
        self.cdp("Network.emulateNetworkConditions", conditions).await
    }

    /// How large the window is, inside.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn window(&self, (width, height): (u32, u32)) -> Result<()> {
        let mobile = width < 720;
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile});
        self.cdp("Emulation.setDeviceMetricsOverride", size).await?;
        self.cdp("Emulation.setTouchEmulationEnabled", json!({"enabled": mobile})).await
    }

    /// What the person likes: `light` or `dark`, and whether things may move.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn media(&self, scheme: &str, still: bool) -> Result<()> {
        let motion = if still { "reduce" } else { "no-preference" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": motion}]);
        self.cdp("Emulation.setEmulatedMedia", json!({"features": features})).await
    }

    /// Keeps a picture of what is to be seen.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn picture(&self, file: &Path) -> Result<()> {
        std::fs::create_dir_all(file.parent().context("a picture lies in a folder")?)?;
        let picture = self.driver.get("screenshot").await?;
        Ok(std::fs::write(file, STANDARD.decode(picture.as_str().context("a picture")?)?)?)
    }

    /// Says something to the browser itself, in the DevTools protocol.
    async fn cdp(&self, method: &str, params: Value) -> Result<()> {
        let asked = self.driver.post("goog/cdp/execute", &json!({"cmd": method, "params": params})).await;
        asked.with_context(|| format!("asking for {method}"))?;
        Ok(())
    }
}
