//! HTTP/1.1, as much of it as a service needs that may also fall silent or hang up in the middle.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Act, Call, Ending};

/// Decides about a call before anything is done.
pub(super) type Script = Box<dyn Fn(&Call) -> Act + Send + Sync>;

/// Does what a call asks, or refuses it: a status and a body.
pub(super) type Service = Box<dyn Fn(&Call) -> (u16, Value) + Send + Sync>;

/// A server. Dropping it frees its port and hangs up.
pub(super) struct Server {
    pub(super) address: std::net::SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    _stop: DropGuard,
}

struct Shared {
    calls: Arc<Mutex<Vec<Call>>>,
    script: Script,
    service: Service,
}

impl Server {
    pub(super) async fn start(script: Script, service: Service) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (calls, stop) = (Arc::default(), CancellationToken::new());
        let shared = Arc::new(Shared { calls: Arc::clone(&calls), script, service });
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, shared, stop.clone())));
        Ok(Self { address, calls, _stop: stop.drop_guard() })
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // What a caller does wrong ends its connection, as elsewhere.
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move { serve(stream, &shared).await }));
    }
}

/// One call; the connection ends with it.
async fn serve(stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let mut call = read(&mut stream).await?;
    let act = {
        let mut calls = shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        call.nth = calls.len() + 1;
        calls.push(call.clone());
        (shared.script)(&call)
    };
    let ending = match act {
        Act::Do => {
            let (status, body) = (shared.service)(&call);
            Ending::Answer(status, None, body.to_string())
        }
        Act::Instead(ending) => ending,
        Act::Then(ending) => {
            let (status, body) = (shared.service)(&call);
            anyhow::ensure!(status == 200, "the script wants it done, the service refuses: {body}");
            ending
        }
    };
    match ending {
        Ending::Answer(status, retry_after, body) => {
            let retry_after = retry_after.map(|value| format!("Retry-After: {value}\r\n")).unwrap_or_default();
            let length = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n");
            stream.write_all(format!("{head}{retry_after}Connection: close\r\n\r\n{body}").as_bytes()).await?;
            stream.flush().await?;
        }
        Ending::Hang => {
            // Until the caller hangs up.
            while stream.read(&mut [0; 64]).await? > 0 {}
        }
        Ending::Cut => {}
    }
    Ok(())
}

async fn read(stream: &mut BufReader<TcpStream>) -> Result<Call> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let mut words = line.split_whitespace();
    let method = words.next().context("no method")?.to_owned();
    let path = words.next().context("no path")?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(Ok(0), |text: &String| text.parse())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let body = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Call { method, path, headers, body, nth: 0 })
}
