//! Which pages may read our answers (CORS): those of `ALLOWED_ORIGINS`, to the letter, as the hub lets them open sockets.
//!
//! Decided here for every way in which this runs; the gateway in front adds nothing of its own. Credentials are never
//! allowed: a token comes in a header that the page itself sets, and no cookie means anything to us.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::ROUTES;

/// How long a browser may remember that it may ask. Spares most preflights; an origin taken off the list is out after it.
const REMEMBERED: Duration = Duration::from_secs(600);

/// Says so on every answer, errors included, and answers preflights.
pub(crate) fn layer(allowed_origins: &[String]) -> CorsLayer {
    let origins = allowed_origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    let methods = ROUTES.iter().flat_map(|route| route.methods).filter_map(|method| method.parse::<Method>().ok());
    let mut methods: Vec<Method> = methods.collect();
    methods.sort_by(|one, other| one.as_str().cmp(other.as_str()));
    methods.dedup();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods(methods)
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("idempotency-key")])
        .expose_headers([header::LINK, header::RETRY_AFTER, HeaderName::from_static("x-request-id")])
        .max_age(REMEMBERED)
}
