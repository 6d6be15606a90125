//! The REST function on Lambda, behind an HTTP API.

use conversations::{Api, router};
use lambda_http::{Error, run, tracing};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    run(router(Api::from_env().await?)).await
}
