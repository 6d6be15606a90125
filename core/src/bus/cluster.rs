//! A Redis Cluster, as far as the bus has to know it: which node holds a topic, and how to come to a node.
//!
//! In a cluster PUBLISH reaches every node, so more nodes do not make it cheaper. Sharded pub-sub (Redis 7) keeps a topic on
//! the node that holds the slot of its name: <https://redis.io/docs/latest/develop/pubsub/#sharded-pubsub>.
//!
//! The client library has a connection to clusters, which is not used. When a node comes back it asks there for all
//! channels in one SSUBSCRIBE, which Redis refuses unless they are of one slot, and tells nobody; and while it asks where
//! the slots are, and one node keeps silent, nothing is sent to the others.

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisResult, Value};

use super::{ANSWER_TIMEOUT, open};
use crate::{
    config,
    error::{Error, Result},
    keys::Topic,
};

/// How many slots there are: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>.
const SLOTS: u16 = 16_384;

/// A cluster, by some of its nodes.
#[derive(Clone)]
pub(super) struct Cluster {
    seeds: Vec<ConnectionInfo>,
    ca_file: Option<String>,
    protocol: ProtocolVersion,
}

/// A node, by the address that the cluster gives it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    host: String,
    port: u16,
}

/// Which node holds which slots, as a node of the cluster has said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Slots {
    /// In the order of their names.
    nodes: Vec<Node>,
    /// First and last slot, and the place of whoever holds them in `nodes`.
    ranges: Vec<(u16, u16, usize)>,
}

impl Cluster {
    /// The cluster of the settings, if they name one.
    pub(super) fn of(settings: &config::Redis, protocol: ProtocolVersion) -> Result<Option<Self>> {
        let Some(urls) = &settings.bus_url else { return Ok(None) };
        let seeds = urls.expose().split(',').map(|url| url.trim().into_connection_info()).collect::<RedisResult<_>>();
        let seeds =
            seeds.map_err(|_| Error::internal("REDIS_BUS_URL is no Redis URL, nor several with commas between"))?;
        let cluster = Self { seeds, ca_file: settings.ca_file.clone(), protocol };
        for seed in &cluster.seeds {
            cluster.open(seed.clone())?;
        }
        Ok(Some(cluster))
    }

    /// A client of a node, which is spoken to as the first of those in the settings.
    pub(super) fn client(&self, node: &Node) -> Result<Client> {
        let (host, port) = (node.host.clone(), node.port);
        let addr = if let ConnectionAddr::TcpTls { .. } = self.seeds[0].addr() {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        self.open(self.seeds[0].clone().set_addr(addr))
    }

    fn open(&self, info: ConnectionInfo) -> Result<Client> {
        open("REDIS_BUS_URL", info, self.ca_file.as_deref(), self.protocol)
    }

    /// Asks who holds what: those of the settings and those of whom was known, all at once, since any may be away.
    pub(super) async fn slots(&self, known: &Slots) -> Result<Slots> {
        let seeds = self.seeds.iter().map(|seed| self.open(seed.clone()));
        let clients = seeds.chain(known.nodes.iter().map(|node| self.client(node))).collect::<Result<Vec<_>>>()?;
        let asked = clients.into_iter().map(|client| Box::pin(ask(client)));
        Ok(futures::future::select_ok(asked).await.map_err(Error::unavailable)?.0)
    }
}

async fn ask(client: Client) -> RedisResult<Slots> {
    let asking = async {
        let mut conn = client.get_multiplexed_async_connection().await?;
        redis::cmd("CLUSTER").arg("SLOTS").query_async::<Vec<Vec<Value>>>(&mut conn).await
    };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, asking).await;
    let ranges = answer.map_err(|_| redis::RedisError::from((redis::ErrorKind::Io, "no answer in time")))??;
    let (ConnectionAddr::Tcp(asked, _) | ConnectionAddr::TcpTls { host: asked, .. }) =
        client.get_connection_info().addr()
    else {
        return Err((redis::ErrorKind::InvalidClientConfig, "a node of a cluster has a host").into());
    };
    let slots = Slots::read(&ranges, asked);
    if slots.ranges.is_empty() {
        return Err((redis::ErrorKind::Parse, "it knows of no node with slots").into());
    }
    Ok(slots)
}

impl Slots {
    /// Reads the answer to CLUSTER SLOTS: first and last slot, whoever holds them, its replicas. A node without a host is
    /// where `asked` is: <https://redis.io/docs/latest/commands/cluster-slots/>.
    fn read(answer: &[Vec<Value>], asked: &str) -> Self {
        let number = |value: &Value| if let Value::Int(number) = value { u16::try_from(*number).ok() } else { None };
        let held = answer.iter().filter_map(|range| {
            let [first, last, Value::Array(holder), ..] = range.as_slice() else { return None };
            let [host, port, ..] = holder.as_slice() else { return None };
            let host = if let Value::BulkString(host) = host { str::from_utf8(host).ok()? } else { "" };
            let host = if host.is_empty() { asked } else { host }.to_owned();
            Some((number(first)?, number(last)?, Node { host, port: number(port)? }))
        });
        let held: Vec<_> = held.collect();
        let mut nodes: Vec<Node> = held.iter().map(|(_, _, node)| node.clone()).collect();
        nodes.sort();
        nodes.dedup();
        let place = |node: &Node| nodes.binary_search(node).expect("all are there");
        let ranges = held.iter().map(|(first, last, node)| (*first, *last, place(node))).collect();
        Self { nodes, ranges }
    }

    /// Those who hold slots.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The place in [`Self::nodes`] of whoever holds a topic, if anybody does.
    pub(super) fn place(&self, topic: &Topic) -> Option<usize> {
        let slot = slot(topic.as_str());
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(.., place)| *place)
    }
}

/// The slot of a name without braces, which none of ours has: its CRC-16 (XMODEM).
fn slot(name: &str) -> u16 {
    let crc = name.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| if crc >> 15 == 1 { crc << 1 ^ 0x1021 } else { crc << 1 })
    });
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ids::{ConversationId, TenantId},
        keys::webchat_response_key,
    };

    #[test]
    fn slots_are_those_of_the_specification() {
        // The examples of the cluster specification and of CLUSTER KEYSLOT.
        assert_eq!(slot("123456789"), 0x31C3);
        assert_eq!(slot("somekey"), 11_058);
    }

    #[test]
    fn a_topic_is_found_where_the_cluster_says() {
        let text = |text: &str| Value::BulkString(text.into());
        let node = |host, port| Value::Array(vec![host, Value::Int(port), text("id")]);
        let range = |first, last, node| vec![Value::Int(first), Value::Int(last), node, Value::Array(Vec::new())];
        let answer = [
            range(8_192, 16_383, node(text("b"), 2)),
            range(0, 4_095, node(Value::Nil, 1)),
            range(4_096, 8_191, node(text("b"), 2)),
        ];
        let slots = Slots::read(&answer, "asked");
        let node = |host: &str, port| Node { host: host.into(), port };
        assert_eq!(slots.nodes(), [node("asked", 1), node("b", 2)]);
        for _ in 0..100 {
            let topic = webchat_response_key(TenantId::new(), ConversationId::new());
            assert_eq!(slots.place(&topic), Some(usize::from(slot(topic.as_str()) >= 4_096)));
        }
        let part = Slots::read(&answer[1..], "asked");
        assert!((0..100).any(|_| part.place(&webchat_response_key(TenantId::new(), ConversationId::new())).is_none()));
    }
}
