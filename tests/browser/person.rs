//! A person answers in the agent's stead: both sides of it.

use crate::play::{FIELD, SAID, say, scene, stage, start};

#[tokio::test]
async fn a_person_takes_over_answers_and_hands_back() {
    scene("person", stage(), async |browser, app, _| {
        let rules = r#"[{"condition": "help", "reason": "asked for help"}]"#;
        app.owner().await?.execute("update agents set escalation_rules = $1::text::jsonb", &[&rules]).await?;
        start(browser, app, "ben@acme").await?;
        say(browser, "help").await?;
        browser.until_says(".banner[data-kind=person]", "A person has been asked to help").await?;
        browser.until(".message.mine[data-state=escalated]").await?;
        let bens = browser.tab().await?;

        let adas = browser.new_tab().await?;
        browser.sign_in(app, "ada@acme").await?;
        browser.until_texts(".tabs .count", &["1"]).await?;
        browser.click("[data-shows=inbox]").await?;
        browser.until_says(".conversations a", "asked for help").await?;
        browser.click(".conversations li:first-child a").await?;
        browser.until_texts(SAID, &["help"]).await?;
        let disabled = "return document.querySelector(arguments[0]).disabled";
        assert_eq!(browser.js(disabled, &[FIELD.into()]).await?, true, "not before she takes over");
        browser.click("[data-does=takeover]").await?;
        browser.until("[data-does=handback]").await?;
        say(browser, "Ada here. What is it?").await?;
        browser.until_texts(SAID, &["help", "Ada here. What is it?"]).await?;

        browser.switch_to(&bens).await?;
        browser.enter("iframe").await?;
        browser.until_texts(SAID, &["help", "Ada here. What is it?"]).await?;
        browser.until_says(".message.theirs.human .who", "A person").await?;
        browser.until_says(".banner[data-kind=person]", "A person has taken over").await?;
        say(browser, "thank you").await?;
        browser.until_texts(SAID, &["help", "Ada here. What is it?", "thank you"]).await?;

        browser.switch_to(&adas).await?;
        browser.enter("iframe").await?;
        browser.until_texts(SAID, &["help", "Ada here. What is it?", "thank you"]).await?;
        browser.click("[data-does=handback]").await?;
        browser.until_gone("[data-does=handback]").await?;

        browser.switch_to(&bens).await?;
        browser.enter("iframe").await?;
        browser.until_gone(".banner[data-kind=person]").await?;
        say(browser, "and you?").await?;
        browser.until_texts(SAID, &["help", "Ada here. What is it?", "thank you", "and you?", "re: and you?"]).await?;
        Ok(())
    })
    .await;
}
