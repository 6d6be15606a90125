//! The REST function on Lambda, behind an HTTP API.

use std::process::ExitCode;

use chat_core::log;
use conversations::{Api, router};
use lambda_http::{Error, run};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    log::run(std::io::stdout, Box::pin(serve())).await
}

async fn serve() -> Result<(), Error> {
    run(router(Api::from_env()?)).await
}
