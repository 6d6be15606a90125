//! A question put to Postgres over somebody else's connection, while they are not speaking: how it stands, they could not
//! say themselves.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tokio::{
    io::AsyncWriteExt,
    sync::oneshot,
    time::{Duration, timeout},
};

use super::{Conn, Wire, lock};

/// Longest wait for the answer to a question.
const PATIENCE: Duration = Duration::from_secs(10);

/// A question that was put, what has come for it, and who asked.
pub(super) struct Aside {
    answer: Vec<u8>,
    asked: oneshot::Sender<Vec<u8>>,
}

/// What a server says when it waits for the next query, without its last byte: whether a transaction is open.
/// Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>, `ReadyForQuery`.
const READY: &[u8] = b"Z\0\0\0\x05";

impl Conn {
    /// Passes on what the client said; false if the server is gone.
    pub(super) async fn tell_server(&self, said: &[u8]) -> bool {
        match self.to_server.lock().await.as_mut() {
            Some(server) => server.write_all(said).await.is_ok(),
            None => false,
        }
    }
}

/// Whether what the server said was for whoever asked aside; the client does not hear it then.
pub(super) fn heard(conn: &Conn, said: &[u8]) -> bool {
    let mut aside = lock(&conn.aside);
    let Some(Aside { answer, .. }) = aside.as_mut() else { return false };
    answer.extend_from_slice(said);
    let whole = answer.len() > READY.len() && answer[..answer.len() - 1].ends_with(READY);
    if let Some(Aside { answer, asked }) = aside.take_if(|_| whole) {
        // Whoever asked may have gone home.
        let _ = asked.send(answer);
    }
    true
}

impl Wire {
    /// Asks Postgres for one number, in a simple query on the newest connection, whose client must wait for nothing: and
    /// makes sure that no transaction is open on it.
    ///
    /// # Errors
    /// If nobody is connected, the query is refused, or a transaction is open.
    pub async fn ask_aside(&self, query: &str) -> Result<i64> {
        let conn: Arc<Conn> = lock(&self.shared.newest).upgrade().context("nobody is connected")?;
        let (asked, answer) = oneshot::channel();
        *lock(&conn.aside) = Some(Aside { answer: Vec::new(), asked });
        let length = u32::try_from(query.len() + 5).context("a short query")?;
        let message = [b"Q".as_slice(), &length.to_be_bytes(), query.as_bytes(), b"\0"].concat();
        ensure!(conn.tell_server(&message).await, "the server is gone");
        let answer = timeout(PATIENCE, answer).await.context("no answer")?.context("the connection ended")?;
        ensure!(answer.last() == Some(&b'I'), "a transaction is open: {}", String::from_utf8_lossy(&answer));
        number(&answer).with_context(|| format!("no number: {}", String::from_utf8_lossy(&answer)))
    }
}

/// The number in the only column of the only row of an answer.
fn number(answer: &[u8]) -> Option<i64> {
    let mut rest = answer;
    while let [kind, a, b, c, d, ..] = *rest {
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).ok()?;
        // A row: its columns' count in two bytes, the column's length in four, then its text.
        if kind == b'D' {
            return std::str::from_utf8(rest.get(11..=length)?).ok()?.parse().ok();
        }
        rest = rest.get(length + 1..)?;
    }
    None
}
