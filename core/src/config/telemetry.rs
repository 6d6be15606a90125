//! What operators watch: who may read the figures.

use super::{Env, Secret};

/// Shortest token that guards the figures, in bytes.
const MIN_TOKEN_BYTES: usize = 16;

/// Who may read a hub's figures.
#[derive(Clone, Default)]
pub struct Metrics {
    /// What `Authorization: Bearer` must hold. None: there is no such route.
    pub token: Option<Secret>,
}

impl Metrics {
    /// Reads `METRICS_TOKEN`: at least 16 random bytes, written in a way that fits into a header.
    pub fn read(env: &mut Env<'_>) -> Self {
        let token = env.optional("METRICS_TOKEN");
        if let Some(token) = &token {
            let faults = env.faults.len();
            if token.len() < MIN_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let what = format!("has at least {MIN_TOKEN_BYTES} visible characters of ASCII and no space");
                env.faults.push(format!("METRICS_TOKEN {what}"));
            }
            if env.faults.len() == faults {
                env.refuse_placeholder_key("METRICS_TOKEN", token.as_bytes());
            }
        }
        Self { token: token.map(Secret::from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_secret_of_ones_own_or_absent() {
        let faults = |token: &str| {
            let lookup = |name: &str| (name == "METRICS_TOKEN").then(|| token.to_owned());
            let mut env = Env::new(&lookup);
            let metrics = Metrics::read(&mut env);
            (metrics.token.is_some(), env.faults)
        };
        assert_eq!(faults(""), (false, Vec::new()), "empty is absent");
        assert_eq!(faults("k3J9-vq2L_x8Zr0Tn5Wm7Yb1"), (true, Vec::new()));
        for bad in
            ["k3J9vq2L", "k3J9 vq2L x8Zr0Tn5Wm7Yb1", "k3J9-vq2L_x8Zr0Tn5Wm7Yb\u{e4}", "changeme-changeme-changeme"]
        {
            let (_, faults) = faults(bad);
            assert!(faults.len() == 1 && faults[0].contains("METRICS_TOKEN") && !faults[0].contains(bad), "{faults:?}");
        }
    }
}
