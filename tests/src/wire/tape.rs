//! What was said over a link, byte for byte, and what of it was asked of Postgres.
//!
//! The messages of a client are read as the protocol has them:
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>. So a test sees which statements a request has
//! run, in which transaction, whatever the service itself would say of it.

use std::collections::HashMap;

/// Bytes that passed in one piece.
#[derive(Debug, Clone)]
pub struct Said {
    /// Over which connection, numbered in the order in which they spoke.
    pub conn: usize,
    /// From the client; otherwise from the server.
    pub by_client: bool,
    /// What.
    pub bytes: Vec<u8>,
}

/// What was said until now.
#[derive(Debug, Clone, Default)]
pub struct Tape {
    /// In the order in which it passed.
    pub said: Vec<Said>,
}

impl Tape {
    /// How often a word stands in what the server said.
    #[must_use]
    pub fn count(&self, word: &str) -> usize {
        let mut conns: HashMap<usize, Vec<u8>> = HashMap::new();
        for said in self.said.iter().filter(|said| !said.by_client) {
            conns.entry(said.conn).or_default().extend_from_slice(&said.bytes);
        }
        let count = |said: &Vec<u8>| said.windows(word.len()).filter(|window| *window == word.as_bytes()).count();
        conns.values().map(count).sum()
    }

    /// The transactions that ran, each as its statements; what is not in one stands alone. Those of a connection come in
    /// their order, the connections one after the other.
    #[must_use]
    pub fn transactions(&self) -> Vec<Vec<String>> {
        let mut conns: Vec<(usize, Vec<u8>)> = Vec::new();
        for said in self.said.iter().filter(|said| said.by_client) {
            match conns.iter_mut().find(|(conn, _)| *conn == said.conn) {
                Some((_, bytes)) => bytes.extend_from_slice(&said.bytes),
                None => conns.push((said.conn, said.bytes.clone())),
            }
        }
        let mut transactions = Vec::new();
        for (_, bytes) in &conns {
            let mut open: Option<Vec<String>> = None;
            for statement in statements(bytes) {
                let begins = statement.starts_with("begin");
                let commits = statement == "commit";
                if begins {
                    open = Some(Vec::new());
                }
                match &mut open {
                    Some(transaction) => transaction.push(statement),
                    None => transactions.push(vec![statement]),
                }
                if commits {
                    transactions.extend(open.take());
                }
            }
        }
        transactions
    }
}

/// The statements that a client has run over one connection: what was bound, by the text it was prepared with, and
/// simple queries.
fn statements(bytes: &[u8]) -> Vec<String> {
    let mut prepared: HashMap<String, String> = HashMap::new();
    let mut run = Vec::new();
    let mut rest = bytes;
    // The first messages of a connection have no type.
    while rest.first() == Some(&0) {
        rest = message(rest).map_or(&[], |(_, after)| after);
    }
    while let Some((kind, after_kind)) = rest.split_first() {
        let Some((body, after)) = message(after_kind) else { break };
        rest = after;
        match kind {
            b'Q' => run.push(text(body).0),
            b'P' => {
                let (name, body) = text(body);
                prepared.insert(name, text(body).0);
            }
            b'B' => {
                let (_portal, body) = text(body);
                let name = text(body).0;
                run.push(prepared.get(&name).cloned().unwrap_or_else(|| format!("prepared before: {name}")));
            }
            _ => {}
        }
    }
    run
}

/// A message behind its type: what its length, which counts itself, says; and what follows.
fn message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    Some((bytes.get(4..length)?, bytes.get(length..)?))
}

/// A text that ends with a zero, and what follows.
fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
        [&[kind], length.as_slice(), body].concat()
    }

    #[test]
    fn a_clients_messages_are_read_as_the_statements_they_run() {
        let startup = [0, 0, 0, 8, 0, 3, 0, 0];
        let bytes = [
            startup.as_slice(),
            &framed(b'P', b"s1\0select 1\0\0\0"),
            &framed(b'Q', b"begin; set local x = 1\0"),
            &framed(b'B', b"\0s1\0rest"),
            &framed(b'E', b"\0\0\0\0\0"),
            &framed(b'Q', b"commit\0"),
            &framed(b'Q', b"vacuum\0"),
        ]
        .concat();
        // However it was cut on its way.
        let (first, second) = bytes.split_at(13);
        let said = |bytes: &[u8]| Said { conn: 0, by_client: true, bytes: bytes.to_vec() };
        let tape = Tape { said: vec![said(first), said(second)] };
        let expected = [vec!["begin; set local x = 1", "select 1", "commit"], vec!["vacuum"]];
        assert_eq!(tape.transactions(), expected);
    }

    #[test]
    fn what_the_server_told_is_found_across_pieces() {
        let said = |by_client, bytes: &[u8]| Said { conn: 1, by_client, bytes: bytes.to_vec() };
        let tape = Tape { said: vec![said(false, b"..sec"), said(true, b"other"), said(false, b"ret..")] };
        assert_eq!((tape.count("secret"), tape.count("other")), (1, 0));
    }
}
