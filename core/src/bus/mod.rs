//! The bus: hints that a conversation has news. Redis pub-sub keeps nothing, so whatever comes over it is only the
//! quickest way to hear of a fact; who missed it reads Postgres.
//!
//! [`Publisher`] sends. [`Subscriber`] listens for a whole process on one connection: topics are counted by their
//! listeners, a subscription is confirmed before anybody relies on it, and when the connection was gone every listener
//! is told that it may have missed something. [`Partial`] is the text so far of a running reply, for who comes late.
//! [`Buckets`] keep everybody to their rate, [`Sockets`] to their number of sockets.
//!
//! Where one Redis cannot take all that is published there is a cluster for it, and for nothing else (`REDIS_BUS_URL`):
//! each topic is published and heard on the one node that holds it. Nobody outside of here sees a difference.

mod bucket;
mod cluster;
mod forgetting;
mod lines;
mod memory;
mod partial;
mod publisher;
mod shards;
mod sockets;
mod subscriber;

use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, TlsCertificates};

use crate::{
    config,
    error::{Error, Result},
    tls::authorities,
};

pub use bucket::Buckets;
pub use forgetting::FORGOTTEN_WITHIN;
pub use memory::Remembered;
pub use partial::{Appended, Partial, Place};
pub use publisher::{Outbox, Publisher};
pub use sockets::{Presence, Sockets};
pub use subscriber::{Decode, News, Subscriber, Subscription};

/// What is published where everybody shall look at the store again, and so at whether they still may listen. No frame: it
/// reaches no client. Forged, it costs a look.
const LOOK_AGAIN: &str = r#"{"type":"look_again"}"#;

/// Longest wait for an answer of Redis. Past it the connection counts as dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

fn client(settings: &config::Redis, protocol: ProtocolVersion) -> Result<Client> {
    let info = settings.url.expose().into_connection_info();
    let info = info.map_err(|_| Error::internal("REDIS_URL is not a Redis URL"))?;
    open("REDIS_URL", info, settings.ca_file.as_deref(), protocol)
}

/// A client of what the setting of this name says.
fn open(name: &str, info: ConnectionInfo, ca_file: Option<&str>, protocol: ProtocolVersion) -> Result<Client> {
    // What it would say of itself is a command more that `redis.acl` had to allow.
    let redis = info.redis_settings().clone().set_protocol(protocol).set_skip_set_lib_name();
    let info = info.set_redis_settings(redis);
    let ConnectionAddr::TcpTls { insecure, .. } = info.addr() else {
        if ca_file.is_some() {
            return Err(Error::internal(format!("REDIS_CA_FILE needs a {name} that begins with rediss://")));
        }
        return Client::open(info).map_err(Error::internal);
    };
    if *insecure {
        return Err(Error::internal(format!("{name} asks for TLS with whoever answers, which is refused")));
    }
    let root_cert = ca_file.map(|path| authorities("REDIS_CA_FILE", path)).transpose()?;
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert }).map_err(Error::internal)
}
