//! A background sender's end: it takes what is ready together, and when told to stop, what is left.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A receiver that closes on a token, and is empty before it ends.
pub(crate) struct Draining<T> {
    ready: mpsc::Receiver<T>,
    stop: CancellationToken,
}

impl<T> Draining<T> {
    pub(crate) fn new(ready: mpsc::Receiver<T>, stop: CancellationToken) -> Self {
        Self { ready, stop }
    }

    /// Whether nothing is ready.
    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Takes up to `most` that are ready, waiting for the first; none after `stop`, once nothing is left.
    pub(crate) async fn take(&mut self, batch: &mut Vec<T>, most: usize) -> usize {
        if !self.ready.is_closed() {
            tokio::select! {
                // Cancel-safe: nothing is taken unless it is returned.
                taken = self.ready.recv_many(batch, most) => return taken,
                () = self.stop.cancelled() => self.ready.close(),
            }
        }
        self.ready.recv_many(batch, most).await
    }
}
