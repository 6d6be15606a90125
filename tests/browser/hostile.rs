//! Texts that want more than to be read, from people and from agents: they run nothing, load nothing, and stand in nobody's
//! way. What they say can still be read.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use chat_core::ids::ClientMessageId;
use harness::{
    app::{App, until},
    browser::Browser,
    clients::http,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::play::{FIELD, SAID, open, say, scene, stage, stored};

/// One text a line; see there.
const TEXTS: &str = include_str!("hostile.txt");

/// A server that nobody should ask.
struct Trap {
    origin: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Trap {
    async fn lay() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let read = tcp.read(&mut head).await.unwrap_or_default();
                let line = String::from_utf8_lossy(&head[..read]).lines().next().unwrap_or_default().to_owned();
                hears.lock().unwrap().push(line);
                let _ = tcp.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            }
        });
        let trap = Self { origin, asked };
        http().get(format!("{}/it-counts", trap.origin)).send().await?;
        ensure!(trap.asked.lock().unwrap().drain(..).eq(["GET /it-counts HTTP/1.1"]), "it counts");
        Ok(trap)
    }

    /// The texts, with its address in them.
    fn texts(&self) -> Vec<String> {
        let lines = TEXTS.lines().filter(|line| !line.is_empty() && (!line.starts_with("# ") || line.contains("PWN>")));
        let host = self.origin.trim_start_matches("http://");
        let filled = |line: &str| {
            let line = line.replace("TRAPHOST", host).replace("TRAP", &self.origin).replace("PWN", "top.pwned=1");
            line.replace("\\n", "\n")
        };
        lines.map(filled).collect()
    }
}

/// Why a scene forgives what the policy (CSP) stopped: the sanitizer reads a text into a document of its own, and the browser
/// tells of each handler and style in it that they may not be. What counts here is that nothing of it got any further.
const SECOND_WALL: &str = "security: ";

/// What is wrong with what is shown: a script that ran, and everything that is not plain text with a few marks.
const FAULTS: &str = r#"
    const faults = [];
    if (window.pwned !== undefined || top.pwned !== undefined) faults.push("a script ran");
    const tags = new Set(("A B BLOCKQUOTE BR CODE DEL DIV EM H1 H2 H3 H4 H5 H6 HR I KBD LI OL P PRE S STRONG SUB SUP "
        + "TABLE TBODY TD TH THEAD TR UL INPUT").split(" "));
    const names = new Set("href title start align rel target type checked disabled aria-label tabindex".split(" "));
    for (const body of document.querySelectorAll(".message .body")) {
        for (const one of body.querySelectorAll("*")) {
            if (one.closest(".copy")) continue;
            const said = one.outerHTML.slice(0, 200);
            if (!tags.has(one.tagName)) faults.push(`an element: ${said}`);
            if (one.tagName === "INPUT" && !(one.type === "checkbox" && one.disabled)) faults.push(`a field: ${said}`);
            if (one.shadowRoot) faults.push(`a shadow: ${said}`);
            for (const { name, value } of one.attributes) {
                if (one.tagName === "DIV" && name === "class" && ["code", "table"].includes(value)) continue;
                if (!names.has(name)) faults.push(`an attribute: ${said}`);
            }
            if (one.tagName === "A") {
                if (one.hasAttribute("href") && !["https:", "http:", "mailto:", "tel:"].includes(one.protocol)) faults.push(`a link: ${said}`);
                if (one.target !== "_blank" || !one.relList.contains("noopener")) faults.push(`a link that keeps a hand on us: ${said}`);
            }
        }
    }
    if (document.getElementById("app")?.className !== "app") faults.push("the page's own element has another's name");
    if (document.querySelectorAll("iframe, object, embed, base, form:not(dialog form), meta[http-equiv]").length > 0) faults.push("something is outside");
    return faults"#;

async fn look_for_faults(browser: &Browser, trap: &Trap, when: &str) -> Result<()> {
    let faults = browser.js(FAULTS, &[]).await?;
    ensure!(faults == json!([]), "{when}: {faults:#}");
    ensure!(trap.asked.lock().unwrap().is_empty(), "{when}: somebody was asked: {:?}", trap.asked.lock().unwrap());
    let requests = browser.requests().await?.into_iter().filter(|request| request.url.starts_with(&trap.origin));
    let requests: Vec<_> = requests.collect();
    ensure!(requests.is_empty(), "{when}: somebody was to be asked: {requests:?}");
    Ok(())
}

/// Says these as ben, and waits until the page shows all that is stored.
async fn all_said(app: &App, browser: &Browser, texts: &[String]) -> Result<()> {
    let conversation = app.conversation("ben@acme").await?;
    let rest = app.rest("ben@acme");
    for text in texts {
        let answer = rest.say(&conversation, &ClientMessageId::new().to_string(), &format!("say {text}")).await?;
        ensure!(answer.status == 202, "{text}: {} {}", answer.status, answer.body);
    }
    until("every answer", || async { Ok(stored(app, "ben@acme").await.len() == texts.len() * 2) }).await?;
    let script = "return document.querySelectorAll('.message').length === arguments[0]";
    browser.until_js("all of it on the page", script, &[json!(texts.len() * 2)]).await
}

#[tokio::test]
async fn no_text_runs_anything_or_asks_anybody() {
    scene("hostile", stage(), async |browser, app, _| {
        browser.forgive(SECOND_WALL);
        let trap = Trap::lay().await?;
        let texts = trap.texts();
        assert!(texts.len() > 120, "{}", texts.len());
        let owner = app.owner().await?;
        // Names that others chose, and a title.
        let name = "<img src=x onerror=top.pwned=1>";
        owner.execute("update agents set name = $1 || name", &[&name]).await?;
        owner.execute("update portal_users set display_name = $1 || display_name", &[&name]).await?;
        let conversation = app.conversation("ben@acme").await?;
        let title =
            app.rest("ben@acme").patch(&format!("/conversations/{conversation}"), &json!({"title": name})).await?;
        assert_eq!(title.status, 200, "{}", title.body);
        open(browser, app, "ben@acme").await?;
        for (number, some) in texts.chunks(32).enumerate() {
            // As it comes, and then as it is read from what is stored.
            all_said(app, browser, some).await?;
            look_for_faults(browser, &trap, "live").await?;
            let said: Vec<String> = some.iter().map(|text| format!("say {text}").trim().to_owned()).collect();
            let shown = browser
                .js("return [...document.querySelectorAll('.mine .body')].map((one) => one.textContent)", &[])
                .await?;
            assert_eq!(shown, json!(said), "what a person writes is shown as they wrote it");
            browser.come_again().await?;
            browser.until(FIELD).await?;
            let count = "return document.querySelectorAll('.message').length === Math.min(50, arguments[0])";
            browser.until_js("the newest page", count, &[json!(some.len() * 2)]).await?;
            look_for_faults(browser, &trap, "loaded again").await?;
            browser.write("input[type=search]", "onerror").await?;
            if number == 0 {
                browser.until(".conversations mark").await?;
            }
            look_for_faults(browser, &trap, "found").await?;
            app.rest("ben@acme").delete(&format!("/conversations/{conversation}")).await?;
            browser.until(".empty").await?;
        }
        say(browser, "still here").await?;
        browser.until_texts(SAID, &["still here", "re: still here"]).await?;
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn nor_does_one_that_comes_in_pieces() {
    scene("pieces", stage(), async |browser, app, player| {
        browser.forgive(SECOND_WALL);
        let trap = Trap::lay().await?;
        app.conversation("ben@acme").await?;
        open(browser, app, "ben@acme").await?;
        for text in trap.texts().chunks(24) {
            let dictation = player.dictation();
            say(browser, "dictate").await?;
            let whole: Vec<char> = text.join("\n\n").chars().collect();
            for piece in whole.chunks(11) {
                dictation.say(&piece.iter().collect::<String>());
                // Each is looked at by itself, as on a slow line.
                tokio::task::yield_now().await;
            }
            browser.until(".message:last-child.streaming").await?;
            look_for_faults(browser, &trap, "while it is written").await?;
            dictation.end();
            browser.until(".message:last-child.whole").await?;
            look_for_faults(browser, &trap, "as a whole").await?;
        }
        assert_eq!(browser.js("return window.pwned ?? null", &[]).await?, Value::Null);
        Ok(())
    })
    .await;
}
