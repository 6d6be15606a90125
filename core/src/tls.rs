//! Whom to trust when a server says who it is.

use rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::error::{Error, Result};

/// The text of a file of certificates in PEM.
///
/// # Errors
/// [`Kind::Internal`](crate::Kind::Internal), naming `setting`, if it cannot be read or holds no certificate: nobody
/// would be trusted then.
pub(crate) fn authorities(setting: &str, path: &str) -> Result<Vec<u8>> {
    let text = std::fs::read(path);
    let text = text.map_err(|error| Error::internal(format!("{setting} names a file that cannot be read: {error}")))?;
    let certificates: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
        return Ok(text);
    }
    Err(Error::internal(format!("{setting} names a file without a certificate in PEM")))
}
