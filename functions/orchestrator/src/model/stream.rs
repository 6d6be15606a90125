//! An answer as it comes in: server-sent events with a few characters each, and an end that must be said.

use std::{io, time::Duration};

use chat_core::text::{self, MAX_REPLY_BYTES};
use futures::StreamExt;
use serde::{Deserialize, de::IgnoredAny};
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::failure::Failure;

/// Longest line, in bytes: the longest answer in a single event.
const MAX_LINE_BYTES: usize = 1_048_576;

/// Longest wait for the rest of a stream whose answer is complete. Read to its end, its connection serves the next turn.
const GOODBYE: Duration = Duration::from_millis(100);

/// The part of an event that we read; the rest is passed over.
#[derive(Deserialize)]
struct Event {
    /// One, or none in an event about something else, such as usage.
    #[serde(default)]
    choices: Vec<Choice>,
    /// What went wrong after the status was sent.
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

/// Reads the whole answer, or nothing: a part of one is never returned.
///
/// Each event of this protocol is one line, `data: {…}`; other lines are comments and such, and passed over.
/// The answer is complete with a `finish_reason` or with `[DONE]`; some providers send but one of them. One that ended
/// because it reached the model's own limit (`length`) is an answer, too.
///
/// # Errors
/// What is wrong with it. Lost before the first token, the connection counts as never made.
pub(super) async fn read(body: impl AsyncRead, first_token: Instant, idle: Duration) -> Result<String, Failure> {
    let mut lines = std::pin::pin!(FramedRead::new(body, LinesCodec::new_with_max_length(MAX_LINE_BYTES)));
    let mut answer = String::new();
    let mut deadline = first_token;
    loop {
        let place = if answer.is_empty() { "before the first token" } else { "in the middle of an answer" };
        let line = timeout_at(deadline, lines.next()).await.map_err(|_| Failure::Silent(place))?;
        let line = line.ok_or(Failure::Unusable("the stream ended before the answer did"))?;
        let line = line.map_err(|error| broken(error, answer.is_empty()))?;
        let Some(data) = line.strip_prefix("data:") else { continue };
        let (text, ended) = piece(data.trim())?;
        if !text.is_empty() {
            answer.push_str(&text);
            deadline = Instant::now() + idle;
        }
        if answer.len() > MAX_REPLY_BYTES {
            return Err(Failure::Unusable("the answer is too long"));
        }
        if ended {
            break;
        }
    }
    // Nothing that follows can change the answer, so it does not matter how this ends.
    let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = lines.next().await {} }).await;
    if text::carried(&answer).trim().is_empty() {
        return Err(Failure::Unusable("the answer is empty"));
    }
    Ok(answer)
}

/// Why there is no next line.
fn broken(error: LinesCodecError, before_the_first_token: bool) -> Failure {
    match error {
        LinesCodecError::MaxLineLengthExceeded => Failure::Unusable("an event is too long"),
        LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            Failure::Unusable("the stream is no text")
        }
        LinesCodecError::Io(error) if before_the_first_token => Failure::Connection(error),
        LinesCodecError::Io(error) => Failure::Cut(error),
    }
}

/// What an event adds to the answer, and whether that is its end.
fn piece(data: &str) -> Result<(String, bool), Failure> {
    match data {
        "" => return Ok((String::new(), false)),
        "[DONE]" => return Ok((String::new(), true)),
        _ => {}
    }
    // The error of the parser would repeat a part of the text.
    let event: Event = serde_json::from_str(data).map_err(|_| Failure::Unusable("an event cannot be read"))?;
    if event.error.is_some() {
        return Err(Failure::Unusable("the provider failed in the middle of the stream"));
    }
    let Some(choice) = event.choices.into_iter().next() else { return Ok((String::new(), false)) };
    let text = choice.delta.and_then(|delta| delta.content).unwrap_or_default();
    match choice.finish_reason.as_deref() {
        None | Some("") => Ok((text, false)),
        Some("content_filter") => Err(Failure::Unusable("the provider held the answer back")),
        Some(_) => Ok((text, true)),
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use tokio_util::io::StreamReader;

    use super::*;

    /// Reads a body that arrives in parts of this many bytes.
    async fn read_in_parts(body: &str, size: usize) -> Result<String, String> {
        let parts = body.as_bytes().chunks(size).map(Ok::<_, io::Error>);
        let later = Duration::from_secs(10);
        let read = read(StreamReader::new(stream::iter(parts)), Instant::now() + later, later);
        read.await.map_err(|failure| failure.to_string())
    }

    #[tokio::test]
    async fn an_answer_is_whole_or_it_is_none() {
        let text = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let end =
            |reason: &str| format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n");
        let done = "data: [DONE]\n\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"total_tokens\":3}}\n\n";
        let said = text("Grüße ") + &text("😀");
        let long = text(&"x".repeat(MAX_REPLY_BYTES / 2));
        for (body, read) in [
            (format!("{said}{}{usage}{done}", end("stop")), Ok("Grüße 😀")),
            (format!("{said}{done}"), Ok("Grüße 😀")),
            (format!("{said}{}", end("stop")), Ok("Grüße 😀")),
            (format!("{said}{}", end("length")), Ok("Grüße 😀")),
            (format!(": a comment\r\n\r\ndata:\n\n{}{done}", said.replace('\n', "\r\n")), Ok("Grüße 😀")),
            (format!("{said}{}data: after the end\n\n", end("stop")), Ok("Grüße 😀")),
            (said.clone(), Err("the stream ended before the answer did")),
            (format!("{said}data: [DO"), Err("an event cannot be read")),
            (String::new(), Err("the stream ended before the answer did")),
            (format!("{said}{}", "x".repeat(MAX_LINE_BYTES + 1)), Err("an event is too long")),
            (format!("{said}data: {{\"choices\":\n\n{done}"), Err("an event cannot be read")),
            (
                format!("{said}data: {{\"error\":{{\"message\":\"overloaded\"}}}}\n\n{done}"),
                Err("the provider failed in the middle of the stream"),
            ),
            (format!("{said}{}{done}", end("content_filter")), Err("the provider held the answer back")),
            (format!("{}{done}", end("stop")), Err("the answer is empty")),
            (format!("{}{done}", text(" \\n\\u0000")), Err("the answer is empty")),
            (format!("{long}{long}{}{done}", text("x")), Err("the answer is too long")),
        ] {
            for size in [7, 1_400, body.len().max(1)] {
                let came = read_in_parts(&body, size).await;
                assert_eq!(came.as_deref().map_err(String::as_str), read, "{size}: {}", &body[..body.len().min(200)]);
            }
        }
    }
}
