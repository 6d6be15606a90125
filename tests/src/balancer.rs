//! A TCP load balancer in front of several servers: each new connection goes to the next one that takes it.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A balancer. Dropping it ends its connections.
pub struct Balancer {
    /// Where clients connect.
    pub address: SocketAddr,
    generation: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Starts one in front of these servers.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn before(servers: Vec<SocketAddr>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let generation = watch::Sender::new(0);
        let moods = generation.subscribe();
        let task = tokio::spawn(async move {
            let next = AtomicUsize::new(0);
            while let Ok((client, _)) = listener.accept().await {
                let first = next.fetch_add(1, Ordering::Relaxed);
                let servers: Vec<_> = (0..servers.len()).map(|n| servers[(first + n) % servers.len()]).collect();
                tokio::spawn(connect(client, servers, moods.clone()));
            }
        });
        Ok(Self { address, generation, task })
    }

    /// Cuts every client off at once; they may come again.
    pub fn sever(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.sever();
        self.task.abort();
    }
}

async fn connect(mut client: TcpStream, servers: Vec<SocketAddr>, mut moods: watch::Receiver<usize>) {
    moods.mark_unchanged();
    for server in servers {
        let Ok(mut server) = TcpStream::connect(server).await else { continue };
        if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
            return;
        }
        tokio::select! {
            // However it ends, it has ended.
            _ = copy_bidirectional(&mut client, &mut server) => {}
            _ = moods.changed() => {}
        }
        return;
    }
}
