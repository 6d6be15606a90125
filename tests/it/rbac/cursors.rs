//! A place in a list is what a `Link` named, and whatever somebody makes of it: it opens nothing.

use chat_core::ids::ClientMessageId;
use harness::clients::{Answer, Rest};
use serde_json::Value;

use super::cast::{Caller, Cast};

/// The value of a query's parameter in the `Link` of an answer, with the path and the rest of the query before it.
fn cursor(answer: &Answer, name: &str) -> (String, String) {
    let link = answer.headers["link"].to_str().unwrap();
    let url = link.trim_start_matches('<').split('>').next().unwrap().trim_start_matches(conversations::BASE);
    let (before, value) = url.split_once(&format!("{name}=")).unwrap();
    (format!("{before}{name}="), value.to_owned())
}

/// Whose conversations these are, and nobody else's: each entry names its tenant, or holds what its owner says.
async fn own_or_refused(rest: &Rest, path: &str, own: impl Fn(&Value) -> bool) -> u16 {
    let answer = rest.get(path).await.unwrap();
    assert!([200, 400].contains(&answer.status), "{path}: {} {}", answer.status, answer.body);
    if answer.status == 200 {
        let entries = answer.body.as_array().unwrap();
        assert!(entries.iter().all(own), "{path} showed what is somebody else's: {}", answer.body);
    }
    answer.status
}

#[tokio::test]
async fn a_place_that_was_made_up_or_is_anothers_opens_nothing() {
    let cast = Cast::assemble().await;
    let app = &cast.app;
    let mut people = Vec::new();
    for (caller, handle) in [(Caller::Ben, "ben@acme"), (Caller::Cleo, "cleo@acme"), (Caller::GlobexBen, "ben@globex")]
    {
        let rest = cast.rest(caller);
        let tenant = app.user(handle).tenant.unwrap();
        let mut ids = Vec::new();
        for agent in app.demo.agents.iter().filter(|agent| agent.tenant == tenant) {
            let id = rest.open(tenant, agent.id).await.unwrap();
            for _ in 0..3 {
                let said = rest.say(&id, &ClientMessageId::new().to_string(), &format!("of {handle}")).await.unwrap();
                assert_eq!(said.status, 202);
            }
            ids.push(id);
        }
        let list = rest.get(&format!("/conversations?tenant_id={tenant}&limit=1")).await.unwrap();
        let page = rest.get(&format!("/conversations/{}/messages?limit=1", ids[0])).await.unwrap();
        people.push((handle, rest, ids, cursor(&list, "before"), cursor(&page, "before")));
    }
    let mut refused = 0;
    for (handle, rest, ids, list, page) in &people {
        let own = |entry: &Value| ids.iter().any(|id| entry["id"] == id.as_str());
        let said = |entry: &Value| entry["content"].as_str().is_some_and(|text| text.contains(handle));
        // Everybody's places, in one's own list and conversation.
        for (_, _, others, anothers_list, anothers_page) in &people {
            own_or_refused(rest, &format!("{}{}", list.0, anothers_list.1), own).await;
            own_or_refused(rest, &format!("{}{}", page.0, anothers_page.1), said).await;
            if others != ids {
                // Another's path as it stands: not theirs.
                let answer = rest.get(&format!("{}{}", anothers_page.0, anothers_page.1)).await.unwrap();
                assert_eq!(answer.status, 404);
                let theirs = rest.get(&format!("{}{}", anothers_list.0, anothers_list.1)).await.unwrap();
                assert!([200, 403].contains(&theirs.status), "{}", theirs.status);
                assert!(theirs.body.as_array().is_none_or(|entries| entries.iter().all(own)), "{}", theirs.body);
            }
        }
        // One's own place, each character of it another one.
        for (before, place) in [list, page] {
            for at in 0..place.len() {
                for other in ["0", "9", "f", "-", ".", "%00", "%27", ""] {
                    let made_up = format!("{before}{}{other}{}", &place[..at], &place[at + 1..]);
                    let status = if before.contains("/messages") {
                        own_or_refused(rest, &made_up, said).await
                    } else {
                        own_or_refused(rest, &made_up, own).await
                    };
                    refused += usize::from(status == 400);
                }
            }
        }
    }
    assert!(refused > 100, "most of what is made up is no place: {refused}");
    cast.app.finish().await.unwrap();
}
