//! What the portal asks beside conversations: who somebody is, whom they may talk to, where words were said, and what a
//! company's agents took.

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chat_core::{
    Error, Result,
    ids::{AgentId, ConversationId, MessageId, TenantId},
    portal::Me,
    store::portal::{Day, Said, Search, UsageOf},
    timestamp::Timestamp,
};
use http::{HeaderMap, header};
use serde::Deserialize;
use time::{Date, macros::format_description};

use crate::{
    Api,
    error::Problem,
    extract::{Bearer, Json, Query},
    paging::{Onward, page_size},
};

/// Longest search, in Unicode code points.
const WORDS_CHARS: usize = 200;

/// Lines of usage that one answer has when the caller names no number, and at most.
const LINES: i64 = 1_000;

/// Days that one question about usage may span.
const DAYS: i64 = 366;

/// `GET /me`: who the caller is, as the database knows them now.
///
/// # Errors
/// 401 for a token that is not good.
pub async fn me(State(api): State<Api>, Bearer(who): Bearer) -> Result<Json<Me>, Problem> {
    Ok(Json(api.store.me(&who).await?))
}

/// The query of the agents.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentsQuery {
    tenant_id: TenantId,
    limit: Option<i64>,
    after: Option<String>,
}

/// `GET /agents`: the company's AI employees that one may talk to, by name.
///
/// # Errors
/// 400 for a bad query; 403 for a tenant not theirs.
pub async fn agents(
    State(api): State<Api>,
    Bearer(who): Bearer,
    Query(query): Query<AgentsQuery>,
) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let after = query.after.as_deref().map(agent_place).transpose()?;
    let mut agents = api.store.agents(&who, query.tenant_id, after.as_ref(), limit + 1).await?;
    let mut headers = HeaderMap::new();
    if agents.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        agents.pop();
        if let Some(last) = agents.last() {
            let onward = Onward::at("/agents")
                .with("tenant_id", Some(query.tenant_id))
                .with("limit", Some(limit))
                .with("after", Some(format!("{}.{}", last.id, last.name)));
            headers.insert(header::LINK, onward.link());
        }
    }
    Ok((headers, Json(agents)).into_response())
}

/// Reads a place among agents: an id, and the name that it is sorted by.
///
/// # Errors
/// 400 for what no Link header named.
pub fn agent_place(text: &str) -> Result<(String, AgentId)> {
    let read = text.split_once('.').and_then(|(id, name)| Some((name.to_owned(), id.parse().ok()?)));
    read.filter(|(name, _)| !name.contains('\0')).ok_or_else(|| not_named("after"))
}

/// The query of a search.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchQuery {
    tenant_id: TenantId,
    q: String,
    conversation_id: Option<ConversationId>,
    limit: Option<i64>,
    before: Option<String>,
}

/// `GET /search`: messages of one's own conversations in which words stand, newest first, with some of what stands around
/// them. Quoted words stand together, `-` is before what shall not be there, `or` between two; the last one may be a
/// beginning. One answer is of a bounded part of what was ever said: it may have fewer hits than asked for, or none, and
/// still name a next page.
///
/// # Errors
/// 400 for a bad query; 403 for a tenant not theirs.
pub async fn search(
    State(api): State<Api>,
    Bearer(who): Bearer,
    Query(query): Query<SearchQuery>,
) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let SearchQuery { tenant_id: tenant, q, conversation_id: conversation, before, .. } = query;
    if q.trim().is_empty() || q.contains('\0') || q.chars().count() > WORDS_CHARS {
        return Err(Error::field("q", format!("must be 1 to {WORDS_CHARS} characters of words to look for")).into());
    }
    let before = before.as_deref().map(said).transpose()?;
    let found = api.store.find(&who, &Search { tenant, conversation, words: &q, before, limit }).await?;
    let mut headers = HeaderMap::new();
    if let Some(Said { at, id }) = found.onward {
        let onward = Onward::at("/search")
            .with("tenant_id", Some(tenant))
            .with("q", Some(&q))
            .with("conversation_id", conversation)
            .with("limit", Some(limit))
            .with("before", Some(format!("{}.{id}", at.unix_micros())));
        headers.insert(header::LINK, onward.link());
    }
    Ok((headers, Json(found.hits)).into_response())
}

/// Reads a place in time: microseconds since 1970, and the message.
///
/// # Errors
/// 400 for what no Link header named.
pub fn said(text: &str) -> Result<Said> {
    let read = |text: &str| {
        let (micros, id) = text.split_once('.')?;
        let at = Timestamp::from_unix_micros(micros.parse().ok().filter(|micros| *micros >= 0)?)?;
        Some(Said { at, id: id.parse::<MessageId>().ok()? })
    };
    read(text).ok_or_else(|| not_named("before"))
}

/// The query of usage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageQuery {
    tenant_id: TenantId,
    from: String,
    to: String,
    limit: Option<i64>,
    after: Option<String>,
}

/// `GET /usage`: what the company's agents took, by day, agent and model, for its admins. Days are UTC's, `from` and `to`
/// among them.
///
/// # Errors
/// 400 for a bad query; 403 for a tenant not theirs, and for anyone but its admins.
pub async fn usage(
    State(api): State<Api>,
    Bearer(who): Bearer,
    Query(query): Query<UsageQuery>,
) -> Result<Response, Problem> {
    let limit @ 1..=LINES = query.limit.unwrap_or(LINES) else {
        return Err(Error::field("limit", format!("must be 1 to {LINES}")).into());
    };
    let (from, to) = (day("from", &query.from)?, day("to", &query.to)?);
    if !(0..DAYS).contains(&(to - from).whole_days()) {
        return Err(Error::field("to", format!("must be `from` or one of the {} days after it", DAYS - 1)).into());
    }
    let after = query.after.as_deref().map(line).transpose()?;
    let of = UsageOf { tenant: query.tenant_id, from, to, after, limit: limit + 1 };
    let mut lines = api.store.usage(&who, &of).await?;
    let mut headers = HeaderMap::new();
    if lines.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
        lines.pop();
        if let Some(last) = lines.last() {
            let onward = Onward::at("/usage")
                .with("tenant_id", Some(query.tenant_id))
                .with("from", Some(&query.from))
                .with("to", Some(&query.to))
                .with("limit", Some(limit))
                .with("after", Some(format!("{}.{}.{}", last.day, last.agent_id, last.model)));
            headers.insert(header::LINK, onward.link());
        }
    }
    Ok((headers, Json(lines)).into_response())
}

/// Reads a place among lines of usage: the day, the agent and the model that they are sorted by.
///
/// # Errors
/// 400 for what no Link header named.
pub fn line(text: &str) -> Result<(Day, AgentId, String)> {
    let read = |text: &str| {
        let (date, rest) = text.split_once('.')?;
        let (agent, model) = rest.split_once('.')?;
        Some((day("after", date).ok()?, agent.parse().ok()?, model.to_owned()))
    };
    read(text).filter(|(_, _, model)| !model.contains('\0')).ok_or_else(|| not_named("after"))
}

fn day(field: &'static str, text: &str) -> Result<Day> {
    let form = format_description!("[year]-[month]-[day]");
    Date::parse(text, form).map_err(|_| Error::field(field, "is not a day such as 2026-11-26"))
}

fn not_named(field: &'static str) -> Error {
    Error::field(field, "is not a place that a Link header named")
}
