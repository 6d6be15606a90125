//! Who is at the other end of a session: a socket, or somebody who reads a stream of events. What is told goes to either
//! alike and in the same order, each piece within a time.

use std::{sync::Arc, time::Duration};

use axum::{
    Error,
    extract::ws::{Message, Utf8Bytes, WebSocket},
};
use chat_core::event::ServerFrame;
use tokio::time::{error::Elapsed, timeout};

use crate::{close::Close, events::Reader, fanout::Event, metrics::Metrics};

/// Longest wait for a peer to take a frame. A slower reader is cut and catches up when it comes back.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest wait for a peer to take the end, and to answer it.
pub(crate) const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Who is there, and where it is counted what they are told.
pub(crate) struct Peer {
    end: End,
    metrics: Arc<Metrics>,
}

#[expect(clippy::large_enum_variant, reason = "nearly all are sockets, and one more allocation for each costs more")]
enum End {
    /// A WebSocket.
    Socket(WebSocket),
    /// The reader of an event stream, who says nothing on it.
    Reader(Reader),
}

impl Peer {
    /// Whoever has this socket.
    pub(crate) fn socket(socket: WebSocket, metrics: &Arc<Metrics>) -> Self {
        Self { end: End::Socket(socket), metrics: Arc::clone(metrics) }
    }

    /// Whoever reads this stream.
    pub(crate) fn reader(reader: Reader, metrics: &Arc<Metrics>) -> Self {
        Self { end: End::Reader(reader), metrics: Arc::clone(metrics) }
    }

    /// What the peer says next; `None` once it has gone. Loses nothing when cancelled.
    pub(crate) async fn recv(&mut self) -> Option<Result<Message, Error>> {
        match &mut self.end {
            End::Socket(socket) => socket.recv().await,
            End::Reader(reader) => {
                reader.gone().await;
                None
            }
        }
    }

    /// Says from where on what follows is told: a reader's events carry it.
    pub(crate) fn begins(&mut self, epoch: i32, last_seq: i64) {
        if let End::Reader(reader) = &mut self.end {
            reader.begins(epoch, last_seq);
        }
    }

    /// Writes a frame of our own.
    pub(crate) async fn frame(&mut self, frame: &ServerFrame) -> Result<(), Close> {
        self.text(frame, frame.json().into()).await
    }

    /// Writes what was published.
    pub(crate) async fn news(&mut self, event: &Event) -> Result<(), Close> {
        self.text(&event.frame, event.text.clone()).await
    }

    async fn text(&mut self, frame: &ServerFrame, text: Utf8Bytes) -> Result<(), Close> {
        self.metrics.told(frame);
        match &mut self.end {
            End::Socket(socket) => send(socket, Message::Text(text)).await,
            End::Reader(reader) => outcome(timeout(PATIENCE, reader.write(frame, &text)).await),
        }
    }

    /// Writes what keeps a proxy from closing a silent connection, and shows one that has gone.
    pub(crate) async fn ping(&mut self) -> Result<(), Close> {
        match &mut self.end {
            End::Socket(socket) => send(socket, Message::Ping(Vec::new().into())).await,
            End::Reader(reader) => outcome(timeout(PATIENCE, reader.keep_alive()).await),
        }
    }

    /// Whether a ping is answered. A reader's is acknowledged by its system alone, which our own looks after.
    pub(crate) fn answers(&self) -> bool {
        matches!(self.end, End::Socket(_))
    }

    /// Says why this is the end, and lets go.
    pub(crate) async fn goodbye(mut self, close: Close) {
        self.metrics.closed(close);
        let said = async {
            match (&mut self.end, close.frame()) {
                (End::Socket(socket), frame) => {
                    if let Some(frame) = frame {
                        socket.send(Message::Close(Some(frame))).await.ok()?;
                    }
                    // Leaving with unread bytes would reset the connection and take the close frame along. And whoever has
                    // sent theirs gets its answer by this.
                    while socket.recv().await?.is_ok() {}
                }
                (End::Reader(reader), Some(frame)) => reader.close(&frame).await.ok()?,
                (End::Reader(_), None) => {}
            }
            None::<()>
        };
        let _ = timeout(CLOSE_PATIENCE, said).await;
    }
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), Close> {
    outcome(timeout(PATIENCE, socket.send(message)).await)
}

fn outcome<E>(sent: Result<Result<(), E>, Elapsed>) -> Result<(), Close> {
    match sent {
        Ok(sent) => sent.map_err(|_| Close::Gone),
        Err(_) => Err(Close::TooSlow),
    }
}
