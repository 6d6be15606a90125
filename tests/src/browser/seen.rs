//! What is to be seen, waited for.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::Browser;
use crate::app;

/// Whether somebody could see an element: it takes room, and nothing hides it.
const VISIBLE: &str =
    "const seen = (one) => one.checkVisibility({visibilityProperty: true}) && one.getClientRects().length > 0;";

impl Browser {
    /// Waits until a script says `true` about the page.
    ///
    /// # Errors
    /// Names what was waited for in vain.
    pub async fn until_js(&self, what: &str, script: &str, args: &[Value]) -> Result<()> {
        app::until(what, || async {
            // While a page goes and another comes there is nothing to ask.
            Ok(self.js(script, args).await.is_ok_and(|said| said == Value::Bool(true)))
        })
        .await
    }

    /// Waits until something is to be seen.
    ///
    /// # Errors
    /// Names it, if it does not come.
    pub async fn until(&self, css: &str) -> Result<()> {
        let script = format!("{VISIBLE} return [...document.querySelectorAll(arguments[0])].some(seen)");
        self.until_js(css, &script, &[json!(css)]).await
    }

    /// Waits until nothing of it is to be seen.
    ///
    /// # Errors
    /// Names it, if it stays.
    pub async fn until_gone(&self, css: &str) -> Result<()> {
        let script = format!("{VISIBLE} return ![...document.querySelectorAll(arguments[0])].some(seen)");
        self.until_js(&format!("the end of {css}"), &script, &[json!(css)]).await
    }

    /// Waits until the texts of what is to be seen there are these, in this order.
    ///
    /// # Errors
    /// Says what there was instead.
    pub async fn until_texts(&self, css: &str, texts: &[&str]) -> Result<()> {
        let waited = app::until(css, || async { Ok(self.texts(css).await.is_ok_and(|seen| seen == texts)) }).await;
        let seen = self.texts(css).await?;
        waited.with_context(|| format!("{css} should say {texts:?} and says {seen:?}"))
    }

    /// Waits until something that is to be seen there says this, among other things.
    ///
    /// # Errors
    /// Says what there was instead.
    pub async fn until_says(&self, css: &str, text: &str) -> Result<()> {
        let says = || async { Ok(self.texts(css).await.is_ok_and(|seen| seen.iter().any(|one| one.contains(text)))) };
        let waited = app::until(css, says).await;
        if waited.is_err() {
            bail!("{css} should say {text:?} and says {:?}", self.texts(css).await?);
        }
        Ok(())
    }

    /// The texts of what is to be seen there, as they are to be seen.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn texts(&self, css: &str) -> Result<Vec<String>> {
        let script = format!(
            "{VISIBLE} return [...document.querySelectorAll(arguments[0])].filter(seen).map((one) => one.innerText.trim())"
        );
        let said = self.js(&script, &[json!(css)]).await?;
        Ok(serde_json::from_value(said)?)
    }

    /// How many there are, seen or not.
    ///
    /// # Errors
    /// If the browser is gone.
    pub async fn count(&self, css: &str) -> Result<u64> {
        let said = self.js("return document.querySelectorAll(arguments[0]).length", &[json!(css)]).await?;
        said.as_u64().context("a number")
    }
}
