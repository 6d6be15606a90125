//! The environments of one Lambda function: each runs one invocation at a time, and one that died is replaced.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::links::{Backends, Links};
use crate::{
    clients::Answer,
    lambda::{
        Lambda,
        http::{http_answer, http_event},
    },
    services::User,
};

/// The environments of one function.
pub struct Pool {
    program: PathBuf,
    backends: Backends,
    environments: Vec<Environment>,
    free: Semaphore,
    idle: Mutex<VecDeque<usize>>,
}

/// One environment, with links of its own.
pub struct Environment {
    /// Its links; they outlive the process.
    pub links: Links,
    lambda: Mutex<Arc<Lambda>>,
}

impl Environment {
    /// The process that runs now.
    #[must_use]
    pub fn lambda(&self) -> Arc<Lambda> {
        Arc::clone(&lock(&self.lambda))
    }
}

impl Pool {
    /// Starts so many environments of a function.
    ///
    /// # Errors
    /// What the function says if it does not come up.
    pub async fn start(program: PathBuf, backends: &Backends, size: usize) -> Result<Self> {
        let mut environments = Vec::with_capacity(size);
        for _ in 0..size {
            let links = Links::to(backends).await?;
            let lambda = Lambda::start(&program, &links.environment(backends, User::of(&program)?)?).await?;
            lambda.ready().await?;
            environments.push(Environment { links, lambda: Mutex::new(Arc::new(lambda)) });
        }
        let idle = Mutex::new((0..size).collect());
        Ok(Self { program, backends: backends.clone(), environments, free: Semaphore::new(size), idle })
    }

    /// The environments.
    #[must_use]
    pub fn environments(&self) -> &[Environment] {
        &self.environments
    }

    /// An environment that is at work.
    #[must_use]
    pub fn busy(&self) -> Option<usize> {
        let idle = lock(&self.idle);
        (0..self.environments.len()).find(|number| !idle.contains(number))
    }

    /// An environment that waits for work.
    #[must_use]
    pub fn idle(&self) -> Option<&Environment> {
        lock(&self.idle).back().map(|number| &self.environments[*number])
    }

    /// Invokes the function in an environment that is free, as soon as there is one.
    ///
    /// # Errors
    /// If the function fails or dies meanwhile.
    pub async fn invoke(&self, event: &impl Serialize) -> Result<Value> {
        let permit = self.free.acquire().await.context("never closed")?;
        // The one that was idle longest: each gets its share, and its share of faults.
        let number = lock(&self.idle).pop_front().context("as many as permits")?;
        let environment = &self.environments[number];
        let answer = environment.lambda().invoke(event).await;
        if answer.is_err() {
            self.replace(environment).await;
        }
        lock(&self.idle).push_back(number);
        drop(permit);
        answer
    }

    /// Invokes the function as an HTTP API does.
    ///
    /// # Errors
    /// If the function fails or dies meanwhile.
    pub async fn http(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer> {
        http_answer(&self.invoke(&http_event(method, path, headers, body)).await?)
    }

    fn settings(&self, links: &Links) -> Result<Vec<(&'static str, String)>> {
        links.environment(&self.backends, User::of(&self.program)?)
    }

    /// After an invocation failed, Lambda starts the environment anew. One that cannot start now is tried again with
    /// the next invocation.
    async fn replace(&self, environment: &Environment) {
        let Ok(settings) = self.settings(&environment.links) else { return };
        if let Ok(fresh) = Lambda::start(&self.program, &settings).await {
            *lock(&environment.lambda) = Arc::new(fresh);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
