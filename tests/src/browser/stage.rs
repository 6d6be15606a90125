//! The chat, as a person of the demo comes to it: through the portal of the local stack.

use anyhow::Result;

use super::Browser;
use crate::app::App;

impl Browser {
    /// Signs in at an app's portal, and enters the chat.
    ///
    /// # Errors
    /// If there is no chat.
    pub async fn sign_in(&self, app: &App, handle: &str) -> Result<()> {
        self.visit(&format!("{}/?as={handle}", app.product.rest())).await?;
        self.enter("iframe").await
    }

    /// Loads the whole again, and enters the chat.
    ///
    /// # Errors
    /// If there is no chat.
    pub async fn come_again(&self) -> Result<()> {
        self.reload().await?;
        self.enter("iframe").await
    }
}
