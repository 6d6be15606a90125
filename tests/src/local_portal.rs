//! Signing in on the local stack: a page that hosts the chat as a company's portal would, and mints tokens for whoever asks.
//!
//! Only the harness has it: no deployed part of the product can mint a token.
//! A person is chosen at `/`, and the chat runs in a frame below; what the two say to each other is what any portal says
//! to it (`hub/portal/`). `/?as=ben@acme` chooses at once.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use chat_core::{caller::Role, ids::TenantId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    demo::{Demo, User},
    mint::Mint,
};

/// How long a token holds: short, as a portal's should be, so that the chat has to ask again.
pub const TOKENS_VALID: Duration = Duration::from_secs(15 * 60);

const HTML: &str = include_str!("local_portal/index.html");
const CSS: &str = include_str!("local_portal/host.css");
const JS: &str = include_str!("local_portal/host.js");

/// Where the page reads which page to show.
const CHAT: &str = r#"<meta name="chat" content="">"#;

/// The portal of a local stack.
#[derive(Clone)]
pub struct LocalPortal {
    /// Who may be chosen.
    pub demo: Demo,
    /// Who signs for them.
    pub mint: Mint,
    /// How long a token holds.
    pub valid: Duration,
    /// The origin of the hub whose page is shown, where it is not the one that serves this page.
    pub hub: Option<String>,
}

impl LocalPortal {
    /// One for these people, with the usual life of a token, that shows the page beside it.
    #[must_use]
    pub fn new(demo: &Demo, mint: &Mint) -> Self {
        Self { demo: demo.clone(), mint: mint.clone(), valid: TOKENS_VALID, hub: None }
    }

    /// Its routes, for a stack that listens at this address.
    pub fn routes(&self, address: SocketAddr) -> Router {
        let headers = self.told();
        let at_home = middleware::from_fn(move |request, next| at_home(address, request, next));
        let tell = middleware::map_response(move |mut response: Response| {
            response.headers_mut().extend(headers.clone());
            std::future::ready(response)
        });
        let page = HTML.replacen(
            CHAT,
            &CHAT.replace("\"\"", &format!("\"{}/portal/\"", self.hub.as_deref().unwrap_or_default())),
            1,
        );
        let file = |kind: &'static str, text: String| get(async move || ([(header::CONTENT_TYPE, kind)], text));
        Router::new()
            .route("/", file("text/html; charset=utf-8", page))
            .route("/local/host.css", file("text/css; charset=utf-8", CSS.to_owned()))
            .route("/local/host.js", file("text/javascript; charset=utf-8", JS.to_owned()))
            .route("/local/people", get(people))
            .route("/local/token", post(token))
            .layer(at_home)
            .layer(tell)
            .with_state(Arc::new(self.clone()))
    }

    /// What browsers are told about all of it.
    fn told(&self) -> [(HeaderName, HeaderValue); 4] {
        let hub = self.hub.iter().map(|origin| format!(" {origin}")).collect::<String>();
        let policy = format!(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{hub}; connect-src 'self'; \
             frame-src 'self'{hub}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
             require-trusted-types-for 'script'"
        );
        [
            (header::CONTENT_SECURITY_POLICY, HeaderValue::try_from(policy).expect("an origin is graphic ASCII")),
            (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]
    }

    fn company(&self, tenant: Option<TenantId>) -> Option<&str> {
        self.demo.tenants.iter().find(|company| Some(company.id) == tenant).map(|company| company.name.as_str())
    }
}

/// Answers under its own address alone. Another name that leads here, `localhost` for one, is another origin, which the
/// chat does not know; and a stranger's name that does (DNS rebinding) would get the tokens.
async fn at_home(address: SocketAddr, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host == Some(address.to_string().as_str()) {
        return next.run(request).await;
    }
    if request.uri().path() == "/" {
        let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
        return Redirect::temporary(&format!("http://{address}/{query}")).into_response();
    }
    answer(StatusCode::MISDIRECTED_REQUEST, &json!({"error": format!("Ask at http://{address}/.")}))
}

/// A person who may be chosen.
#[derive(Serialize)]
struct Person<'a> {
    handle: &'a str,
    role: Role,
    company: Option<&'a str>,
}

async fn people(State(portal): State<Arc<LocalPortal>>) -> Response {
    let person =
        |user: &User| json!(Person { handle: &user.handle, role: user.role, company: portal.company(user.tenant) });
    answer(StatusCode::OK, &portal.demo.users.iter().map(person).collect())
}

/// Whose token is wanted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    user: String,
}

async fn token(State(portal): State<Arc<LocalPortal>>, headers: HeaderMap, body: String) -> Response {
    // What a page of another origin may send without asking first says that it is something else.
    if headers.get(header::CONTENT_TYPE).is_none_or(|kind| kind != "application/json") {
        return answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!({"error": "Ask with application/json."}));
    }
    let Ok(Wanted { user: wanted }) = serde_json::from_str(&body) else {
        return answer(StatusCode::BAD_REQUEST, &json!({"error": "Ask with {\"user\": \"…\"}."}));
    };
    let Some(user) = portal.demo.users.iter().find(|user| user.handle == wanted) else {
        return answer(StatusCode::NOT_FOUND, &json!({"error": format!("Nobody here is called {wanted}.")}));
    };
    let token = portal.mint.token(user.id, user.role, user.tenant, portal.valid);
    answer(StatusCode::OK, &json!({"token": token}))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
