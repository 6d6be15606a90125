//! HTTP as bytes, for what no client library would send.

use std::{fmt::Write, net::SocketAddr};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::clients::PATIENCE;

/// A request for a socket, with these headers besides.
#[must_use]
pub fn upgrade(conversation: &str, more: &[(&str, &str)]) -> String {
    let mut request = format!(
        "GET /chat/ws/{conversation} HTTP/1.1\r\nHost: hub\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    );
    for (name, value) in more {
        write!(request, "{name}: {value}\r\n").expect("a string takes everything");
    }
    request + "\r\n"
}

/// Sends a request on a connection of its own, and returns that with the head of the answer, in lower case; with nothing
/// where the connection ended instead.
///
/// # Errors
/// If nobody listens, or no answer comes.
pub async fn ask(address: SocketAddr, request: &str) -> Result<(TcpStream, String)> {
    let mut tcp = TcpStream::connect(address).await?;
    // A server need not read to the end what it refuses.
    let _ = tcp.write_all(request.as_bytes()).await;
    let head = head(&mut tcp).await?;
    Ok((tcp, head))
}

/// The head of an answer, in lower case, or what came of it before the end.
///
/// # Errors
/// If neither comes.
pub async fn head(tcp: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    let read = async {
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && matches!(tcp.read(&mut byte).await, Ok(1)) {
            head.push(byte[0]);
        }
    };
    timeout(PATIENCE, read).await.context("no answer comes")?;
    Ok(String::from_utf8_lossy(&head).to_ascii_lowercase())
}

/// Waits for the other side to end a connection.
///
/// # Errors
/// If it stays open.
pub async fn ended(tcp: &mut TcpStream) -> Result<()> {
    let mut buffer = [0; 1024];
    let read = async { while matches!(tcp.read(&mut buffer).await, Ok(1..)) {} };
    timeout(PATIENCE, read).await.context("the connection stays open")
}
