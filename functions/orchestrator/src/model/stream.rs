//! An answer as it comes in: lines with a few characters each, or one document, and an end that must be said.

use std::{io, mem, pin::Pin, time::Duration};

use chat_core::text::{self, MAX_REPLY_BYTES};
use futures::StreamExt;
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};

use super::{
    Piece, Usage,
    dialect::{Heard, Listener},
    failure::Failure,
};

/// Longest line, in bytes: the longest answer in a single event. A document that comes whole is as long at most.
const MAX_LINE_BYTES: usize = 1_048_576;

/// Longest wait for what a complete answer took: most send it in the event behind the last one.
const USAGE: Duration = Duration::from_millis(500);

/// Longest wait for the rest of a stream of which nothing more is wanted. Read to its end, its connection serves the next
/// turn.
const GOODBYE: Duration = Duration::from_millis(100);

/// The body of a response.
pub(super) type Body = Pin<Box<dyn AsyncRead + Send>>;

/// How an answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As server-sent events. In all protocols spoken here each is one line, `data: {…}`; other lines are names of
    /// events, comments and such.
    Events,
    /// As one JSON document, although a stream was asked for.
    Whole,
}

/// How long an answer is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    /// Until then the model must be seen at work.
    pub first_token: Instant,
    /// Longest silence afterwards.
    pub idle: Duration,
    /// Until then everything must have come.
    pub until: Instant,
}

/// An answer that is coming in.
///
/// It is complete where the protocol says so; some providers leave it at that, so what follows, usage perhaps, is waited
/// for only shortly and can spoil nothing. One that ended because it reached a limit of the model is an answer, too.
pub(super) struct Answer {
    lines: FramedRead<Body, LinesCodec>,
    listener: Box<dyn Listener>,
    form: Form,
    wait: Wait,
    deadline: Instant,
    /// The model was seen at work.
    works: bool,
    /// Pieces were given out.
    begun: bool,
    /// There was more than blanks.
    substance: bool,
    bytes: usize,
    usage: Option<Usage>,
    complete: bool,
    last: bool,
}

/// What comes next.
pub(super) enum Next {
    /// More of it.
    Pieces(Vec<Piece>),
    /// It was complete.
    End(Option<Usage>),
}

impl Answer {
    pub(super) fn new(body: Body, form: Form, listener: Box<dyn Listener>, wait: Wait) -> Self {
        Self {
            lines: FramedRead::new(body, LinesCodec::new_with_max_length(MAX_LINE_BYTES)),
            listener,
            form,
            wait,
            deadline: wait.first_token.min(wait.until),
            works: false,
            begun: false,
            substance: false,
            bytes: 0,
            usage: None,
            complete: false,
            last: false,
        }
    }

    /// Waits for more.
    ///
    /// # Errors
    /// What is wrong with it. Lost before the first piece, the connection counts as never made.
    pub(super) async fn next(&mut self) -> Result<Next, Failure> {
        loop {
            if self.complete {
                return self.end().await;
            }
            let Some(heard) = self.hear().await? else { continue };
            let pieces = self.take(heard)?;
            if !pieces.is_empty() {
                self.begun = true;
                return Ok(Next::Pieces(pieces));
            }
        }
    }

    /// One event, or the document; `None` for a line that says nothing.
    async fn hear(&mut self) -> Result<Option<Heard>, Failure> {
        if self.form == Form::Whole {
            let body = self.document().await?;
            return self.listener.whole(&body).map(Some);
        }
        let line = self.line().await?.ok_or(Failure::Unusable("the stream ended before the answer did"))?;
        match line.strip_prefix("data:").map(str::trim) {
            None | Some("") => Ok(None),
            Some(data) => self.listener.event(data).map(Some),
        }
    }

    async fn document(&mut self) -> Result<String, Failure> {
        let mut document = String::new();
        while let Some(line) = self.line().await? {
            document.push_str(&line);
            document.push('\n');
            if document.len() > MAX_LINE_BYTES {
                return Err(Failure::Unusable("an event is too long"));
            }
        }
        Ok(document)
    }

    async fn line(&mut self) -> Result<Option<String>, Failure> {
        let place = if self.works { "in the middle of an answer" } else { "before the first token" };
        let line = timeout_at(self.deadline, self.lines.next()).await.map_err(|_| {
            // Who was at work to the end was not silent.
            if self.deadline == self.wait.until { Failure::OutOfTime } else { Failure::Silent(place) }
        })?;
        line.transpose().map_err(|error| match error {
            LinesCodecError::MaxLineLengthExceeded => Failure::Unusable("an event is too long"),
            LinesCodecError::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                Failure::Unusable("the stream is no text")
            }
            LinesCodecError::Io(error) if self.begun => Failure::Cut(error),
            LinesCodecError::Io(error) => Failure::Connection(error),
        })
    }

    fn take(&mut self, heard: Heard) -> Result<Vec<Piece>, Failure> {
        self.usage = heard.usage.or(self.usage);
        self.complete = heard.complete;
        self.last = heard.last;
        if heard.works {
            self.works = true;
            self.deadline = (Instant::now() + self.wait.idle).min(self.wait.until);
        }
        self.bytes += heard.text.len();
        if self.bytes > MAX_REPLY_BYTES {
            return Err(Failure::Unusable("the answer is too long"));
        }
        self.substance = self.substance || !heard.calls.is_empty() || !text::carried(&heard.text).trim().is_empty();
        let text = Some(heard.text).filter(|text| !text.is_empty()).map(Piece::Text);
        Ok(text.into_iter().chain(heard.calls.into_iter().map(Piece::Call)).collect())
    }

    /// Nothing that follows can change the answer, so it does not matter how this ends.
    async fn end(&mut self) -> Result<Next, Failure> {
        if !self.substance {
            return Err(Failure::Unusable("the answer is empty"));
        }
        let had = self.usage;
        let usage = async {
            while !mem::take(&mut self.last) {
                let Some(Ok(line)) = self.lines.next().await else { break };
                let data = line.strip_prefix("data:").map(str::trim).filter(|data| !data.is_empty());
                let Some(Ok(heard)) = data.map(|data| self.listener.event(data)) else { continue };
                self.usage = heard.usage.or(self.usage);
                self.last = heard.last;
            }
        };
        let patience = if had.is_some() { GOODBYE } else { USAGE };
        if timeout(patience, usage).await.is_ok() {
            let _ = timeout(GOODBYE, async { while let Some(Ok(_)) = self.lines.next().await {} }).await;
        }
        Ok(Next::End(self.usage))
    }
}

#[cfg(test)]
mod tests {
    use chat_core::config::Speaks;
    use futures::stream;
    use tokio_util::io::StreamReader;

    use super::{super::dialect, *};

    /// Reads a body that arrives in parts of this many bytes: its text, and what it took.
    async fn read_in_parts(body: &str, form: Form, size: usize) -> Result<(String, Option<Usage>), String> {
        let parts: Vec<io::Result<Vec<u8>>> = body.as_bytes().chunks(size).map(|part| Ok(part.to_vec())).collect();
        let body = StreamReader::new(stream::iter(parts).map(|part| part.map(io::Cursor::new)));
        let idle = Duration::from_secs(10);
        let wait = Wait { first_token: Instant::now() + idle, idle, until: Instant::now() + idle };
        let mut answer = Answer::new(Box::pin(body), form, dialect::listener(Speaks::OpenAi), wait);
        let mut text = String::new();
        loop {
            match answer.next().await.map_err(|failure| failure.to_string())? {
                Next::Pieces(pieces) => {
                    for piece in pieces {
                        match &piece {
                            Piece::Text(part) => text.push_str(part),
                            Piece::Anew | Piece::Call(_) | Piece::End(_) => panic!("{piece:?}"),
                        }
                    }
                }
                Next::End(usage) => return Ok((text, usage)),
            }
        }
    }

    #[tokio::test]
    async fn an_answer_is_whole_or_it_is_none() {
        let text = |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let end =
            |reason: &str| format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{reason}\"}}]}}\n\n");
        let done = "data: [DONE]\n\n";
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\n";
        let said = text("Grüße ") + &text("😀");
        let long = text(&"x".repeat(MAX_REPLY_BYTES / 2));
        let (greeting, took) = ("Grüße 😀".to_owned(), Some(Usage { input_tokens: 3, output_tokens: 2 }));
        for (body, read) in [
            (format!("{said}{}{usage}{done}", end("stop")), Ok((greeting.clone(), took))),
            (format!("{said}{usage}{}{done}", end("stop")), Ok((greeting.clone(), took))),
            (format!("{said}{}{usage}", end("stop")), Ok((greeting.clone(), took))),
            (format!("{said}{done}"), Ok((greeting.clone(), None))),
            (format!("{said}{}", end("stop")), Ok((greeting.clone(), None))),
            (format!("{said}{}", end("length")), Ok((greeting.clone(), None))),
            (
                format!(": a comment\r\n\r\nevent: x\ndata:\n\n{}{done}", said.replace('\n', "\r\n")),
                Ok((greeting.clone(), None)),
            ),
            (format!("{said}{}data: after the end\n\n{usage}", end("stop")), Ok((greeting.clone(), took))),
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
                let came = read_in_parts(&body, Form::Events, size).await;
                let read = read.clone().map_err(str::to_owned);
                assert_eq!(came, read, "{size}: {}", body.chars().take(200).collect::<String>());
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_comes_as_one_document_is_read_too() {
        let document = |message: &str| {
            format!(
                "{{\"choices\":[{{\"message\":{message},\n\"finish_reason\":\"stop\"}}],\n\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":2}}}}\n"
            )
        };
        let took = Some(Usage { input_tokens: 3, output_tokens: 2 });
        for (body, read) in [
            (document("{\"role\":\"assistant\",\"content\":\"Grüße 😀\"}"), Ok(("Grüße 😀".to_owned(), took))),
            (document("{\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}"), Ok(("a".to_owned(), took))),
            (document("{\"content\":null}"), Err("the answer is empty")),
            ("{\"choices\":[]}".to_owned(), Err("the answer has no choices")),
            ("<html>".to_owned(), Err("an event cannot be read")),
            (String::new(), Err("an event cannot be read")),
            (format!("[{}", "1,\n".repeat(MAX_LINE_BYTES / 2)), Err("an event is too long")),
        ] {
            let came = read_in_parts(&body, Form::Whole, 1_400).await;
            assert_eq!(came, read.map_err(str::to_owned), "{}", body.chars().take(200).collect::<String>());
        }
    }
}
