//! Pages: how many entries one has, and where the next one is (RFC 8288).
//!
//! A page begins at a place, never at a number of entries: whatever comes in meanwhile moves nothing.

use std::fmt::Display;

use chat_core::{Error, Result};
use form_urlencoded::Serializer;
use http::HeaderValue;

use crate::BASE;

/// Entries of a page when the caller names no number, and at most.
const PAGE: i64 = 50;
const PAGE_MOST: i64 = 100;

/// The largest whole number that every reader of JSON holds exactly (RFC 8259, section 6).
const MOST_EXACT: i64 = (1 << 53) - 1;

/// The size of a page, or what is wrong with it.
pub(crate) fn page_size(limit: Option<i64>) -> Result<i64> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=PAGE_MOST => Ok(limit),
        _ => Err(Error::field("limit", format!("must be 1 to {PAGE_MOST}"))),
    }
}

/// A place in a conversation, or what is wrong with it.
pub(crate) fn seq(field: &'static str, seq: i64) -> Result<i64> {
    match seq {
        0..=MOST_EXACT => Ok(seq),
        _ => Err(Error::field(field, format!("must be 0 to {MOST_EXACT}"))),
    }
}

/// The address of the next page.
pub(crate) struct Onward {
    path: String,
    query: Serializer<'static, String>,
}

impl Onward {
    /// At a path below [`BASE`], with no query yet.
    pub(crate) fn at(path: &str) -> Self {
        Self { path: format!("{BASE}{path}"), query: Serializer::new(String::new()) }
    }

    /// With one more parameter, if there is a value for it.
    pub(crate) fn with(mut self, name: &str, value: Option<impl Display>) -> Self {
        if let Some(value) = value {
            self.query.append_pair(name, &value.to_string());
        }
        self
    }

    /// The `Link` header that names it.
    pub(crate) fn link(mut self) -> HeaderValue {
        let url = format!("<{}?{}>; rel=\"next\"", self.path, self.query.finish());
        HeaderValue::from_str(&url).expect("what is encoded for an address is header text")
    }
}
