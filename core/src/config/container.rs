//! What a container is told by whoever runs it.

use super::Env;

/// Where ECS says what is to become of the task that a process is in; nowhere else there is such a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// The task's page of the metadata endpoint, version 4: `http://169.254.170.2/v4/…/task`.
    pub task_url: Option<String>,
}

impl Container {
    /// Reads `ECS_CONTAINER_METADATA_URI_V4`, which ECS itself sets, not whoever deploys.
    /// Source: <https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4.html>.
    pub fn read(env: &mut Env<'_>) -> Self {
        const NAME: &str = "ECS_CONTAINER_METADATA_URI_V4";
        let container = env.optional(NAME);
        if container.as_deref().is_some_and(|url| !url.starts_with("http://")) {
            env.faults.push(format!("{NAME} must begin with http://"));
        }
        Self { task_url: container.map(|url| format!("{}/task", url.trim_end_matches('/'))) }
    }
}
