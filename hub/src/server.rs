//! Takes connections and reads requests from them, within a time: a peer may be slow, silent, or gone without a word.
//!
//! `axum::serve` sets no such time, so this stands in its stead: hyper's own HTTP/1.1 with a timer. Once a connection has
//! become a socket it is left to its session.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::{Router, serve::Listener};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use crate::{
    address::{Addresses, Stranger},
    gate::Gate,
    line::Line,
};

/// Bytes of a request's head after which hyper reads no more of it: a token has 8 KiB at most, and a browser's other headers
/// a few. It looks between two reads, so up to twice as much may pass. Past it, or past its 100 headers, the answer is 431.
const HEAD_BYTES: usize = 32 * 1024;

/// How long a peer may leave what we sent unacknowledged, or our probes unanswered, before its connection is cut. A ping
/// goes out every 25 s, so whose packets are dropped is gone within a minute; our own pings alone would take 75 s.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Silence after which the system asks whether a peer is there, and the time between two such probes.
const PROBE: (Duration, Duration) = (Duration::from_secs(25), Duration::from_secs(10));

/// Connections that are told at once why they are not taken. Beyond, they are closed without a word.
static TURNED_AWAY: Semaphore = Semaphore::const_new(64);

/// How long such a one has to hear it.
const HEARS: Duration = Duration::from_secs(1);

/// What they are told.
const TOO_MANY: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 5\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 44\r\n\r\ntoo many connections without authentication\n";

/// Who is at the other end of a request's connection.
#[derive(Clone)]
pub(crate) struct Guest {
    /// Their address, or their proxy's.
    pub(crate) peer: SocketAddr,
    /// The count they stand in; none where a proxy speaks for many.
    pub(crate) stranger: Option<Stranger>,
    /// How much is read of them.
    pub(crate) gate: Gate,
    /// Their connection.
    pub(crate) line: Weak<Line>,
}

/// Serves until `leaving`, then lets the requests end that have begun. Sockets and streams are their sessions' own.
pub(crate) async fn serve(
    mut listener: TcpListener,
    router: Router,
    addresses: Addresses,
    patience: Duration,
    leaving: CancellationToken,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(patience).max_buf_size(HEAD_BYTES);
    let connections = TaskTracker::new();
    loop {
        let (tcp, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = leaving.cancelled() => break,
        };
        if let Err(error) = prepare(&tcp) {
            warn!(%error, "a connection keeps the system's settings");
        }
        let stranger = if addresses.direct() {
            let Some(stranger) = addresses.admit(peer.ip()) else {
                turn_away(tcp);
                continue;
            };
            Some(stranger)
        } else {
            None
        };
        let (http, router, leaving) = (http.clone(), router.clone(), leaving.clone());
        let line = Arc::new(Line::new(stranger, connections.token()));
        tokio::spawn(async move {
            let (gate, gated) = Gate::before(tcp);
            let router = TowerToHyperService::new(router);
            let answer = service_fn(|mut request: Request<Incoming>| {
                let (stranger, gate, line) = (line.stranger(), gate.clone(), Arc::downgrade(&line));
                request.extensions_mut().insert(Guest { peer, stranger, gate, line });
                router.call(request)
            });
            let mut serving = pin!(http.serve_connection(TokioIo::new(gated), answer).with_upgrades());
            let served = async {
                tokio::select! {
                    served = serving.as_mut() => served,
                    () = leaving.cancelled() => {
                        serving.as_mut().graceful_shutdown();
                        serving.await
                    }
                }
            };
            tokio::select! {
                served = served => if let Err(error) = served {
                    debug!(%error, "a connection ended");
                },
                () = line.overdue() => debug!("a connection was cut at the end of its stream"),
            }
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Frames are small and each is flushed: waiting for an acknowledgement to fill a packet only delays them. And the system
/// shall notice by itself when a peer has gone without a word.
fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE.0).with_interval(PROBE.1))?;
    // Linux, where hubs run, counts probes into it as well.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// Tells a peer that its address has too many connections, and reads what it has sent: closing over it would take the
/// answer along.
fn turn_away(mut tcp: TcpStream) {
    let Ok(permit) = TURNED_AWAY.try_acquire() else { return };
    tokio::spawn(timeout(HEARS, async move {
        let _permit = permit;
        tcp.write_all(TOO_MANY).await?;
        tcp.shutdown().await?;
        copy(&mut tcp, &mut sink()).await
    }));
}
