//! A long conversation: what was said earlier comes when one looks for it, and nothing jumps.

use anyhow::Result;
use harness::{app::App, browser::Browser};
use serde_json::{Value, json};

use crate::play::{FIELD, SAID, open, say, scene, stage};

/// Makes a conversation of ben's with so many messages, as if they had been said.
async fn long(app: &App, messages: i64) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let insert = "insert into web_conversation_messages (id, conversation_id, tenant_id, seq, epoch, role, content)
        select gen_random_uuid(), c.id, c.tenant_id, n, c.epoch, case when n % 2 = 1 then 'user' else 'assistant' end,
               'message ' || n || case when n = 7 then ' about the zebra' else repeat(E'\\n\\nand more', (n % 5)::int) end
        from web_conversations c, generate_series(1, $2::bigint) n where c.id = $1::text::uuid";
    let owner = app.owner().await?;
    owner.execute(insert, &[&conversation, &messages]).await?;
    let count = "update web_conversations set last_seq = $2, read_seq = $2 where id = $1::text::uuid";
    owner.execute(count, &[&conversation, &messages]).await?;
    Ok(())
}

/// The first message that is in sight: its place, and how far below the upper edge it is.
async fn first_in_sight(browser: &Browser) -> Result<(u64, f64)> {
    let script = "const top = document.querySelector('.scroller').getBoundingClientRect().top;
        const first = [...document.querySelectorAll('.message')].find((one) => one.getBoundingClientRect().bottom > top);
        return [Number(first.dataset.seq), first.getBoundingClientRect().top - top]";
    Ok(serde_json::from_value(browser.js(script, &[]).await?)?)
}

async fn scroll(browser: &Browser, to: Value) -> Result<()> {
    browser.js("document.querySelector('.scroller').scrollTop = arguments[0]", &[to]).await?;
    Ok(())
}

#[tokio::test]
async fn earlier_messages_come_without_a_jump() {
    scene("older", stage(), async |browser, app, _| {
        long(app, 230).await?;
        open(browser, app, "ben@acme").await?;
        browser.until(".message[data-seq='230']").await?;
        let at_end =
            "const s = document.querySelector('.scroller'); return s.scrollHeight - s.scrollTop - s.clientHeight < 2";
        browser.until_js("the end in sight", at_end, &[]).await?;
        let mut shown = browser.count(".message").await?;
        assert!(shown < 230, "not all at once: {shown}");
        while shown < 230 {
            scroll(browser, json!(120)).await?;
            let (seq, top) = first_in_sight(browser).await?;
            let more = "return document.querySelectorAll('.message').length > arguments[0]
                && document.querySelector('.older').hidden";
            browser.until_js("more of them", more, &[json!(shown)]).await?;
            let where_it_is =
                "return document.querySelector(`.message[data-seq='${arguments[0]}']`).getBoundingClientRect().top
                - document.querySelector('.scroller').getBoundingClientRect().top";
            let now = browser.js(where_it_is, &[json!(seq)]).await?.as_f64().unwrap();
            assert!((now - top).abs() < 2.0, "message {seq} was {top} px below the edge, and is {now}");
            shown = browser.count(".message").await?;
        }
        let order = "const seqs = [...document.querySelectorAll('.message')].map((one) => Number(one.dataset.seq));
            return seqs.length === 230 && seqs.every((seq, at) => seq === at + 1)";
        assert_eq!(browser.js(order, &[]).await?, true, "each once, in order");

        // Somebody who reads what is above is left alone by what comes below.
        scroll(browser, json!(400)).await?;
        let before = first_in_sight(browser).await?;
        app.rest("ben@acme")
            .say(&app.conversation("ben@acme").await?, "0193b3a0-0000-7000-8000-00000000000a", "elsewhere")
            .await?;
        browser.until(".to-bottom.news").await?;
        browser.until_js("the answer", "return document.querySelectorAll('.message').length === 232", &[]).await?;
        assert_eq!(first_in_sight(browser).await?, before);
        browser.click(".to-bottom").await?;
        browser.until_js("the end in sight", at_end, &[]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_was_found_is_shown_however_long_ago_it_was() {
    scene("found", stage(), async |browser, app, _| {
        long(app, 230).await?;
        open(browser, app, "ben@acme").await?;
        browser.until(".message[data-seq='230']").await?;
        browser.write("input[type=search]", "zebra").await?;
        browser.until_texts(".conversations mark", &["zebra"]).await?;
        browser.click(".conversations li a").await?;
        browser.until(".message[data-seq='7']").await?;
        let in_sight = "const box = document.querySelector(`.message[data-seq='7']`).getBoundingClientRect();
            const room = document.querySelector('.scroller').getBoundingClientRect();
            return box.top >= room.top && box.bottom <= room.bottom";
        browser.until_js("the message in sight", in_sight, &[]).await?;
        say(browser, "I found it").await?;
        browser.until_says(SAID, "re: I found it").await?;
        browser.until(FIELD).await?;
        Ok(())
    })
    .await;
}
