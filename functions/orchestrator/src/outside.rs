//! The HTTP clients for what lies outside of the house.

use std::sync::{Arc, LazyLock};

use reqwest::{Client, ClientBuilder, redirect};

/// A client that is made when it is first wanted: that reads this machine's certificates, which takes longer than all else
/// that a function does before its first event. Nobody leads it, and with it a key, elsewhere: no redirects, no proxies
/// from the environment. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outside(Arc<LazyLock<Made, Making>>);

type Made = Result<Client, String>;
type Making = Box<dyn FnOnce() -> Made + Send>;

impl Outside {
    /// A client that differs from others by what `finish` does.
    pub(crate) fn new(finish: impl FnOnce(ClientBuilder) -> ClientBuilder + Send + 'static) -> Self {
        let making: Making = Box::new(|| {
            let builder = Client::builder().redirect(redirect::Policy::none()).no_proxy();
            finish(builder).build().map_err(|error| format!("no client: {}", error.without_url()))
        });
        Self(Arc::new(LazyLock::new(making)))
    }

    /// The client.
    ///
    /// # Errors
    /// In words, if this machine has no certificates to know a server by.
    pub(crate) fn client(&self) -> Result<&Client, String> {
        self.0.as_ref().as_ref().map_err(Clone::clone)
    }

    /// Makes it in the background, for who will soon want it. Must run on the runtime of the process.
    pub(crate) fn warm(&self) {
        let outside = self.clone();
        // Whoever wants it finds out whether it went well.
        drop(tokio::task::spawn_blocking(move || outside.client().map(drop)));
    }
}
