//! The REST function: conversations and their messages, under [`BASE`].
//!
//! The router is the same value on Lambda, under `cargo lambda watch` and in the local process. Who is asking is always
//! read from the bearer token by our own code, never from the gateway's context, so the three ways do not differ
//! where security lives.

pub mod conversations;
mod cors;
pub mod described;
pub mod error;
pub mod escalations;
pub mod export;
pub mod extract;
pub mod messages;
pub mod owned;
mod paging;
pub mod portal;
pub mod turns;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::{MethodRouter, get, post, put},
};
use chat_core::{
    Code, Error, Result,
    bus::{Buckets, Publisher},
    config::{self, Env, Limits},
    ids::ConversationId,
    queue::{Queue, Sqs},
    store::{Store, door::Action},
    token::{Identity, Verifier},
};

use http::{HeaderName, header};

use error::Problem;

/// Where all routes begin.
pub const BASE: &str = "/api/portal/chat";

/// Connections an environment holds: Lambda gives it one request at a time. A second one would be made where the first
/// request comes before the first connection stands, and both would take longer.
pub const POOL_SIZE: usize = 1;

/// Longest wait for the two pipes to take their hints. Neither is needed for what was stored.
const HINT_TIMEOUT: Duration = Duration::from_secs(2);

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The facts.
    pub store: Store,
    /// Hints of work.
    pub queue: Arc<dyn Queue>,
    /// Hints of news.
    pub publisher: Publisher,
    /// The one way in.
    pub verifier: Arc<Verifier>,
    /// How fast a caller may write.
    pub buckets: Buckets,
    /// What a caller can grow.
    pub limits: Limits,
    /// Whose pages may read the answers.
    pub allowed_origins: Vec<String>,
}

/// One route: a path under [`BASE`] and what answers there, by method.
pub struct Route {
    /// The path, in axum's notation.
    pub path: &'static str,
    /// Its methods.
    pub methods: &'static [&'static str],
    answer: fn() -> MethodRouter<Api>,
}

/// Every route there is. The router is built from this table, so neither can fall behind the other.
pub const ROUTES: &[Route] = &[
    Route {
        path: "/conversations",
        methods: &["GET", "POST"],
        answer: || get(conversations::list).post(conversations::open),
    },
    Route {
        path: "/conversations/{conversation_id}",
        methods: &["GET", "PATCH", "DELETE"],
        answer: || get(conversations::read).patch(owned::change).delete(conversations::reset),
    },
    Route {
        path: "/conversations/{conversation_id}/messages",
        methods: &["GET", "POST"],
        answer: || get(messages::page).merge(post(messages::send)),
    },
    Route {
        path: "/conversations/{conversation_id}/messages/{message_id}/feedback",
        methods: &["PUT", "DELETE"],
        answer: || put(owned::rate).delete(owned::unrate),
    },
    Route { path: "/conversations/{conversation_id}/read", methods: &["PUT"], answer: || put(owned::read) },
    Route { path: "/conversations/{conversation_id}/export", methods: &["GET"], answer: || get(export::export) },
    Route {
        path: "/conversations/{conversation_id}/turns/{turn_id}/stop",
        methods: &["POST"],
        answer: || post(turns::stop),
    },
    Route {
        path: "/conversations/{conversation_id}/takeover",
        methods: &["POST"],
        answer: || post(escalations::take_over),
    },
    Route {
        path: "/conversations/{conversation_id}/handback",
        methods: &["POST"],
        answer: || post(escalations::hand_back),
    },
    Route { path: "/me", methods: &["GET"], answer: || get(portal::me) },
    Route { path: "/agents", methods: &["GET"], answer: || get(portal::agents) },
    Route { path: "/search", methods: &["GET"], answer: || get(portal::search) },
    Route { path: "/usage", methods: &["GET"], answer: || get(portal::usage) },
    Route { path: "/openapi.json", methods: &["GET"], answer: || get(openapi) },
    Route { path: "/healthz", methods: &["GET"], answer: || get(healthz) },
    Route { path: "/readyz", methods: &["GET"], answer: || get(readyz) },
];

/// The router of all [`ROUTES`].
pub fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        router = router.route(&format!("{BASE}{}", route.path), (route.answer)());
    }
    router
        .fallback(|| async { Problem::from(Error::new(Code::NotFound, "There is nothing at this path.")) })
        .method_not_allowed_fallback(|| async {
            Problem::from(Error::new(Code::MethodNotAllowed, "Not with this method."))
        })
        .layer(DefaultBodyLimit::max(api.limits.frame_bytes))
        .layer(middleware::from_fn(error::with_request_id))
        .layer(cors::layer(&api.allowed_origins))
        .with_state(api)
}

impl Api {
    /// Builds it from the environment, and connects in the background, while the first event is on its way.
    ///
    /// # Errors
    /// The settings that are missing or malformed, by name.
    pub fn from_env() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut env = Env::new(&config::process);
        let database = config::Database::read(&mut env, POOL_SIZE);
        let redis = config::Redis::read(&mut env);
        let queue = config::Queue::read(&mut env);
        let token = config::Token::read(&mut env);
        let edge = config::Edge::read(&mut env);
        let limits = Limits::read(&mut env);
        let (database, redis, queue, token, edge, limits) =
            env.finish((database, redis, queue, token, edge, limits))?;
        let (store, publisher) = (Store::new(&database)?, Publisher::new(&redis)?);
        store.warm();
        Ok(Self {
            store,
            queue: Arc::new(Sqs::from_settings(&queue)),
            buckets: Buckets::new(&publisher, &limits),
            publisher,
            verifier: Arc::new(Verifier::new(&token)?),
            limits,
            allowed_origins: edge.allowed_origins,
        })
    }
}

impl Api {
    /// Takes leave for a person to write in a conversation: to send, to stop, to reset. Each try counts, repeats of the
    /// same message too.
    ///
    /// The bucket is that of a tenant, which is known for certain only behind the door of the work itself. So the one that
    /// the token names is taken at its word: who signed it did not name one of the caller's choice. Where it names none,
    /// the conversation is looked up first.
    ///
    /// # Errors
    /// 429 with the time until the next one; 404 where there is nothing to look up.
    pub(crate) async fn leave(&self, who: &Identity, conversation: ConversationId) -> Result<(), Problem> {
        let tenant = match who.tenant_hint {
            Some(tenant) => tenant,
            None => self.store.seat(who, conversation, Action::Stay).await?.tenant(),
        };
        self.buckets.take(tenant, who.user_id).await.map_err(Problem::too_fast)
    }
}

/// This interface, as an OpenAPI 3.1 document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "service",
    security(()),
    responses((status = 200, description = "The document.", body = Object))
)]
pub async fn openapi() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../../../docs/openapi.json"))
}

/// The process is up.
#[utoipa::path(
    get,
    path = "/healthz",
    operation_id = "healthz",
    tag = "service",
    security(()),
    responses((status = 200, description = "It is.", body = String, content_type = "text/plain"))
)]
pub async fn healthz() -> &'static str {
    "ok"
}

/// What we depend on can be reached.
///
/// # Errors
/// 503 where Postgres or Redis cannot be reached.
#[utoipa::path(
    get,
    path = "/readyz",
    operation_id = "readyz",
    tag = "service",
    security(()),
    responses((status = 200, description = "They can.", body = String, content_type = "text/plain"))
)]
pub async fn readyz(State(api): State<Api>) -> Result<&'static str, Problem> {
    api.store.ping().await?;
    api.publisher.ping().await?;
    Ok("ok")
}
