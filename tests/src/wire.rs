//! A TCP proxy that counts the round trips on a connection: how often the client spoke after it had been answered. And
//! can hold back what the client says.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// A proxy in front of one server.
pub struct Wire {
    /// Where to connect instead.
    pub address: SocketAddr,
    trips: Arc<AtomicUsize>,
    held: watch::Sender<bool>,
}

impl Wire {
    /// Starts one in front of `server`.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn before(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let trips = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&trips);
        let (held, holding) = watch::channel(false);
        let never = watch::channel(false).1;
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                // Each packet passes as it is; waiting to fill one would merge what was sent apart.
                if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                    continue;
                }
                let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
                let answered = Arc::new(AtomicBool::new(true));
                let (speaks, answers) = (Arc::clone(&answered), answered);
                let counted = Arc::clone(&counted);
                let holding = holding.clone();
                tokio::spawn(pass(from_client, to_server, holding, move || {
                    if speaks.swap(false, Ordering::SeqCst) {
                        counted.fetch_add(1, Ordering::SeqCst);
                    }
                }));
                tokio::spawn(pass(from_server, to_client, never.clone(), move || {
                    answers.store(true, Ordering::SeqCst)
                }));
            }
        });
        Ok(Self { address, trips, held })
    }

    /// Keeps what clients say from the server, or lets it pass again.
    pub fn hold(&self, held: bool) {
        // Without connections nobody needs to know.
        self.held.send_replace(held);
    }

    /// Round trips since the start, on all connections.
    #[must_use]
    pub fn trips(&self) -> usize {
        self.trips.load(Ordering::SeqCst)
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut holding: watch::Receiver<bool>, seen: impl Fn()) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        seen();
        if *holding.borrow() && holding.wait_for(|held| !held).await.is_err() {
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
