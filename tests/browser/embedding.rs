//! What the README tells portals to write works as it stands there.

use anyhow::{Context, Result};
use axum::{Router, response::Html, routing::get};
use harness::app::App;
use tokio::net::TcpListener;

use crate::play::{FIELD, SAID, scene, stage_with, stored};

/// A portal with the README's pages: the chat in a frame, and a page of its own on the client.
async fn portal() -> Result<(App, String)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let (app, _) = stage_with(|setting| {
        setting.portal.hosts.push(origin.clone());
        setting.allowed_origins.push(origin.clone());
    })
    .await?;
    let token = app.token(app.user("ben@acme"));
    let page = |number: usize| {
        let text = snippet(number)?.replace("https://hub.example", &app.product.rest());
        Ok::<_, anyhow::Error>(Html(text.replace("https://api.example", &app.product.rest())))
    };
    let (frame, own) = (page(0)?, page(1)?);
    let router = Router::new()
        .route("/frame", get(move || async { frame }))
        .route("/own", get(move || async { own }))
        .route("/my/chat-token", get(move || async { token }));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((app, origin))
}

/// The README's pages, in their order.
fn snippet(number: usize) -> Result<String> {
    let readme = include_str!("../../README.md");
    let mut pages = readme.split("```html\n").skip(1).filter_map(|rest| rest.split("```").next());
    let page = pages.nth(number).context("the README has no such page")?;
    Ok(format!("<!doctype html><html lang=en><title>A portal</title><link rel=icon href=data:,>{page}"))
}

#[tokio::test]
async fn a_portal_shows_the_chat_in_a_frame() {
    scene("framed", portal(), async |browser, app, origin| {
        browser.visit(&format!("{origin}/frame")).await?;
        browser.enter("#chat").await?;
        browser.click("[data-does=new]").await?;
        browser.click(".agents li:first-child button").await?;
        browser.until(FIELD).await?;
        crate::play::say(browser, "from a frame").await?;
        browser.until_texts(SAID, &["from a frame", "re: from a frame"]).await?;
        assert_eq!(stored(app, "ben@acme").await, ["from a frame", "re: from a frame"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_portal_writes_a_page_of_its_own() {
    scene("own", portal(), async |browser, app, origin| {
        browser.visit(&format!("{origin}/own")).await?;
        // Until the script is ready a form would be sent as forms are, and the page be another.
        browser.until("#say:not([inert]) input").await?;
        browser.write("#say input", "by the client alone").await?;
        browser.click("#say button").await?;
        let agent = app.demo.agents.iter().find(|agent| Some(agent.tenant) == app.user("ben@acme").tenant);
        let agent = &agent.context("an agent")?.name;
        let lines = ["You: by the client alone (answered)", &format!("{agent}: re: by the client alone (whole)")];
        browser.until_texts("#list li", &lines).await?;
        assert_eq!(stored(app, "ben@acme").await, ["by the client alone", "re: by the client alone"]);
        Ok(())
    })
    .await;
}
