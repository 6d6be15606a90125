//! Saying something and reading what is answered.

use harness::browser::Key;
use serde_json::json;

use crate::play::{FIELD, SAID, open, say, scene, stage, start, stored};

#[tokio::test]
async fn a_chat_begins_and_goes_on() {
    scene("chat", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        say(browser, "Hello <b>there</b>").await?;
        browser.until_texts(SAID, &["Hello <b>there</b>", "re: Hello there"]).await?;
        browser.until(".message.mine[data-state=answered]").await?;
        assert_eq!(browser.count(".message.mine b").await?, 0, "what a person writes is text");
        say(browser, "say **bold** and `code`\n").await?;
        browser.until_texts(".message.agent strong", &["bold"]).await?;
        browser.until_texts(".message.agent code", &["code"]).await?;
        let all = ["Hello <b>there</b>", "re: Hello <b>there</b>", "say **bold** and `code`", "**bold** and `code`"];
        assert_eq!(stored(app, "ben@acme").await, all);
        browser.until_says(".conversations a", "bold").await?;
        browser.come_again().await?;
        browser
            .until_texts(SAID, &["Hello <b>there</b>", "re: Hello there", "say **bold** and `code`", "bold and code"])
            .await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_reply_is_whole_for_who_loads_the_page_again_while_it_is_written() {
    scene("reload", stage(), async |browser, app, player| {
        start(browser, app, "ben@acme").await?;
        let dictation = player.dictation();
        say(browser, "dictate").await?;
        dictation.say("Once upon");
        browser.until_texts(".message.streaming .body", &["Once upon"]).await?;
        browser.come_again().await?;
        browser.until_texts(".message.streaming .body", &["Once upon"]).await?;
        dictation.say(" a time.");
        browser.until_texts(".message.streaming .body", &["Once upon a time."]).await?;
        dictation.end();
        browser.until(".message.agent.whole").await?;
        browser.until_texts(SAID, &["dictate", "Once upon a time."]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn two_tabs_show_the_same() {
    scene("tabs", stage(), async |browser, app, player| {
        start(browser, app, "ben@acme").await?;
        say(browser, "from the first").await?;
        browser.until_texts(SAID, &["from the first", "re: from the first"]).await?;
        let first = browser.tab().await?;
        let second = browser.new_tab().await?;
        open(browser, app, "ben@acme").await?;
        browser.until_texts(SAID, &["from the first", "re: from the first"]).await?;
        let dictation = player.dictation();
        say(browser, "dictate from the second").await?;
        dictation.say("to both");
        let all = ["from the first", "re: from the first", "dictate from the second", "to both"];
        browser.until_texts(SAID, &all).await?;
        browser.switch_to(&first).await?;
        browser.enter("iframe").await?;
        browser.until_texts(SAID, &all).await?;
        browser.until(".message.streaming").await?;
        dictation.end();
        for tab in [&first, &second] {
            browser.switch_to(tab).await?;
            browser.enter("iframe").await?;
            browser.until(".message:last-child.whole").await?;
            browser.until_texts(SAID, &all).await?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_reply_that_is_stopped_keeps_what_is_written() {
    scene("stop", stage(), async |browser, app, player| {
        start(browser, app, "ben@acme").await?;
        let dictation = player.dictation();
        say(browser, "dictate").await?;
        dictation.say("So far");
        browser.until_texts(".message.streaming .body", &["So far"]).await?;
        browser.click(".composer .stop").await?;
        browser.until(".message.mine[data-state=stopped]").await?;
        browser.until_texts(SAID, &["dictate", "So far"]).await?;
        browser.until_gone(".message.streaming").await?;
        browser.until_gone(".composer .stop").await?;
        say(browser, "and on").await?;
        browser.until_texts(SAID, &["dictate", "So far", "and on", "re: and on"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_not_answered_can_be_said_again() {
    scene("again", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        say(browser, "fail once").await?;
        browser.until(".message.mine[data-state=failed]").await?;
        browser.click("[data-does=again]").await?;
        browser.until_texts(SAID, &["fail once", "fail once", "re: fail once"]).await?;
        assert_eq!(stored(app, "ben@acme").await, ["fail once", "fail once", "re: fail once"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_conversation_that_is_started_over_is_empty_everywhere() {
    scene("reset", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        say(browser, "forget me").await?;
        browser.until_texts(SAID, &["forget me", "re: forget me"]).await?;
        let first = browser.tab().await?;
        browser.new_tab().await?;
        open(browser, app, "ben@acme").await?;
        browser.until_texts(SAID, &["forget me", "re: forget me"]).await?;
        browser.click("[data-does=options]").await?;
        browser.click(".menu [data-does=reset]").await?;
        browser.until("dialog[open]").await?;
        browser.press(&[Key::Escape]).await?;
        browser.until_gone("dialog").await?;
        assert_eq!(stored(app, "ben@acme").await.len(), 2, "only who says so");
        browser.click("[data-does=options]").await?;
        browser.click(".menu [data-does=reset]").await?;
        browser.click("dialog[open] button[type=submit]").await?;
        browser.until(".empty").await?;
        browser.until_gone(".message").await?;
        assert!(stored(app, "ben@acme").await.is_empty());
        say(browser, "anew").await?;
        browser.until_texts(SAID, &["anew", "re: anew"]).await?;
        browser.switch_to(&first).await?;
        browser.enter("iframe").await?;
        browser.until_texts(SAID, &["anew", "re: anew"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn words_are_found_and_lead_to_their_message() {
    scene("search", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        say(browser, "say the zebra sleeps").await?;
        browser.until_texts(SAID, &["say the zebra sleeps", "the zebra sleeps"]).await?;
        say(browser, "and now something else").await?;
        browser
            .until_texts(
                SAID,
                &["say the zebra sleeps", "the zebra sleeps", "and now something else", "re: and now something else"],
            )
            .await?;
        browser.write("input[type=search]", "zebra").await?;
        browser.until_texts(".conversations mark", &["zebra", "zebra"]).await?;
        browser.click(".conversations li:last-child a").await?;
        browser.until(".message.found, .message[data-seq='1']").await?;
        browser.press(&[Key::Control, Key::Letter('k')]).await?;
        let at = browser.js("return document.activeElement.type", &[]).await?;
        assert_eq!(at, "search", "Ctrl+K leads to it");
        browser.keys("qqq").await?;
        browser.until_says(".nothing", "qqq").await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_keyboard_is_enough() {
    scene("keyboard", stage(), async |browser, app, player| {
        browser.sign_in(app, "ben@acme").await?;
        browser.until("[data-does=new]").await?;
        tab_to(browser, "[data-does=new]").await?;
        browser.press(&[Key::Enter]).await?;
        browser.until("dialog[open]").await?;
        tab_to(browser, "dialog .agents button").await?;
        browser.press(&[Key::Enter]).await?;
        browser.until(FIELD).await?;
        tab_to(browser, FIELD).await?;
        browser.keys("two").await?;
        browser.press(&[Key::Shift, Key::Enter]).await?;
        browser.keys("lines").await?;
        browser.press(&[Key::Enter]).await?;
        browser.until_texts(".message.mine .body", &["two\nlines"]).await?;
        browser.until(".message.agent.whole").await?;
        let dictation = player.dictation();
        browser.keys("dictate").await?;
        browser.press(&[Key::Enter]).await?;
        dictation.say("On and on");
        browser.until_says(".message.streaming .body", "On and on").await?;
        browser.press(&[Key::Escape]).await?;
        browser.until(".message.mine[data-state=stopped]").await?;
        tab_to(browser, ".conversations a").await?;
        browser.press(&[Key::Enter]).await?;
        browser.until(FIELD).await?;
        tab_to(browser, "[data-does=options]").await?;
        browser.press(&[Key::Enter]).await?;
        browser.until(".menu").await?;
        browser.press(&[Key::Escape]).await?;
        browser.until_gone(".menu").await?;
        Ok(())
    })
    .await;
}

/// Goes on from one thing to the next until the focus is where it should be, and is to be seen.
async fn tab_to(browser: &harness::browser::Browser, css: &str) -> anyhow::Result<()> {
    let here = "const at = document.activeElement; return at.matches(arguments[0])";
    for _ in 0..40 {
        if browser.js(here, &[css.into()]).await? == true {
            let ring = "return getComputedStyle(document.activeElement).outlineStyle !== 'none'
                || getComputedStyle(document.activeElement.closest('.composer') ?? document.activeElement).boxShadow !== 'none'";
            anyhow::ensure!(browser.js(ring, &[]).await? == true, "{css} has the focus and does not show it");
            return Ok(());
        }
        browser.press(&[Key::Tab]).await?;
    }
    anyhow::bail!("Tab does not lead to {css}")
}

#[tokio::test]
async fn markdown_looks_as_it_is_meant() {
    scene("markdown", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        let text =
            "say | size | price |\n|---|---:|\n| small | 9.50 |\n\n3. three\n4. four\n\n- [x] done\n- [ ] open\n";
        let pasted = "const field = document.querySelector('.composer textarea');
            field.value = arguments[0]; field.dispatchEvent(new Event('input'))";
        browser.js(pasted, &[text.into()]).await?;
        browser.click(".composer .send").await?;
        browser.until(".message.agent.whole table").await?;
        let seen = "const body = document.querySelector('.message.agent .body');
            const of = (css, look) => [...body.querySelectorAll(css)].map(look);
            return [of('td', (cell) => getComputedStyle(cell).textAlign.replace('-webkit-', '')),
                    of('ol', (list) => list.start), of('input', (box) => [box.type, box.checked, box.disabled])]";
        let boxes = json!([["checkbox", true, true], ["checkbox", false, true]]);
        assert_eq!(browser.js(seen, &[]).await?, json!([["start", "right"], [3], boxes]));
        Ok(())
    })
    .await;
}
