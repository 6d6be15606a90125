//! From the portal to the chat, and how the one asks the other who is there.

use serde_json::{Value, json};

use crate::play::{scene, stage};

/// Keeps what a page hears, in the page around the chat.
const LISTEN: &str =
    "window.heard = []; addEventListener('message', ({data, origin}) => heard.push({...data, origin}))";

#[tokio::test]
async fn a_person_is_chosen_and_the_chat_asks_for_their_token() {
    scene("chosen", stage(), async |browser, app, _| {
        browser.visit(&format!("{}/", app.product.rest())).await?;
        browser.until_texts("#people h2", &["THE PLATFORM", "ACME", "GLOBEX"]).await?;
        browser.until_says("#people button", "ada@acme").await?;
        browser.open_to_all("the list of people").await?;
        browser.js(LISTEN, &[]).await?;
        browser.click("button[value='ben@acme']").await?;
        browser.until_texts("#who", &["ben@acme"]).await?;
        browser.until("iframe[title=Chat]").await?;
        browser.until_js("the chat to ask for a token", "return heard.length > 0", &[]).await?;
        let heard = browser.js("return heard[0]", &[]).await?;
        let asked = json!({"type": "konstruct:token?", "reason": "start", "origin": app.product.rest()});
        assert_eq!(heard, asked);
        let kept = browser.js("return Object.entries({...sessionStorage, ...localStorage})", &[]).await?;
        let kept: Vec<(String, String)> = serde_json::from_value(kept)?;
        assert!(kept.iter().any(|(_, value)| value == "ben@acme"), "{kept:?}");
        assert!(kept.iter().all(|(_, value)| !value.contains("eyJ")), "a token is kept nowhere: {kept:?}");

        browser.click("#switch").await?;
        browser.until("#people").await?;
        assert_eq!(browser.js("return sessionStorage.length", &[]).await?, Value::from(0));
        for request in browser.requests().await? {
            let ours = request.url.split_once("://").is_some_and(|(_, rest)| rest.starts_with("127.0.0.1:"));
            assert!(ours, "{}", request.url);
            assert!(!request.url.contains("eyJ"), "a token in an address: {}", request.url);
        }
        Ok(())
    })
    .await;
}
