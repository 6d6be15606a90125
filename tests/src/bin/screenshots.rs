//! `cargo screenshots`: the main states of the page as pictures in `docs/page/`, from a running product.

use std::path::Path;

use anyhow::{Context, Result};
use harness::browser::{PHONE, WIDE, gallery, scene};

/// States that are shown on a phone in the dark, too.
const ON_A_PHONE: &[&str] = &["nobody", "chat", "writing", "escalated", "inbox", "taken_over"];

/// States that are shown in the dark on a screen and in the light on a phone, too.
const ALL_WAYS: &[&str] = &["chat", "taken_over"];

#[expect(clippy::print_stdout, reason = "a command that reports")]
#[tokio::main]
async fn main() -> Result<()> {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("tests/ lies in the workspace")?.join("docs/page");
    scene("screenshots", async |browser| {
        let (app, player) = gallery::stage().await?;
        gallery::walk(browser, &app, &player, async |browser, state| {
            for (wanted, ending, window, scheme) in [
                (true, "", WIDE, "light"),
                (ON_A_PHONE.contains(&state), "_phone", PHONE, "dark"),
                (ALL_WAYS.contains(&state), "_dark", WIDE, "dark"),
                (ALL_WAYS.contains(&state), "_phone_light", PHONE, "light"),
            ] {
                if !wanted {
                    continue;
                }
                browser.window(window).await?;
                browser.media(scheme, true).await?;
                browser.picture(&folder.join(format!("{state}{ending}.png"))).await?;
                println!("docs/page/{state}{ending}.png");
            }
            browser.window(WIDE).await?;
            browser.media("light", true).await?;
            Ok(())
        })
        .await?;
        app.finish().await
    })
    .await;
    Ok(())
}
