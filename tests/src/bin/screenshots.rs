//! `cargo screenshots`: the main states of the page as pictures in `docs/page/`, from a running product.

use std::path::Path;

use anyhow::{Context, Result};
use harness::browser::{PHONE, WIDE, gallery, scene};

/// States that are shown on a phone in the dark, too.
const ON_A_PHONE: &[&str] = &["nobody", "chat", "writing", "escalated", "inbox", "taken_over"];

#[expect(clippy::print_stdout, reason = "a command that reports")]
#[tokio::main]
async fn main() -> Result<()> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the workspace")?.join("docs/page");
    scene("screenshots", async |browser| {
        let (app, player) = gallery::stage().await?;
        gallery::walk(browser, &app, &player, async |browser, state| {
            browser.media("light", true).await?;
            browser.picture(&folder.join(format!("{state}.png"))).await?;
            println!("docs/page/{state}.png");
            if ON_A_PHONE.contains(&state) {
                browser.window(PHONE).await?;
                browser.media("dark", true).await?;
                browser.picture(&folder.join(format!("{state}_phone.png"))).await?;
                println!("docs/page/{state}_phone.png");
                browser.window(WIDE).await?;
                browser.media("light", true).await?;
            }
            Ok(())
        })
        .await?;
        app.finish().await
    })
    .await;
    Ok(())
}
