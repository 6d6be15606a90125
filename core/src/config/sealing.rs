//! The keys that seal what tenants entrust to us.

use zeroize::Zeroizing;

use super::Env;

/// The keys of [`Sealer`](crate::sealed::Sealer), 32 bytes each; the first one seals. None: nothing is sealed or opened.
#[derive(Clone, Default)]
pub struct Sealing(Vec<Zeroizing<[u8; 32]>>);

impl Sealing {
    /// Reads `SECRETS_KEY`: 64 hexadecimal digits, as `openssl rand -hex 32` prints them; several, separated by commas,
    /// while a key is being replaced.
    pub fn read(env: &mut Env<'_>) -> Self {
        let text = env.optional("SECRETS_KEY").unwrap_or_default();
        let keys: Option<Vec<_>> = text.split(',').map(str::trim).filter(|key| !key.is_empty()).map(key).collect();
        let keys = keys.unwrap_or_else(|| {
            env.faults
                .push("SECRETS_KEY must be 64 hexadecimal digits, or several such separated by commas".to_owned());
            Vec::new()
        });
        for key in &keys {
            env.refuse_placeholder_key("SECRETS_KEY", &key[..]);
        }
        Self(keys)
    }

    /// These keys.
    #[must_use]
    pub fn with(keys: Vec<[u8; 32]>) -> Self {
        Self(keys.into_iter().map(Zeroizing::new).collect())
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &[u8; 32]> {
        self.0.iter().map(|key| &**key)
    }
}

fn key(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != bytes.len() {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}
