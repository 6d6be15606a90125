//! The page is there for everybody: nothing in it keeps people out, and it comes quickly.

use harness::browser::{PHONE, WIDE, gallery};

use crate::play::{FIELD, scene, stage, start};

#[tokio::test]
async fn no_state_of_the_page_keeps_anybody_out() {
    scene("open_to_all", gallery::stage(), async |browser, app, player| {
        let mut barriers = Vec::new();
        gallery::walk(browser, app, player, async |browser, state| {
            for (size, window) in [("wide", WIDE), ("on a phone", PHONE)] {
                browser.window(window).await?;
                for scheme in ["light", "dark"] {
                    browser.media(scheme, true).await?;
                    let looked = browser.open_to_all(&format!("{state}, {size}, {scheme}")).await;
                    barriers.extend(looked.err().map(|error| format!("{error:#}")));
                }
            }
            browser.window(WIDE).await?;
            browser.media("light", true).await
        })
        .await?;
        anyhow::ensure!(barriers.is_empty(), "{}", barriers.join("\n"));
        Ok(())
    })
    .await;
}

/// Most bytes over the wire until the page can be used.
const MOST: u64 = 100_000;

#[tokio::test]
async fn the_page_is_light() {
    scene("light", stage(), async |browser, app, _| {
        start(browser, app, "ben@acme").await?;
        let of_the_page = async || -> anyhow::Result<(usize, u64)> {
            let requests = browser.requests().await?;
            let files = requests.iter().filter(|request| request.url.contains("/portal/"));
            let (count, bytes) = files.fold((0, 0), |(count, sum), one| (count + 1, sum + one.bytes));
            Ok((count, bytes))
        };
        let (files, bytes) = of_the_page().await?;
        assert!(files > 8, "{files} files");
        assert!(bytes > 10_000 && bytes < MOST, "{bytes} bytes in {files} files");
        browser.come_again().await?;
        browser.until(FIELD).await?;
        let (_, again) = of_the_page().await?;
        assert!(again < bytes / 5, "{again} bytes the second time, {bytes} the first");
        tracing::info!(files, bytes, again, "the page over the wire");
        Ok(())
    })
    .await;
}
