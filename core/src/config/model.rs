//! Who answers, beside the model that is built in.

use super::{Env, Secret};

/// OpenAI's own API. Everything that speaks the same protocol has another address.
const OPENAI: &str = "https://api.openai.com/v1";

/// Who answers for the agents.
#[derive(Debug, Clone)]
pub struct Model {
    /// Answers for every model that is not built in; `None`: nobody does.
    pub provider: Option<Provider>,
    /// The model of agents that name none.
    pub default: Option<String>,
}

/// A service that speaks OpenAI's chat completions.
#[derive(Debug, Clone)]
pub struct Provider {
    /// What stands before `/chat/completions`, without a slash at its end: `https://api.openai.com/v1`.
    pub base_url: String,
    /// Sent as a bearer token; a service of one's own may need none.
    pub api_key: Option<Secret>,
}

impl Model {
    /// Reads `MODEL_PROVIDER`, `MODEL_BASE_URL`, `MODEL_API_KEY` and `MODEL_DEFAULT`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let provider = env.optional("MODEL_PROVIDER");
        let base_url = env.optional("MODEL_BASE_URL").map(|url| url.trim_end_matches('/').to_owned());
        let api_key = env.optional("MODEL_API_KEY");
        let default = env.optional("MODEL_DEFAULT");
        let openai = provider.as_deref() == Some("openai");
        if provider.is_some() && !openai {
            env.faults.push("MODEL_PROVIDER must be openai, or absent".to_owned());
        }
        if base_url.as_ref().is_some_and(|url| !is_base(url)) {
            env.faults.push(
                "MODEL_BASE_URL must be http(s)://host[:port][/path], without user, query or fragment".to_owned(),
            );
        }
        // A line break at the end of a secret is easily kept, and no header can carry it.
        if api_key.as_ref().is_some_and(|key| !key.bytes().all(|byte| byte.is_ascii_graphic())) {
            env.faults.push("MODEL_API_KEY must be visible ASCII characters, without spaces or line breaks".to_owned());
        }
        if openai && base_url.is_none() && api_key.is_none() {
            env.faults.push("MODEL_API_KEY is missing".to_owned());
        }
        let provider = openai.then(|| Provider {
            base_url: base_url.unwrap_or_else(|| OPENAI.to_owned()),
            api_key: api_key.map(Secret::from),
        });
        Self { provider, default }
    }
}

/// Whether a path may follow this address. A password in it would end up in logs, so it has no place there.
pub(super) fn is_base(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match authority.rsplit_once(':') {
            // The colons of an IPv6 address stand in brackets.
            Some((host, port)) if !port.ends_with(']') => port.parse::<u16>().map_or("", |_| host),
            _ => authority,
        };
        !host.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"@?#\\\"<>".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Model, Vec<String>> {
        let lookup =
            |name: &str| settings.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let mut env = Env::new(&lookup);
        let model = Model::read(&mut env);
        if env.faults.is_empty() { Ok(model) } else { Err(env.faults) }
    }

    #[test]
    fn who_answers_is_read_from_four_settings() {
        let provider = ("MODEL_PROVIDER", "openai");
        for (settings, base_url, key, default) in [
            (vec![], None, None, None),
            (vec![("MODEL_DEFAULT", "echo")], None, None, Some("echo")),
            (vec![provider, ("MODEL_API_KEY", "k")], Some(OPENAI), Some("k"), None),
            (vec![provider, ("MODEL_BASE_URL", "http://[::1]:80/v1/")], Some("http://[::1]:80/v1"), None, None),
            (
                vec![provider, ("MODEL_BASE_URL", "https://models.example"), ("MODEL_API_KEY", "k")],
                Some("https://models.example"),
                Some("k"),
                None,
            ),
        ] {
            let model = read(&settings).unwrap_or_else(|faults| panic!("{settings:?}: {faults:?}"));
            let provider = model.provider.as_ref();
            assert_eq!(provider.map(|provider| provider.base_url.as_str()), base_url, "{settings:?}");
            let sent = provider.and_then(|provider| provider.api_key.as_ref()).map(Secret::expose);
            assert_eq!((sent, model.default.as_deref()), (key, default), "{settings:?}");
        }
    }

    #[test]
    fn what_cannot_be_meant_stops_the_start_and_is_not_repeated() {
        for (name, value) in [
            ("MODEL_PROVIDER", "hunter2"),
            ("MODEL_BASE_URL", "hunter2"),
            ("MODEL_BASE_URL", "ftp://hunter2"),
            ("MODEL_BASE_URL", "https://"),
            ("MODEL_BASE_URL", "https://:443/hunter2"),
            ("MODEL_BASE_URL", "https://host:hunter2"),
            ("MODEL_BASE_URL", "https://user:hunter2@host/v1"),
            ("MODEL_BASE_URL", "https://host/v1?key=hunter2"),
            ("MODEL_BASE_URL", "https://host/hunter2 v1"),
            ("MODEL_API_KEY", "hunter2\n"),
            ("MODEL_API_KEY", "hünter2"),
        ] {
            let faults = read(&[(name, value)]).expect_err(value);
            assert_eq!(faults.len(), 1, "{value}: {faults:?}");
            assert!(faults[0].starts_with(name) && !faults[0].contains("hunter2"), "{faults:?}");
        }
        assert_eq!(read(&[("MODEL_PROVIDER", "openai")]).unwrap_err(), ["MODEL_API_KEY is missing"]);
    }

    #[test]
    fn the_key_is_not_printed() {
        let model = read(&[("MODEL_PROVIDER", "openai"), ("MODEL_API_KEY", "hunter2")]).unwrap();
        assert!(!format!("{model:?}").contains("hunter2"));
    }
}
