//! A conversation as a file: as JSON, or as Markdown to be read.

use std::fmt::Write as _;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use chat_core::{
    conversation::{Author, Conversation, Message},
    store::messages::{Page, Position},
};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    Api,
    error::Problem,
    extract::{Bearer, InPath, Json, Query},
    messages::trim,
    paging::{Onward, seq},
};

/// Messages of one part. Lambda lets 6 MB out at once, so what is longer comes in parts.
const PART: i64 = 5_000;

/// As what.
#[derive(Clone, Copy, PartialEq, Eq, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// For a program.
    #[default]
    Json,
    /// For a person.
    Markdown,
}

/// The query of an export.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// As what; JSON if absent.
    #[serde(default)]
    #[param(inline)]
    format: Format,
    /// Only what was said after this `seq`.
    #[param(minimum = 0, maximum = 9_007_199_254_740_991_i64)]
    after: Option<i64>,
}

/// A conversation, or a part of it.
#[derive(Serialize, ToSchema)]
pub struct Export {
    /// What it is.
    conversation: Conversation,
    /// What was said, in the order in which it was.
    messages: Vec<Message>,
}

/// `GET /conversations/{id}/export`: all that was said, as a file. A very long conversation comes in parts, the next one named
/// by `Link`; Markdown parts are one file when put behind each other.
///
/// # Errors
/// 400 for a bad query; 404 where it is absent or not theirs, alike.
#[utoipa::path(
    get,
    path = "/conversations/{conversation_id}/export",
    operation_id = "export_conversation",
    tag = "conversations",
    params(ExportQuery),
    responses((
        status = 200,
        description = "The file, or a part of it.",
        content((Export = "application/json"), (String = "text/markdown")),
        headers(("Link" = String, description = "The next part, as `<…>; rel=\"next\"`; absent on the last."), ("Content-Disposition" = String, description = "What to call the file."))
    ))
)]
pub async fn export(
    State(api): State<Api>,
    Bearer(who): Bearer,
    InPath(id): InPath,
    Query(query): Query<ExportQuery>,
) -> Result<Response, Problem> {
    let after = seq("after", query.after.unwrap_or_default())?;
    let (conversation, mut messages, more) = api.store.export(&who, id, after, PART).await?;
    let more = trim(&mut messages, Page::After(Position::Seq(after))) || more;
    let mut headers = HeaderMap::new();
    if let Some(last) = messages.last().filter(|_| more) {
        let word = if query.format == Format::Markdown { "markdown" } else { "json" };
        let onward = Onward::at(&format!("/conversations/{id}/export")).with("format", Some(word));
        headers.insert(header::LINK, onward.with("after", Some(last.seq)).link());
    }
    let file = |ending| HeaderValue::from_str(&format!("attachment; filename=\"{id}.{ending}\""));
    let ending = if query.format == Format::Markdown { "md" } else { "json" };
    headers.insert(header::CONTENT_DISPOSITION, file(ending).expect("an id is header text"));
    Ok(match query.format {
        Format::Json => (headers, Json(Export { conversation, messages })).into_response(),
        Format::Markdown => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/markdown; charset=utf-8"));
            (headers, markdown(&conversation, &messages, after == 0)).into_response()
        }
    })
}

/// For a person: who said what, and when. What they wrote stands as they wrote it, set off as a quotation, so that a heading
/// in it is not taken for one of ours.
fn markdown(conversation: &Conversation, messages: &[Message], begins: bool) -> String {
    let mut out = String::new();
    let agent = conversation.agent_name.replace(['\n', '*'], " ");
    if begins {
        let title = conversation.title.as_deref().unwrap_or(&agent);
        let _ = write!(out, "# {title}\n\nA conversation with {agent}, since {}.\n", conversation.created_at);
    }
    for message in messages {
        let who = match (message.role, message.author_id) {
            (Author::User, None) => "User",
            (Author::User, Some(_)) => "Somebody else",
            (Author::Assistant, None) => &agent,
            (Author::Assistant, Some(_)) => "A person",
        };
        let _ = write!(out, "\n**{who}**, {}\n\n", message.created_at);
        for line in message.content.lines() {
            out.push_str(if line.is_empty() { ">" } else { "> " });
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use chat_core::{
        conversation::Status,
        ids::{AgentId, ConversationId, MessageId, TenantId},
        timestamp::Timestamp,
    };

    use super::*;

    #[test]
    fn what_was_written_is_set_off() {
        let at = Timestamp::from_unix(1_800_000_000).unwrap();
        let conversation = Conversation {
            id: ConversationId::new(),
            tenant_id: TenantId::new(),
            agent_id: AgentId::new(),
            agent_name: "Ana".to_owned(),
            created_at: at,
            updated_at: at,
            last_message_preview: None,
            status: Status::Agent,
            epoch: 0,
            last_seq: 2,
            title: Some("Holidays".to_owned()),
            archived_at: None,
            read_seq: 0,
            unread: Some(1),
            escalation: None,
        };
        let message = |seq, role, content: &str| Message {
            id: MessageId::new(),
            seq,
            role,
            content: content.to_owned(),
            created_at: at,
            reply_to: None,
            author_id: None,
            turn: None,
            feedback: None,
        };
        let messages = [message(1, Author::User, "# Big\n\nwords"), message(2, Author::Assistant, "Yes.")];
        let text = markdown(&conversation, &messages, true);
        assert_eq!(
            text,
            "# Holidays\n\nA conversation with Ana, since 2027-01-15T08:00:00.000Z.\n\
             \n**User**, 2027-01-15T08:00:00.000Z\n\n> # Big\n>\n> words\n\
             \n**Ana**, 2027-01-15T08:00:00.000Z\n\n> Yes.\n"
        );
        assert!(markdown(&conversation, &messages[1..], false).starts_with("\n**Ana**"), "a part goes on");
    }
}
