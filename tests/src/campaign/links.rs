//! What a process of the product is connected by: a proxy on each link, so that each can fail on its own.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result};

use crate::{
    services::{Entrance, User},
    wire::Wire,
};

/// The links of one process.
pub struct Links {
    /// To Postgres.
    pub postgres: Wire,
    /// To Redis.
    pub redis: Wire,
    /// To the queue.
    pub queue: Wire,
    /// To the models.
    pub model: Wire,
}

/// What all processes are connected to, and with which settings they start.
#[derive(Clone)]
pub struct Backends {
    /// Postgres, as the app role.
    pub database_url: String,
    /// Redis.
    pub redis: Entrance,
    /// The SQS-compatible server.
    pub queue: SocketAddr,
    /// The models.
    pub model: SocketAddr,
    /// Everything else.
    pub settings: Arc<Vec<(&'static str, String)>>,
}

impl Links {
    /// A proxy before each of them.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn to(backends: &Backends) -> Result<Self> {
        Ok(Self {
            postgres: Wire::before(postgres(&backends.database_url)?).await?,
            redis: Wire::before(backends.redis.address.parse()?).await?,
            queue: Wire::before(backends.queue).await?,
            model: Wire::before(backends.model).await?,
        })
    }

    /// The environment of a process behind these links, which comes into Redis as this user.
    ///
    /// # Errors
    /// If the URL of the database has no port.
    pub fn environment(&self, backends: &Backends, user: User) -> Result<Vec<(&'static str, String)>> {
        let server = postgres(&backends.database_url)?.to_string();
        let mut env = backends.settings.as_ref().clone();
        env.extend([
            ("DATABASE_URL", backends.database_url.replace(&server, &self.postgres.address.to_string())),
            ("REDIS_URL", backends.redis.at(self.redis.address).url(user)),
            ("AWS_ENDPOINT_URL_SQS", format!("http://{}", self.queue.address)),
            ("MODEL_BASE_URL", format!("http://{}/v1", self.model.address)),
        ]);
        Ok(env)
    }
}

fn postgres(url: &str) -> Result<SocketAddr> {
    let address = url.split_once('@').and_then(|(_, rest)| rest.split_once('/')).map(|(address, _)| address);
    address.and_then(|address| address.parse().ok()).context("a URL like postgres://user@address:port/database")
}
