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
    let (mut socket, ready) = Socket::join(&card.ws, &conversation, &user.token).await?;
    writeln!(out, "{} talks to {}. Ctrl-D ends.", user.handle, agent.name)?;
    if ready["last_seq"] != 0 {
        let page = rest.get(&format!("/conversations/{conversation}/messages?limit=10")).await?;
        for message in page.body.as_array().into_iter().flatten() {
            let who = if message["role"] == "user" { user.handle.as_str() } else { agent.name.as_str() };
            writeln!(out, "{who}: {}", text(&message["content"]))?;
        }
    }

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
                open -= usize::from(show(&frame, &agent.name, out)? && open > 0);
            }
        }
    }
    if refused > 0 {
        bail!("{refused} of the messages got no answer");
    }
    Ok(())
}

/// Shows a frame, and tells whether it ends a message of ours.
fn show(frame: &Value, agent: &str, out: &mut impl std::io::Write) -> Result<bool> {
    let ends = match frame["type"].as_str() {
        Some("typing") => {
            // Overwritten by what comes next; nothing for a file or a pipe.
            if std::io::stdout().is_terminal() {
                write!(out, "\u{1b}[K{agent} is typing …\r")?;
            }
            false
        }
        Some("response") => {
            clear(out)?;
            writeln!(out, "{agent}: {}", text(&frame["text"]))?;
            true
        }
        Some("message") => {
            writeln!(out, "(elsewhere) {}", text(&frame["message"]["content"]))?;
            false
        }
        Some("error") => {
            writeln!(out, "! {}", text(&frame["message"]))?;
            true
        }
        Some("reset") => {
            writeln!(out, "(the conversation was reset)")?;
            false
        }
        Some("turn") => frame["state"] == "stopped" || frame["state"] == "escalated",
        Some("reconnect") => bail!("the hub is going away; come back in a moment"),
        _ => false,
    };
    out.flush()?;
    Ok(ends)
}

/// Takes the typing line away.
fn clear(out: &mut impl std::io::Write) -> Result<()> {
    if std::io::stdout().is_terminal() {
        write!(out, "\u{1b}[K")?;
    }
    Ok(())
}

/// A text as a terminal may show it: what a model or a person wrote must not steer it.
fn text(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}
