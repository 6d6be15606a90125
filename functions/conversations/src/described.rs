//! The operations of the OpenAPI document, and the schemas beside them. Nothing of this is in the function that is deployed:
//! `cargo describe` finishes the document and writes it, a test holds it to [`ROUTES`](crate::ROUTES).
//!
//! What an operation says stands beside its handler. Its path's parameters, what every caller may be answered, the headers
//! and the statuses under "Errors" of its doc comment are added for all alike.

use utoipa::OpenApi;

use crate::{conversations, escalations, export, messages, owned, portal, turns};

#[derive(OpenApi)]
#[openapi(
    paths(
        conversations::list,
        conversations::open,
        conversations::read,
        conversations::reset,
        owned::change,
        owned::read,
        owned::rate,
        owned::unrate,
        messages::page,
        messages::send,
        export::export,
        turns::stop,
        escalations::take_over,
        escalations::hand_back,
        portal::me,
        portal::agents,
        portal::search,
        portal::usage,
        crate::healthz,
        crate::readyz,
        crate::openapi,
    ),
    components(schemas(
        chat_core::problem::Details<'_>,
        chat_core::ids::ConversationId,
        chat_core::ids::MessageId,
        chat_core::ids::TurnId,
        chat_core::ids::ClientMessageId,
    ))
)]
struct Described;

/// What is said beside the handlers, as it stands there.
#[must_use]
pub fn operations() -> utoipa::openapi::OpenApi {
    Described::openapi()
}
