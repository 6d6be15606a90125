//! Private Redis Clusters: three nodes that share the slots, without replicas.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chat_core::keys::Topic;
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};

use super::process::Site;
use super::redis::{Entrance, Redis};
use super::watchdog::Watchdog;
use super::{free_port, fresh_folder};
use crate::{app::until, clients::PATIENCE};

/// The slots of each node, first and last.
const SLOTS: [(u16, u16); 3] = [(0, 5_460), (5_461, 10_922), (10_923, 16_383)];

/// A running cluster. It ends when dropped, as the other services do.
pub struct RedisCluster {
    nodes: Vec<Node>,
    secret: String,
    folder: PathBuf,
    root: bool,
    watchdog: Watchdog,
}

struct Node {
    redis: Redis,
    arguments: Vec<String>,
}

impl RedisCluster {
    /// Starts one that lets in whom another Redis lets in, and waits until all nodes know who holds what.
    ///
    /// # Errors
    /// What does not come up.
    pub async fn start(another: &Entrance) -> Result<Self> {
        let watchdog = Watchdog::start()?;
        let (folder, root) = fresh_folder()?;
        watchdog.removes(&folder)?;
        let mut cluster = Self { nodes: Vec::new(), secret: another.secret.clone(), folder, root, watchdog };
        for number in 0..SLOTS.len() {
            let node = cluster.launch_anywhere(number).await?;
            cluster.nodes.push(node);
        }
        for (number, (first, last)) in SLOTS.into_iter().enumerate() {
            let mut node = cluster.connect(number).await?;
            let mut tell = redis::cmd("CLUSTER");
            tell.arg("SET-CONFIG-EPOCH").arg(number + 1).exec_async(&mut node).await?;
            let mut tell = redis::cmd("CLUSTER");
            tell.arg("ADDSLOTSRANGE").arg(first).arg(last).exec_async(&mut node).await?;
            if number > 0 {
                let (port, bus) = (cluster.nodes[0].redis.port(), &cluster.nodes[0].arguments[3]);
                let mut meet = redis::cmd("CLUSTER");
                meet.arg("MEET").arg("127.0.0.1").arg(port).arg(bus).exec_async(&mut node).await?;
            }
        }
        until("the nodes to know each other", || async {
            for number in 0..SLOTS.len() {
                let mut node = cluster.connect(number).await?;
                let known: Vec<redis::Value> = redis::cmd("CLUSTER").arg("SLOTS").query_async(&mut node).await?;
                let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut node).await?;
                if known.len() != SLOTS.len() || !info.contains("cluster_state:ok") {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .await?;
        Ok(cluster)
    }

    async fn launch(&self, number: usize, arguments: Vec<String>) -> Result<Node> {
        let site = Site { folder: &self.folder, root: self.root, watchdog: &self.watchdog, say: &|_| {} };
        let folder = format!("node-{number}");
        Ok(Node { redis: Redis::start_with(&site, self.secret.clone(), &folder, &arguments).await?, arguments })
    }

    /// Somebody else may take a port that was free a moment ago.
    async fn launch_anywhere(&self, number: usize) -> Result<Node> {
        let mut tried = 0;
        loop {
            match self.launch(number, arguments()?).await {
                Err(_) if tried < 5 => tried += 1,
                launched => return launched,
            }
        }
    }

    /// How to come into another Redis for keys, and into this for what is published.
    #[must_use]
    pub fn beside(&self, another: &Entrance) -> Entrance {
        let bus = self.nodes.iter().map(|node| node.redis.entrance.address.clone()).collect();
        Entrance { bus, ..another.clone() }
    }

    /// A connection to a node, as somebody who may do everything.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn connect(&self, node: usize) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(self.nodes[node].redis.url())?;
        // The default is half a second, which a busy machine needs now and then.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        Ok(client.get_multiplexed_async_connection_with_config(&patient).await?)
    }

    /// The process id of a node.
    #[must_use]
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].redis.pid()
    }

    /// The slot of a topic, as Redis says.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn slot(&self, topic: &Topic) -> Result<u16> {
        for node in 0..self.nodes.len() {
            if let Ok(mut node) = self.connect(node).await {
                return Ok(redis::cmd("CLUSTER").arg("KEYSLOT").arg(topic.as_str()).query_async(&mut node).await?);
            }
        }
        anyhow::bail!("no node answers")
    }

    /// The node that was given a topic's slot at the start.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn holder(&self, topic: &Topic) -> Result<usize> {
        let slot = self.slot(topic).await?;
        SLOTS.iter().position(|(first, last)| (*first..=*last).contains(&slot)).context("a slot beyond all")
    }

    /// Gives a topic's slot to another node, as a resharding does at its end.
    ///
    /// # Errors
    /// If a node does not answer.
    pub async fn give(&self, topic: &Topic, to: usize) -> Result<()> {
        let id: String = redis::cmd("CLUSTER").arg("MYID").query_async(&mut self.connect(to).await?).await?;
        let slot = self.slot(topic).await?;
        let others = (0..self.nodes.len()).filter(|node| *node != to);
        for node in [to].into_iter().chain(others) {
            let mut give = redis::cmd("CLUSTER");
            give.arg("SETSLOT").arg(slot).arg("NODE").arg(&id).exec_async(&mut self.connect(node).await?).await?;
        }
        Ok(())
    }

    /// Kills a node.
    ///
    /// # Errors
    /// If it has ended.
    pub async fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].redis.service.kill(&self.watchdog).await
    }

    /// Starts a killed node again, where and who it was.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn revive(&mut self, node: usize) -> Result<()> {
        let arguments = self.nodes[node].arguments.clone();
        self.nodes[node] = self.launch(node, arguments).await?;
        Ok(())
    }
}

/// Without full coverage, nodes go on when another is away; and they find that out soon.
fn arguments() -> Result<Vec<String>> {
    let (port, bus) = (free_port()?.to_string(), free_port()?.to_string());
    let all = ["--port", &port, "--cluster-port", &bus, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];
    let more = ["--cluster-require-full-coverage", "no", "--cluster-config-file", "nodes.conf"];
    Ok(all.into_iter().chain(more).map(str::to_owned).collect())
}
