//! A small terminal client: a conversation through the real socket.

use std::io::IsTerminal as _;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::{
    card::{Card, UserCard},
    clients::{Rest, Socket},
};

/// Holds a conversation of `user` with an agent of their company: each line of `lines` is a message, what comes back is
/// written to `out`. Ends with the lines, once every message has its answer.
///
/// # Errors
/// If the agent is unknown, the stack is not there, or the socket ends.
pub async fn chat(
    card: &Card,
    user: &UserCard,
    agent: Option<&str>,
    lines: impl AsyncBufRead + Unpin,
    out: &mut impl std::io::Write,
) -> Result<()> {
    let theirs = |tenant| user.tenant_id.is_none_or(|own| own == tenant);
    let agent = card
        .agents
        .iter()
        .find(|known| theirs(known.tenant_id) && agent.is_none_or(|name| known.name.contains(name)))
        .with_context(|| format!("{} has no such agent", user.handle))?;
    let rest = Rest::new(&card.rest, Some(&user.token));
    let conversation = rest.open(agent.tenant_id, agent.id).await?;
    let (socket, ready) = Socket::join(&card.ws, &conversation, &user.token).await?;
    let mut socket = socket.trusting();
    writeln!(out, "{} talks to {}. Ctrl-D ends.", user.handle, agent.name)?;
    if ready["last_seq"] != 0 {
        let page = rest.get(&format!("/conversations/{conversation}/messages?limit=10")).await?;
        for message in page.body.as_array().into_iter().flatten() {
            let who = if message["role"] == "user" { user.handle.as_str() } else { agent.name.as_str() };
            writeln!(out, "{who}: {}", text(&message["content"]))?;
        }
    }

    let mut screen = Screen { agent: &agent.name, out, live: std::io::stdout().is_terminal(), draft: None };
    let mut lines = lines.lines();
    let (mut open, mut more, mut refused) = (0_usize, true, 0_usize);
    while more || open > 0 {
        tokio::select! {
            line = lines.next_line(), if more => match line? {
                Some(line) if line.trim().is_empty() => {}
                Some(line) => {
                    let id = chat_core::ids::ClientMessageId::new();
                    socket.say(&json!({"type": "message", "text": line, "client_message_id": id})).await?;
                    open += 1;
                }
                None => more = false,
            },
            frame = socket.next() => {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) if error.to_string() == "no frame came" => continue,
                    Err(error) => return Err(error),
                };
                refused += usize::from(frame["type"] == "error");
                open -= usize::from(screen.show(&frame)? && open > 0);
            }
        }
    }
    if refused > 0 {
        bail!("{refused} of the messages got no answer");
    }
    Ok(())
}

/// What stands in the line that is not ended yet.
struct Screen<'a, W> {
    agent: &'a str,
    out: &'a mut W,
    /// Whether what changes can be shown; else only what stays.
    live: bool,
    /// The reply that is being written, as far as it is shown.
    draft: Option<String>,
}

impl<W: std::io::Write> Screen<'_, W> {
    /// Shows a frame, and tells whether it ends a message of ours.
    fn show(&mut self, frame: &Value) -> Result<bool> {
        let ends = match frame["type"].as_str() {
            Some("typing") => {
                if self.live && self.draft.is_none() {
                    // Overwritten by what comes next.
                    write!(self.out, "\u{1b}[K{} is typing …\r", self.agent)?;
                }
                false
            }
            Some("delta") => {
                self.delta(frame["offset"] == 0, &text(&frame["text"]))?;
                false
            }
            Some("tool") if self.live && frame["state"] == "running" => {
                self.line(&format!("({} uses {})", self.agent, text(&frame["name"])))?;
                false
            }
            Some("response") => {
                let whole = text(&frame["text"]);
                match self.draft.take() {
                    Some(draft) if whole.starts_with(&draft) => writeln!(self.out, "{}", &whole[draft.len()..])?,
                    draft => {
                        self.draft = draft;
                        self.line(&format!("{}: {whole}", self.agent))?;
                    }
                }
                // A person's answer ends nothing.
                !frame["turn_id"].is_null()
            }
            Some("message") => {
                self.line(&format!("(elsewhere) {}", text(&frame["message"]["content"])))?;
                false
            }
            Some("error") => {
                self.line(&format!("! {}", text(&frame["message"])))?;
                true
            }
            Some("reset") => {
                self.line("(the conversation was reset)")?;
                false
            }
            Some("status") => {
                let who = if frame["status"] == "escalated" { "a person" } else { self.agent };
                self.line(&format!("({who} answers from now on)"))?;
                false
            }
            Some("turn") if frame["state"] == "stopped" => {
                self.line("(stopped)")?;
                // What was written came as a response already.
                frame["message_id"].is_null()
            }
            Some("turn") => frame["state"] == "escalated",
            Some("reconnect") => bail!("the hub is going away; come back in a moment"),
            _ => false,
        };
        self.out.flush()?;
        Ok(ends)
    }

    /// A piece of a reply: from the beginning, or where the last one ended.
    fn delta(&mut self, beginning: bool, words: &str) -> Result<()> {
        if !self.live {
            return Ok(());
        }
        if beginning {
            if self.draft.take().is_some() {
                writeln!(self.out, " …")?;
            }
            write!(self.out, "\u{1b}[K{}: ", self.agent)?;
            self.draft = Some(String::new());
        }
        if let Some(draft) = &mut self.draft {
            draft.push_str(words);
            write!(self.out, "{words}")?;
        }
        Ok(())
    }

    /// A line of its own, behind whatever was begun.
    fn line(&mut self, line: &str) -> Result<()> {
        if self.draft.take().is_some() {
            writeln!(self.out)?;
        }
        let clear = if self.live { "\u{1b}[K" } else { "" };
        Ok(writeln!(self.out, "{clear}{line}")?)
    }
}

/// A text as a terminal may show it: what a model or a person wrote must not steer it.
fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_shown_as_it_comes_and_once() {
        let delta = |offset, text| json!({"type": "delta", "offset": offset, "text": text});
        let response = |text| json!({"type": "response", "text": text, "turn_id": "t"});
        let stopped = json!({"type": "turn", "state": "stopped", "message_id": "m"});
        for (frames, live, piped, ends) in [
            (vec![delta(0, "Hel"), delta(3, "lo"), response("Hello.")], "Mila: Hello.\n", "Mila: Hello.\n", 1),
            (vec![response("Hello.")], "Mila: Hello.\n", "Mila: Hello.\n", 1),
            (
                vec![delta(0, "Wrong"), delta(0, "Ri"), response("Right")],
                "Mila: Wrong …\nMila: Right\n",
                "Mila: Right\n",
                1,
            ),
            (vec![delta(0, "Wrong"), response("Right")], "Mila: Wrong\nMila: Right\n", "Mila: Right\n", 1),
            (vec![delta(0, "He"), response("He"), stopped], "Mila: He\n(stopped)\n", "Mila: He\n(stopped)\n", 1),
            (vec![delta(2, "llo"), response("\u{1b}Hello")], "Mila: Hello\n", "Mila: Hello\n", 1),
        ] {
            for (is_live, shown) in [(true, live), (false, piped)] {
                let mut out = Vec::new();
                let mut screen = Screen { agent: "Mila", out: &mut out, live: is_live, draft: None };
                let ended = frames.iter().filter(|frame| screen.show(frame).unwrap()).count();
                assert_eq!(String::from_utf8(out).unwrap().replace("\u{1b}[K", ""), shown, "{frames:?}");
                assert_eq!(ended, ends, "{frames:?}");
            }
        }
    }
}
