//! The attack over the product's edges: REST, sockets, the queue.

use anyhow::Result;
use chat_core::{caller::Role, ids::TenantId, job::Job};
use conversations::ROUTES;
use http::Method;
use serde_json::{Value, json};
use tokio::time::Duration;

use super::{CANARY, House, Tries, house};
use crate::{
    app::App,
    clients::{Heard, Rest, Socket},
    events::{Events, Opened},
    pump::{event, record},
    requests,
};

/// What their tokens may be made to say of globex's people, which is believed of nobody: role and tenant.
fn claims(house: &House, app: &App, handle: &str) -> [(Role, Option<TenantId>); 3] {
    let user = app.user(handle);
    [(user.role, user.tenant), (Role::PlatformAdmin, Some(house.tenant)), (Role::CustomerAdmin, Some(house.tenant))]
}

/// The same, as the store is told of them.
pub(super) fn hints(house: &House, app: &App, handle: &str) -> [(Option<Role>, Option<TenantId>); 3] {
    claims(house, app, handle).map(|(role, tenant)| (Some(role), tenant))
}

pub(super) async fn attack(app: &App, house: &House, tries: &mut Tries) -> Result<()> {
    for handle in ["ben@globex", "ada@globex"] {
        let own = app.conversation(handle).await?;
        for (role, tenant) in claims(house, app, handle) {
            let token = app.mint.token(app.user(handle).id, role, tenant, Duration::from_secs(600));
            let rest = Rest::new(&app.product.rest(), Some(&token));
            routes(&rest, house, tries).await?;
            queries(&rest, app, house, &own, tries).await?;
            sockets(app, house, &own, &token, tries).await?;
        }
    }
    records(app, house, tries).await
}

/// What an answer gave that it should not have.
fn gave(status: u16, body: &Value) -> Option<String> {
    let nothing = body.is_null() || body.as_array().is_some_and(Vec::is_empty);
    let open = (200..300).contains(&status) && !(status == 200 && nothing);
    (open || body.to_string().contains(CANARY)).then(|| format!("{status} {body}"))
}

/// Every route and method with every conversation.
async fn routes(rest: &Rest, house: &House, tries: &mut Tries) -> Result<()> {
    for route in ROUTES.iter().filter(|route| route.path.contains('{')) {
        let talks = house.talks();
        for (method, talk) in route.methods.iter().flat_map(|method| talks.iter().map(move |talk| (*method, talk))) {
            let path = route.path.replace("{conversation_id}", &talk.id.to_string());
            let path = path.replace("{turn_id}", &talk.turn.to_string());
            let path = path.replace("{message_id}", &talk.reply.to_string());
            let body = requests::body(method, &path);
            let answer = rest
                .with(|http, base| {
                    let request = http
                        .request(Method::from_bytes(method.as_bytes()).unwrap_or_default(), format!("{base}{path}"));
                    let request = request.header("Idempotency-Key", talk.client.to_string());
                    match &body {
                        Some(body) => request.json(body),
                        None => request,
                    }
                })
                .await?;
            tries.note(&format!("{method} {path}"), gave(answer.status, &answer.body));
        }
    }
    Ok(())
}

/// What names a company, an agent or a message beside the path.
async fn queries(rest: &Rest, app: &App, house: &House, own: &str, tries: &mut Tries) -> Result<()> {
    let (tenant, agent, message) = (house.tenant, house.agents[0], house.queued.turn);
    for path in [
        format!("/conversations?tenant_id={tenant}"),
        format!("/conversations?tenant_id={tenant}&status=escalated"),
        "/conversations".to_owned(),
        "/conversations?status=escalated".to_owned(),
        format!("/conversations/{own}/messages?after={message}"),
        format!("/conversations/{own}/messages?before={message}"),
    ] {
        let answer = rest.get(&path).await?;
        tries.note(&path, gave(answer.status, &answer.body));
    }
    for route in ROUTES.iter().filter(|route| !route.path.contains('{') && route.methods.contains(&"GET")) {
        let path = format!("{}?tenant_id={tenant}{}", route.path, requests::query(route.path));
        // Of some nobody is asked which company is meant.
        for path in [&path, route.path] {
            let answer = rest.get(path).await?;
            tries.note(path, answer.body.to_string().contains(CANARY).then(|| answer.body.to_string()));
        }
    }
    let globex = app.user("ben@globex").tenant;
    for company in [Some(tenant), globex] {
        let answer = rest.post("/conversations", &json!({"tenant_id": company, "agent_id": agent})).await?;
        tries.note("POST /conversations", gave(answer.status, &answer.body));
    }
    Ok(())
}

async fn sockets(app: &App, house: &House, own: &str, token: &str, tries: &mut Tries) -> Result<()> {
    for talk in house.talks() {
        let mut socket = Socket::open(&app.product.ws(), &talk.id.to_string(), None).await?;
        socket.say(&json!({"type": "auth", "token": token, "last_seq": 0, "epoch": 0})).await?;
        let heard = tokio::time::timeout(Duration::from_secs(5), socket.hear()).await?;
        let frame = match heard {
            Heard::Frame(frame) => Some(frame),
            Heard::Close(_) => None,
        };
        tries.note(&format!("a socket in {}", talk.id), frame);
        let place = [("last-event-id", "0.0")];
        let told = match Events::ask(&app.product.rest(), &talk.id.to_string(), Some(token), &place).await? {
            Opened::Stream(mut events) => Some(format!("{:?}", events.next().await?)),
            Opened::Refused(answer) => gave(answer.status, &answer.body),
        };
        tries.note(&format!("a stream of {}", talk.id), told);
    }
    // From a conversation of one's own.
    let (mut socket, _) = Socket::join(&app.product.ws(), own, token).await?;
    for talk in house.talks() {
        socket.say(&json!({"type": "stop", "turn_id": talk.turn})).await?;
        let frame = socket.until("error").await?;
        tries.note("stop", (frame["code"] != "not_found").then(|| frame.to_string()));
    }
    // How far somebody of acme's has read is not marked from here.
    socket.say(&json!({"type": "read", "seq": 1})).await?;
    // The client's id of a message of acme's is as new here as any: what was said there does not come back for it.
    socket.message("hello", Some(&house.queued.client.to_string())).await?;
    let answer = socket.until("accepted").await?;
    tries.note(
        "a message with an id of acme's",
        answer.to_string().contains(&house.queued.turn.to_string()).then(|| answer.to_string()),
    );
    Ok(())
}

/// Records of globex's that name what is acme's: none of them may wake anything there.
async fn records(app: &App, house: &House, tries: &mut Tries) -> Result<()> {
    let ben = app.user("ben@globex");
    let Some(globex) = ben.tenant else { return Ok(()) };
    let mut bodies: Vec<String> =
        house.talks().iter().map(|talk| Job::web(globex, talk.id, ben.id, talk.turn).body()).collect();
    bodies.push(
        json!({
            "id": house::SLACK_MESSAGE, "tenant_id": globex, "channel": "slack",
            "channel_metadata": {"team_id": house::WORKSPACE},
            "sender": {"user_id": "U2"}, "content": {"text": "hello"}, "timestamp": "2026-11-22T14:00:00.000Z",
            "thread_id": null, "reply_to": null, "context": {}, "channel_id": "C1",
        })
        .to_string(),
    );
    let records = bodies.iter().enumerate().map(|(id, body)| record(&id.to_string(), body)).collect();
    app.product.orchestrator.handle(event(records)).await;
    let records = bodies.iter().enumerate().map(|(id, body)| record(&id.to_string(), body)).collect();
    app.product.dead_letters.handle(event(records)).await;
    tries.note("records of the queue", None);
    Ok(())
}
