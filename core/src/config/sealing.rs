//! The keys that seal what tenants entrust to us.

use super::Env;

/// The keys of [`Sealer`](crate::sealed::Sealer), 32 bytes each; the first one seals. None: nothing is sealed or opened.
#[derive(Clone, Default)]
pub struct Sealing(Vec<[u8; 32]>);

impl Sealing {
    /// Reads `SECRETS_KEY`: 64 hexadecimal digits, as `openssl rand -hex 32` prints them; several, separated by commas,
    /// while a key is being replaced.
    pub fn read(env: &mut Env<'_>) -> Self {
        let text = env.optional("SECRETS_KEY").unwrap_or_default();
        let keys: Option<Vec<_>> = text.split(',').map(str::trim).filter(|key| !key.is_empty()).map(key).collect();
        Self(keys.unwrap_or_else(|| {
            env.faults
                .push("SECRETS_KEY must be 64 hexadecimal digits, or several such separated by commas".to_owned());
            Vec::new()
        }))
    }

    /// These keys.
    #[must_use]
    pub fn with(keys: Vec<[u8; 32]>) -> Self {
        Self(keys)
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &[[u8; 32]] {
        &self.0
    }
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} secret keys)", self.0.len())
    }
}

fn key(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> =
        text.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<Vec<_>>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Vec<u8> = pairs.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}
