//! A TCP proxy in front of one server, with which a link between two programs is counted, held, cut and trapped.
//!
//! Faults of the network are here and nowhere in the product: a link that is *held* is silent without being closed; one
//! that is *cut* is closed and refused; a *trap* waits for a request that holds certain bytes and swallows either it or
//! its answer, so that a process can be killed just before or just after its server did what it asked.

mod aside;
mod tape;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{oneshot, watch},
};

pub use tape::{Said, Tape};

/// A proxy in front of one server.
pub struct Wire {
    /// Where to connect instead.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

/// What a trap does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Holds the whole link, the request included, until it is let go: what happens meanwhile happens before it.
    Before,
    /// Swallows the request: the server never sees it.
    Asked,
    /// Swallows the answer: the server has done what was asked, and the client never hears of it.
    Answered,
}

struct Shared {
    server: Mutex<SocketAddr>,
    trips: AtomicUsize,
    mood: watch::Sender<Mood>,
    /// The trap that is set here, perhaps on other links, too; and which link this is to whoever set it.
    trap: Mutex<Option<(SharedTrap, usize)>>,
    /// What is said, where it is kept.
    tape: Mutex<Option<Tape>>,
    /// Connections until now.
    conns: AtomicUsize,
    /// The newest one.
    newest: Mutex<std::sync::Weak<Conn>>,
}

/// A trap, gone once somebody has walked into it.
type SharedTrap = Arc<Mutex<Option<Trap>>>;

/// What the link does with its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mood {
    state: State,
    /// Connections of an older generation have been severed.
    generation: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Held,
    Cut,
}

struct Trap {
    needle: Vec<u8>,
    moment: Moment,
    sprung: oneshot::Sender<usize>,
}

/// What the two directions of a connection know of each other.
#[derive(Default)]
struct Conn {
    /// Which one.
    number: usize,
    /// The client has spoken since the server did.
    asked: AtomicBool,
    /// A trap has this connection: neither half reaches its receiver any more.
    swallows: Mutex<Option<Moment>>,
    /// To be told once the trapped answer comes.
    sprung: Mutex<Option<(oneshot::Sender<usize>, usize)>>,
    /// The way to the server.
    to_server: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    /// What was said aside, and is not for the client to hear.
    aside: Mutex<Option<aside::Aside>>,
}

impl Wire {
    /// Starts one in front of `server`.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn before(server: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            server: Mutex::new(server),
            trips: AtomicUsize::new(0),
            mood: watch::Sender::new(Mood { state: State::Open, generation: 0 }),
            trap: Mutex::new(None),
            tape: Mutex::new(None),
            conns: AtomicUsize::new(0),
            newest: Mutex::default(),
        });
        tokio::spawn(accept(listener, Arc::downgrade(&shared)));
        Ok(Self { address, shared })
    }

    /// Leads new connections to another server; those that stand stay.
    pub fn lead_to(&self, server: SocketAddr) {
        *lock(&self.shared.server) = server;
    }

    /// Holds back whatever either side says, without a word, or lets it pass again.
    pub fn hold(&self, held: bool) {
        self.shared.mood.send_modify(|mood| mood.state = if held { State::Held } else { State::Open });
    }

    /// Closes every connection and refuses new ones, or lets them in again.
    pub fn cut(&self, cut: bool) {
        self.shared.mood.send_modify(|mood| {
            mood.state = if cut { State::Cut } else { State::Open };
            mood.generation += 1;
        });
    }

    /// Closes every connection; new ones are welcome.
    pub fn sever(&self) {
        self.cut(false);
    }

    /// Waits for a request that holds `needle`, and says so once it came. A connection that had something swallowed passes
    /// nothing any more. The last trap set is the one that holds; dropping the receiver disarms it.
    pub fn trap(&self, needle: &str, moment: Moment) -> oneshot::Receiver<usize> {
        Self::trap_any(&[self], needle, moment)
    }

    /// Sets one trap on several links, for whoever comes first; tells the number of that link.
    pub fn trap_any(wires: &[&Self], needle: &str, moment: Moment) -> oneshot::Receiver<usize> {
        let (sprung, receiver) = oneshot::channel();
        let trap = Arc::new(Mutex::new(Some(Trap { needle: needle.as_bytes().to_vec(), moment, sprung })));
        for (number, wire) in wires.iter().enumerate() {
            *lock(&wire.shared.trap) = Some((Arc::clone(&trap), number));
        }
        receiver
    }

    /// Keeps all that is said from now on.
    pub fn record(&self) {
        *lock(&self.shared.tape) = Some(Tape::default());
    }

    /// What was said since it is kept.
    #[must_use]
    pub fn tape(&self) -> Tape {
        lock(&self.shared.tape).clone().unwrap_or_default()
    }

    /// Round trips since the start, on all connections: how often a client spoke after it had been answered.
    #[must_use]
    pub fn trips(&self) -> usize {
        self.shared.trips.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut(true);
    }
}

async fn accept(listener: TcpListener, shared: std::sync::Weak<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let Some(shared) = shared.upgrade() else { return };
        let mood = *shared.mood.borrow();
        if mood.state == State::Cut {
            continue;
        }
        tokio::spawn(async move {
            let server = *lock(&shared.server);
            let Ok(server) = TcpStream::connect(server).await else { return };
            // Each packet passes as it is; waiting to fill one would merge what was sent apart.
            if client.set_nodelay(true).and(server.set_nodelay(true)).is_err() {
                return;
            }
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let number = shared.conns.fetch_add(1, Ordering::SeqCst);
            let to_server = tokio::sync::Mutex::new(Some(to_server));
            let conn = Arc::new(Conn { number, to_server, ..Conn::default() });
            *lock(&shared.newest) = Arc::downgrade(&conn);
            let asks = Pass { shared: Arc::clone(&shared), conn: Arc::clone(&conn), born: mood.generation };
            let answers = Pass { shared, conn, born: mood.generation };
            tokio::join!(asks.requests(from_client), answers.answers(from_server, to_client));
        });
    }
}

/// One direction of one connection.
struct Pass {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    born: usize,
}

impl Pass {
    async fn requests(self, mut from: OwnedReadHalf) {
        let mut buffer = vec![0; 64 * 1024];
        // The end of what passed before: a needle may lie across two reads.
        let mut tail = Vec::new();
        while let Some(said) = self.next(&mut from, &mut buffer).await {
            if !self.conn.asked.swap(true, Ordering::SeqCst) {
                self.shared.trips.fetch_add(1, Ordering::SeqCst);
            }
            self.keep(true, said);
            self.spring(&mut tail, said);
            if !self.may_pass().await {
                break;
            }
            let swallowed = *lock(&self.conn.swallows) == Some(Moment::Asked);
            if !swallowed && !self.conn.tell_server(said).await {
                break;
            }
        }
        // The server hears that its client is gone.
        self.conn.to_server.lock().await.take();
    }

    async fn answers(self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 64 * 1024];
        while let Some(said) = self.next(&mut from, &mut buffer).await {
            self.conn.asked.store(false, Ordering::SeqCst);
            if aside::heard(&self.conn, said) {
                continue;
            }
            self.keep(false, said);
            if lock(&self.conn.swallows).is_none() {
                if to.write_all(said).await.is_err() {
                    return;
                }
            } else if let Some((sprung, number)) = lock(&self.conn.sprung).take() {
                // Whoever set the trap may have gone home.
                let _ = sprung.send(number);
            }
        }
    }

    fn keep(&self, by_client: bool, said: &[u8]) {
        if let Some(tape) = lock(&self.shared.tape).as_mut() {
            tape.said.push(Said { conn: self.conn.number, by_client, bytes: said.to_vec() });
        }
    }

    /// The next bytes that may pass; `None` once the connection has ended.
    async fn next<'b>(&self, from: &mut OwnedReadHalf, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        let mut moods = self.shared.mood.subscribe();
        let read = tokio::select! {
            read = from.read(buffer) => read.ok().filter(|read| *read > 0)?,
            _ = moods.wait_for(|mood| mood.generation != self.born) => return None,
        };
        self.may_pass().await.then(|| &buffer[..read])
    }

    /// Waits while the link is held; false if it was severed.
    async fn may_pass(&self) -> bool {
        let mut moods = self.shared.mood.subscribe();
        let severed = |mood: &Mood| mood.generation != self.born;
        let mood = moods.wait_for(|mood| severed(mood) || mood.state != State::Held).await;
        mood.is_ok_and(|mood| !severed(&mood))
    }

    /// Closes the trap over this connection if what is said springs it.
    fn spring(&self, tail: &mut Vec<u8>, said: &[u8]) {
        let Some((trap, number)) = lock(&self.shared.trap).clone() else { return tail.clear() };
        let mut trap = lock(&trap);
        if trap.as_ref().is_none_or(|trap| trap.sprung.is_closed()) {
            *lock(&self.shared.trap) = None;
            return tail.clear();
        }
        let Some(needle) = trap.as_ref().map(|trap| trap.needle.as_slice()) else { return };
        tail.extend_from_slice(said);
        let found = tail.windows(needle.len()).any(|window| window == needle);
        let kept = tail.len().min(needle.len() - 1);
        tail.drain(..tail.len() - kept);
        if !found {
            return;
        }
        let Some(Trap { moment, sprung, .. }) = trap.take() else { return };
        *lock(&self.conn.swallows) = (moment != Moment::Before).then_some(moment);
        // Whoever set the trap may have gone home.
        match moment {
            Moment::Before => {
                self.shared.mood.send_modify(|mood| mood.state = State::Held);
                let _ = sprung.send(number);
            }
            Moment::Asked => drop(sprung.send(number)),
            Moment::Answered => *lock(&self.conn.sprung) = Some((sprung, number)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
