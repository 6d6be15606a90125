//! Seals a tenant's secret for a column, so that nobody but the services sees it in the clear.

use std::{
    fmt::Write as _,
    io::{Read, Write},
};

use chat_core::{
    Error, Result,
    config::{Sealing, Secret},
    ids::TenantId,
    sealed::Sealer,
};

/// Longest secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4_096;

/// Seals what it reads, for `tenant` and `purpose` alone, and writes it as Postgres reads a `bytea`: `\x…`, one line.
///
/// The purpose says what the secret is for, such as `model:openai`; what opens it must name the same. A line break at the
/// end, which a shell or an editor adds, is no part of the secret.
///
/// # Errors
/// [`Kind::Invalid`](chat_core::Kind::Invalid) if tenant, purpose or secret cannot be meant;
/// [`Kind::Internal`](chat_core::Kind::Internal) without a key to seal with.
pub fn seal(settings: &Sealing, tenant: &str, purpose: &str, input: impl Read, mut output: impl Write) -> Result<()> {
    let tenant: TenantId = tenant.parse().map_err(|_| Error::field("TENANT", "must be the id of a tenant"))?;
    if purpose.is_empty() || !purpose.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::field("PURPOSE", "must be a word, such as model:openai"));
    }
    let sealed = Sealer::new(settings).seal(tenant, purpose, &read_secret(input)?)?;
    writeln!(output, "{}", hex(&sealed)).map_err(Error::internal)
}

/// Bytes as Postgres reads a `bytea`: `\x…`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut line = String::from("\\x");
    for byte in bytes {
        write!(line, "{byte:02x}").expect("a String takes any text");
    }
    line
}

/// Reads a secret: all that comes, but for a line break at its end.
///
/// # Errors
/// [`Kind::Invalid`](chat_core::Kind::Invalid) for one that is empty, too long or no text; without repeating it.
pub fn read_secret(input: impl Read) -> Result<Secret> {
    let mut text = String::new();
    input.take(MAX_SECRET_BYTES + 1).read_to_string(&mut text).map_err(|_| Error::field("secret", "must be text"))?;
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() || text.len() as u64 > MAX_SECRET_BYTES {
        return Err(Error::field("secret", format!("must have 1 to {MAX_SECRET_BYTES} bytes, on standard input")));
    }
    Ok(Secret::from(secret.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(tenant: &str, purpose: &str, secret: &[u8]) -> Result<String> {
        let mut output = Vec::new();
        seal(&Sealing::with(vec![[7; 32]]), tenant, purpose, secret, &mut output)?;
        Ok(String::from_utf8(output).unwrap())
    }

    #[test]
    fn what_was_sealed_opens_for_the_same_tenant_and_purpose() {
        let tenant = TenantId::new();
        for input in ["sk-1", "sk-1\n", "sk-1\r\n"] {
            let line = sealed(&tenant.to_string(), "model:openai", input.as_bytes()).unwrap();
            let digits = line.strip_prefix("\\x").and_then(|line| line.strip_suffix('\n')).unwrap();
            let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
            let bytes: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
            let opened = Sealer::new(&Sealing::with(vec![[7; 32]])).open(tenant, "model:openai", &bytes).unwrap();
            assert_eq!(opened.expose(), "sk-1");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_the_secret_not_repeated() {
        let tenant = TenantId::new().to_string();
        for (tenant, purpose, secret) in [
            ("acme", "model:openai", "hunter2"),
            (&tenant, "", "hunter2"),
            (&tenant, "model openai", "hunter2"),
            (&tenant, "model:openai", "\n"),
            (&tenant, "model:openai", &"hunter2".repeat(1_000)),
        ] {
            let error = sealed(tenant, purpose, secret.as_bytes()).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(sealed(&tenant, "model:openai", b"\xff").is_err());
        assert!(seal(&Sealing::default(), &tenant, "model:openai", &b"sk"[..], Vec::new()).is_err(), "no key");
    }
}
