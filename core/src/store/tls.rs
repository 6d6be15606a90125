//! How a connection to Postgres is protected: `sslmode` and `sslrootcert` of `DATABASE_URL`, as libpq writes them.
//!
//! Two modes are known. `verify-full` is TLS with a server whose certificate is trusted and names the host of the URL;
//! `disable` is plain TCP, which without a word is for this machine alone. Those between would encrypt for whoever
//! answers, and are refused.

use std::{
    future::Future,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    config::Secret,
    error::{Error, Result},
    tls::authorities,
};

/// What `DATABASE_URL` says: where to connect, and whom to believe there.
///
/// # Errors
/// [`Kind::Internal`](crate::Kind::Internal), never with the URL, if it is malformed or asks for less than it must.
pub(super) fn target(url: &Secret) -> Result<(Config, Tls)> {
    let Url { rest, mode, roots } = Url::split(url.expose());
    let mut config: Config = rest.parse().map_err(|_| Error::internal("DATABASE_URL is not a Postgres URL"))?;
    let tls = match mode.as_deref() {
        Some("verify-full") => Some(trusting(roots.as_deref())?),
        Some("disable") => None,
        None if is_this_machine(&config) => None,
        _ => {
            return Err(Error::internal(
                "DATABASE_URL must say sslmode=verify-full, with sslrootcert=FILE if this machine does not trust the \
                 server's authority, or sslmode=disable",
            ));
        }
    };
    config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
    Ok((config, Tls(tls)))
}

/// A URL without what the library does not know.
struct Url {
    rest: String,
    mode: Option<String>,
    roots: Option<String>,
}

impl Url {
    fn split(url: &str) -> Self {
        // What stands before the @ may hold a question mark.
        let host = url.find('@').unwrap_or(0);
        let Some(query) = url[host..].find('?').map(|query| host + query) else {
            return Self { rest: url.to_owned(), mode: None, roots: None };
        };
        let (mut mode, mut roots, mut others) = (None, None, Vec::new());
        for pair in url[query + 1..].split('&') {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = Some(decoded(value)),
                Some(("sslrootcert", value)) => roots = Some(decoded(value)),
                _ => others.push(pair),
            }
        }
        let mark = if others.is_empty() { "" } else { "?" };
        Self { rest: format!("{}{mark}{}", &url[..query], others.join("&")), mode, roots }
    }
}

/// A value of a query without its percent signs; a plus is a plus.
fn decoded(value: &str) -> String {
    let value = value.replace('+', "%2B");
    form_urlencoded::parse(value.as_bytes()).next().map(|(text, _)| text.into_owned()).unwrap_or_default()
}

/// Whether no packet leaves this machine.
fn is_this_machine(config: &Config) -> bool {
    let by_name = config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    });
    by_name && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// Trusts the authorities of a file; without one, or for `system`, those that this machine trusts.
fn trusting(roots: Option<&str>) -> Result<TlsConnector> {
    let mut trusted = RootCertStore::empty();
    match roots {
        None | Some("system") => {
            trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            let text = authorities("DATABASE_URL: sslrootcert", path)?;
            trusted.add_parsable_certificates(CertificateDer::pem_slice_iter(&text).flatten());
        }
    }
    if trusted.is_empty() {
        return Err(Error::internal("DATABASE_URL: sslrootcert leads to no authority that could be trusted"));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Error::internal)?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Makes connections that are protected, or none: of the two, [`Config`] knows which.
#[derive(Clone)]
pub(super) struct Tls(Option<TlsConnector>);

/// A handshake to come, with whom the URL names.
pub(super) struct Handshake {
    connector: Option<TlsConnector>,
    host: String,
}

/// A protected connection.
pub(super) struct Protected<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Tls {
    type Stream = Protected<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake { connector: self.0.clone(), host: host.to_owned() })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Protected<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Protected<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let connector = self.connector.ok_or_else(|| io::Error::other("sslmode=disable"))?;
            let host = ServerName::try_from(self.host).map_err(io::Error::other)?;
            connector.connect(host, stream).await.map(Protected)
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Protected<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Protected<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Protected<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> Option<String> {
        target(&Secret::from(url.to_owned())).err().map(|error| format!("{error:?}"))
    }

    #[test]
    fn to_another_machine_the_url_says_how_and_nothing_less_than_verify_full_passes_for_tls() {
        for good in [
            "postgres://u:hunter2@db.example/chat?sslmode=disable",
            "postgres://u:hunter2@db.example/chat?application_name=x&sslmode=disable",
            "postgres://u:hunter2@db.example/chat?sslmode=verify-full",
            "postgres://u:hunter2@127.0.0.1:5432/chat",
            "postgres://u:hunter2@[::1]/chat",
            "postgres://u:hunter2@localhost/chat?connect_timeout=3",
        ] {
            assert_eq!(refused(good), None, "{good}");
        }
        for bad in [
            "postgres://u:hunter2@db.example/chat",
            "postgres://u:hunter2@db.example/chat?sslmode=prefer",
            "postgres://u:hunter2@db.example/chat?sslmode=require",
            "postgres://u:hunter2@db.example/chat?sslmode=verify-ca",
            "postgres://u:hunter2@db.example/chat?sslmode=hunter2",
            "postgres://u:hunter2@localhost,db.example/chat",
            "postgres://u:hunter2@localhost/chat?hostaddr=203.0.113.1",
            "postgres://u:hunter2@localhost/chat?sslmode=require",
        ] {
            let said = refused(bad).expect(bad);
            assert!(said.contains("DATABASE_URL must say sslmode=verify-full") && !said.contains("hunter2"), "{said}");
        }
        let said = refused("postgres://u:p@h/chat?sslmode=verify-full&sslrootcert=/hunter2/absent.pem").unwrap();
        assert!(said.contains("DATABASE_URL: sslrootcert") && !said.contains("hunter2"), "{said}");
    }
}
