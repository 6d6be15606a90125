//! The keys of an issuer that publishes them, kept and fetched again when that is due.
//!
//! Whoever sends tokens with names of keys that nobody knows makes us ask the issuer, all of them together once in
//! [`Pace::again`] at most. From [`Pace::fresh`] on the document is read again behind the backs of those who come, and from
//! [`Pace::stale`] on they wait for it: so long lives a key that the issuer took back. While the issuer is away the known
//! keys hold for [`Pace::most`]; after that nobody can say who anybody is, which is `unavailable` and not the token's fault.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use reqwest::{Client, StatusCode, redirect};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinHandle,
    time::Instant,
};
use tracing::{info, warn};

use super::{
    checks::refused,
    jwks::{self, Key},
};
use crate::{
    config::{self, Pace},
    error::{Error, Result},
};

/// Longest wait for a connection to the issuer, and for its whole answer.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

/// Largest document that is read, in bytes. Two or three keys with their certificates are 10 KB.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;

/// The keys of one issuer. Cheap to clone.
#[derive(Clone)]
pub(super) struct Published(Arc<Inner>);

struct Inner {
    url: String,
    client: Client,
    pace: Pace,
    known: RwLock<Known>,
    /// One fetch at a time; who comes meanwhile waits for it and looks again.
    fetching: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, Key>,
    /// When the document was last read.
    read: Option<Instant>,
    /// When it was last asked for, read or not.
    asked: Option<Instant>,
}

/// What is known of a key.
enum Found {
    Key(Key),
    /// Known, but the document should be read again; nobody needs to wait for that.
    Due(Key),
    /// Known by a document that may have changed long ago.
    Stale(Key),
    /// Not in the document, which was read.
    Absent,
    /// The document was never read, is too old to go by, or does not have it and could not be read again.
    NoDocument,
}

impl Published {
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) if this machine has no certificates to know the issuer by.
    pub(super) fn new(settings: &config::Published) -> Result<Self> {
        // Nobody leads us elsewhere: no redirects, no proxies from the environment.
        let client = Client::builder().connect_timeout(CONNECT).timeout(ANSWER).redirect(redirect::Policy::none());
        let client = client.no_proxy().build().map_err(Error::internal)?;
        let (url, pace) = (settings.url.clone(), settings.pace);
        Ok(Self(Arc::new(Inner { url, client, pace, known: RwLock::default(), fetching: Arc::default() })))
    }

    /// The key with this name.
    ///
    /// # Errors
    /// [`Code::Unauthenticated`](crate::Code::Unauthenticated) for one that the issuer does not publish;
    /// [`Code::Unavailable`](crate::Code::Unavailable) while the issuer is away for too long.
    pub(super) async fn key(&self, kid: &str) -> Result<Key> {
        match self.0.find(kid) {
            Found::Key(key) => return Ok(key),
            Found::Due(key) => {
                if let Ok(alone) = Arc::clone(&self.0.fetching).try_lock_owned() {
                    self.read_if_due(alone);
                }
                return Ok(key);
            }
            Found::Stale(_) | Found::Absent | Found::NoDocument => {
                let alone = Arc::clone(&self.0.fetching).lock_owned().await;
                if let Some(reading) = self.read_if_due(alone) {
                    // Should it panic, we know no more than before.
                    let _ = reading.await;
                }
            }
        }
        match self.0.find(kid) {
            Found::Key(key) | Found::Due(key) | Found::Stale(key) => Ok(key),
            Found::Absent => Err(refused("a key that the issuer does not publish")),
            Found::NoDocument => Err(Error::unavailable("the issuer's keys cannot be read")),
        }
    }

    /// Reads the document, if that was not tried a moment ago, in a task of its own: whoever made us ask may leave, which
    /// must neither end the question for those who wait for its answer nor leave it uncounted.
    fn read_if_due(&self, alone: OwnedMutexGuard<()>) -> Option<JoinHandle<()>> {
        let inner = Arc::clone(&self.0);
        inner.may_ask().then(|| {
            tokio::spawn(async move {
                inner.read().await;
                drop(alone);
            })
        })
    }
}

impl Inner {
    fn find(&self, kid: &str) -> Found {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(age) = known.read.map(|read| read.elapsed()).filter(|age| *age < self.pace.most) else {
            return Found::NoDocument;
        };
        // An issuer that was asked in vain since then is away: nobody waits for it twice, and a key that is not known may be
        // one that it has begun to use.
        let away = known.asked > known.read;
        let Some(key) = known.keys.get(kid).cloned() else {
            return if away { Found::NoDocument } else { Found::Absent };
        };
        if age < self.pace.fresh {
            Found::Key(key)
        } else if age < self.pace.stale || away {
            Found::Due(key)
        } else {
            Found::Stale(key)
        }
    }

    fn may_ask(&self) -> bool {
        let asked = self.known.read().unwrap_or_else(PoisonError::into_inner).asked;
        asked.is_none_or(|asked| asked.elapsed() >= self.pace.again)
    }

    async fn read(&self) {
        let read = self.fetch().await;
        let now = Instant::now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.asked = Some(now);
        match read {
            Ok(keys) => {
                info!(keys = keys.len(), "the issuer's keys were read");
                (known.keys, known.read) = (keys, Some(now));
            }
            Err(why) => warn!(why, "the issuer's keys could not be read; those known hold on for a while"),
        }
    }

    async fn fetch(&self) -> Result<HashMap<String, Key>, &'static str> {
        let mut answer = self.client.get(&self.url).send().await.map_err(|_| "no answer")?;
        if answer.status() != StatusCode::OK {
            return Err("not 200");
        }
        let mut document = Vec::new();
        while let Some(piece) = answer.chunk().await.map_err(|_| "half an answer")? {
            if document.len() + piece.len() > MAX_DOCUMENT_BYTES {
                return Err("too large");
            }
            document.extend_from_slice(&piece);
        }
        jwks::parse(&document).ok_or("no key set")
    }
}
