//! What a handler's arguments are made of, each parsed at the door with an error that names what is wrong.

use std::{fmt::Display, str::FromStr};

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, RawPathParams, Request},
    response::{IntoResponse, Response},
};
use chat_core::{
    Code, Error,
    complaint::{complaint, name},
    ids::{ClientMessageId, ConversationId},
    secret::Secret,
    token::{self, Identity},
};
use http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error as _},
};

use crate::{Api, error::Problem};

/// Who is asking, by their token.
pub struct Bearer(pub Identity);

impl FromRequestParts<Api> for Bearer {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let token = api.verifier.verify(&bearer(&parts.headers)).await?;
        Ok(Self(api.store.recognize(&token).await?))
    }
}

fn bearer(headers: &HeaderMap) -> Secret {
    token::bearer(headers.get_all(header::AUTHORIZATION).iter().map(HeaderValue::as_bytes))
}

/// The conversation that the path names.
pub struct InPath(pub ConversationId);

impl FromRequestParts<Api> for InPath {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self(in_path(parts, api, 0).await?))
    }
}

/// The conversation that the path names, and what in it.
pub struct WithinPath<T>(pub ConversationId, pub T);

impl<T: FromStr<Err: Display>> FromRequestParts<Api> for WithinPath<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        Ok(Self(in_path(parts, api, 0).await?, in_path(parts, api, 1).await?))
    }
}

/// The id at a place of the path, or what is wrong with it, by the name that its route gives it.
async fn in_path<T: FromStr<Err: Display>>(parts: &mut Parts, api: &Api, place: usize) -> Result<T, Problem> {
    let params = RawPathParams::from_request_parts(parts, api).await;
    let params = params.map_err(|error| Error::field("path", error.body_text()))?;
    let (name, value) = params.iter().nth(place).unwrap_or(("path", ""));
    Ok(value.parse().map_err(|error: T::Err| Error::field(name, error.to_string()))?)
}

/// The client's own id of a message: the `Idempotency-Key` header, a UUID.
pub struct IdempotencyKey(pub ClientMessageId);

impl FromRequestParts<Api> for IdempotencyKey {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        const NAME: &str = "Idempotency-Key";
        let value = parts.headers.get(NAME).ok_or_else(|| Error::field(NAME, "is required: a UUID of your own"))?;
        let id = value.to_str().ok().and_then(|value| value.parse().ok());
        Ok(Self(id.ok_or_else(|| Error::field(NAME, "is not a UUID"))?))
    }
}

/// A field that may be absent, `null`, or something: what a change leaves alone, takes away, or sets.
///
/// # Errors
/// What the field itself cannot be read from.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// A field that may be absent, but not `null`.
///
/// # Errors
/// What the field itself cannot be read from.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A whole number, also where it is written as `3.0`: to JSON, and so to the schema, the two are one.
///
/// # Errors
/// What is no whole number that a reader of JSON holds exactly.
pub fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let exact = |number: &f64| number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
    let whole = number.as_i64().or_else(|| number.as_f64().filter(exact).map(|number| number as i64));
    whole.ok_or_else(|| D::Error::custom("expected a whole number"))
}

/// The query, as `T`, which refuses what it does not know.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query.as_bytes()));
        let read = serde_path_to_error::deserialize(pairs);
        Ok(Self(read.map_err(|error| named(&error.path().to_string(), "query", &error.inner().to_string()))?))
    }
}

/// A JSON body: as `T`, which refuses fields that it does not know, on the way in; anything on the way out.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Api> for Json<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, api: &Api) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Error::new(Code::UnsupportedMediaType, "The body must be application/json.").into());
        }
        let body = Bytes::from_request(request, api).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let limit = api.limits.frame_bytes;
                Error::new(Code::PayloadTooLarge, format!("The body may have at most {limit} bytes."))
            } else {
                Error::field("body", rejection.body_text())
            }
        })?;
        // The library would read an array as an object, too.
        if body.trim_ascii_start().first().is_some_and(|first| *first != b'{') {
            return Err(Error::field("body", "must be a JSON object").into());
        }
        let mut json = serde_json::Deserializer::from_slice(&body);
        let read = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| named(&error.path().to_string(), "body", &error.inner().to_string()))?;
        json.end().map_err(|error| Error::field("body", complaint(&error.to_string())))?;
        Ok(Self(read))
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.0).expect("our own types are always JSON");
        ([(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// The field that a reader's complaint is about: where it stood, or the one it says is missing or unknown. What stood
/// there is not repeated.
fn named(path: &str, whole: &str, told: &str) -> Error {
    let of_whole = path.is_empty() || path == "." || path == "?";
    let quoted =
        told.split('`').nth(1).filter(|_| told.starts_with("missing field") || told.starts_with("unknown field"));
    let field = quoted.or_else(|| (!of_whole).then_some(path)).and_then(name).unwrap_or(whole);
    Error::field(field, complaint(told))
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_complaint_names_its_field() {
        for (path, complaint, field) in [
            (".", "missing field `text` at line 1 column 2", "text"),
            ("extra", "unknown field `extra`, expected `text`", "extra"),
            ("text", "invalid type: integer `1`, expected a string", "text"),
            (".", "EOF while parsing a value at line 1 column 0", "body"),
            ("eyJ.eyJ.sig", "unknown field `eyJ.eyJ.sig`, expected `text`", "body"),
        ] {
            let error = named(path, "body", complaint);
            assert_eq!(error.fields()[0].field, field, "{complaint}");
            assert!(!error.public().contains("eyJ"), "{error}");
        }
    }
}
