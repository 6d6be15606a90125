//! A double of the page on which ECS says what is to become of a task, over real HTTP.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the page says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Says {
    /// The task is to stay.
    Running,
    /// The task is to stop.
    Stopped,
    /// An error of its own.
    Broken,
    /// Something else.
    Nonsense,
}

/// The metadata endpoint of one container. Dropping it frees its port.
pub struct Metadata {
    /// As in `ECS_CONTAINER_METADATA_URI_V4`.
    pub uri: String,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

struct Shared {
    says: Mutex<Says>,
    asked: watch::Sender<usize>,
}

impl Metadata {
    /// Starts one that lets the task run.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let uri = format!("http://{}/v4/0123456789abcdef-1", listener.local_addr()?);
        let shared = Arc::new(Shared { says: Mutex::new(Says::Running), asked: watch::Sender::new(0) });
        let router = Router::new().route("/v4/{container}/task", get(task)).with_state(Arc::clone(&shared));
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { axum::serve(listener, router).await }));
        Ok(Self { uri, shared, _stop: stop.drop_guard() })
    }

    /// From now on the page says this. Returns once somebody has read it twice.
    ///
    /// # Errors
    /// If nobody asks any more.
    pub async fn says(&self, says: Says) -> Result<()> {
        *self.shared.says.lock().unwrap_or_else(PoisonError::into_inner) = says;
        let mut asked = self.shared.asked.subscribe();
        let seen = *asked.borrow_and_update();
        asked.wait_for(|now| *now >= seen + 2).await?;
        Ok(())
    }

    /// From now on the page says that the task is to stop.
    pub fn stops(&self) {
        *self.shared.says.lock().unwrap_or_else(PoisonError::into_inner) = Says::Stopped;
    }
}

async fn task(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let says = *shared.says.lock().unwrap_or_else(PoisonError::into_inner);
    shared.asked.send_modify(|asked| *asked += 1);
    let page = |desired: &str| {
        // What a task on Fargate reads of itself, shortened. `KnownStatus` stays behind.
        let container = json!({"DockerId": "0123456789abcdef-1", "Name": "hub", "DesiredStatus": desired,
            "KnownStatus": "RUNNING", "Type": "NORMAL"});
        json!({"Cluster": "chat", "TaskARN": "arn:aws:ecs:us-east-1:000000000000:task/chat/0123456789abcdef",
            "Family": "chat-hub", "Revision": "1", "DesiredStatus": desired, "KnownStatus": "RUNNING",
            "Limits": {"CPU": 0.5, "Memory": 1024}, "LaunchType": "FARGATE", "Containers": [container]})
        .to_string()
    };
    match says {
        Says::Running => (StatusCode::OK, page("RUNNING")),
        Says::Stopped => (StatusCode::OK, page("STOPPED")),
        Says::Broken => (StatusCode::INTERNAL_SERVER_ERROR, page("STOPPED")),
        Says::Nonsense => (StatusCode::OK, "<html>STOPPED</html>".to_owned()),
    }
}
