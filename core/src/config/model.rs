//! Who answers, beside the model that is built in.

use serde::Deserialize;

use super::{Env, Secret};

/// Names that mean something else where an agent names its model.
const TAKEN: &[&str] = &["default", "echo"];

/// Longest name of a provider, in characters: what the column `model_keys.provider` takes.
const MAX_NAME: usize = 40;

/// Who answers for the agents.
#[derive(Clone, Default)]
pub struct Model {
    /// Answers for every model that is not built in and names no other provider; `None`: nobody does.
    pub provider: Option<Provider>,
    /// Answer for the models that name them, `provider:model`.
    pub others: Vec<Provider>,
    /// The model of agents that name none.
    pub default: Option<String>,
}

/// A service with models behind it.
#[derive(Clone)]
pub struct Provider {
    /// What agents and tenants' keys call it: lower-case letters, digits and dashes. The default one is called by what
    /// it speaks.
    pub name: String,
    /// How it is spoken to.
    pub speaks: Speaks,
    /// What stands before the protocol's own path, the version included, without a slash at its end:
    /// `https://api.openai.com/v1`.
    pub base_url: String,
    /// The operator's key, for tenants without one of their own; a service of one's own may need none.
    pub api_key: Option<Secret>,
}

impl Provider {
    /// The default provider: it is called by what it speaks.
    #[must_use]
    pub fn main(speaks: Speaks, base_url: &str, api_key: Option<Secret>) -> Self {
        Self { name: speaks.as_str().to_owned(), speaks, base_url: base_url.to_owned(), api_key }
    }
}

/// A protocol. Everything that speaks one of them has an address of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaks {
    /// OpenAI's chat completions, and whoever speaks them too.
    OpenAi,
    /// Anthropic's messages.
    Anthropic,
    /// Google's Gemini API.
    Gemini,
}

impl Speaks {
    /// Every protocol there is.
    pub const ALL: [Self; 3] = [Self::OpenAi, Self::Anthropic, Self::Gemini];

    /// Its name in the settings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }

    /// Where its inventor serves it.
    #[must_use]
    pub fn home(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com/v1",
            Self::Gemini => "https://generativelanguage.googleapis.com/v1beta",
        }
    }
}

/// A provider as `MODEL_PROVIDERS` lists it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    name: String,
    speaks: Speaks,
    base_url: Option<String>,
    api_key: Option<Secret>,
}

impl Model {
    /// Reads `MODEL_PROVIDER`, `MODEL_BASE_URL`, `MODEL_API_KEY`, `MODEL_DEFAULT` and `MODEL_PROVIDERS`.
    pub fn read(env: &mut Env<'_>) -> Self {
        let named = env.optional("MODEL_PROVIDER");
        let base_url = env.optional("MODEL_BASE_URL").map(|url| without_slash(&url));
        let api_key = env.optional("MODEL_API_KEY");
        let default = env.optional("MODEL_DEFAULT");
        let speaks = named.as_deref().and_then(|name| Speaks::ALL.into_iter().find(|speaks| speaks.as_str() == name));
        if named.is_some() && speaks.is_none() {
            env.faults.push("MODEL_PROVIDER must be openai, anthropic or gemini, or absent".to_owned());
        }
        if base_url.as_ref().is_some_and(|url| !is_base(url)) {
            env.faults.push(
                "MODEL_BASE_URL must be http(s)://host[:port][/path], without user, query or fragment".to_owned(),
            );
        }
        if api_key.as_ref().is_some_and(|key| !is_key(key)) {
            env.faults.push("MODEL_API_KEY must be visible ASCII characters, without spaces or line breaks".to_owned());
        } else if let Some(key) = &api_key {
            env.refuse_placeholder("MODEL_API_KEY", key);
        }
        if speaks.is_some() && base_url.is_none() && api_key.is_none() {
            env.faults.push("MODEL_API_KEY is missing".to_owned());
        }
        let provider = speaks.map(|speaks| {
            Provider::main(speaks, base_url.as_deref().unwrap_or(speaks.home()), api_key.map(Secret::from))
        });
        let others = others(env, provider.as_ref());
        Self { provider, others, default }
    }
}

/// Reads `MODEL_PROVIDERS`. What is wrong with it is told without a word of it: it holds keys.
fn others(env: &mut Env<'_>, default: Option<&Provider>) -> Vec<Provider> {
    let Some(text) = env.optional("MODEL_PROVIDERS") else { return Vec::new() };
    let Ok(listed) = serde_json::from_str::<Vec<Listed>>(&text) else {
        env.faults.push(
            r#"MODEL_PROVIDERS must be a JSON list of {"name", "speaks": "openai" | "anthropic" | "gemini", "base_url"?, "api_key"?}"#
                .to_owned(),
        );
        return Vec::new();
    };
    let mut faults: Vec<String> = Vec::new();
    let mut providers: Vec<Provider> = Vec::new();
    for (number, listed) in (1..).zip(listed) {
        let mut fault = |what: &str| faults.push(format!("MODEL_PROVIDERS, entry {number}: {what}"));
        let base_url = listed.base_url.filter(|url| !url.is_empty()).map(|url| without_slash(&url));
        let api_key = listed.api_key.filter(|key| !key.expose().is_empty());
        if !is_name(&listed.name) {
            fault("name must be lower-case letters, digits and dashes, neither default nor echo");
        }
        if default.into_iter().chain(&providers).any(|other| other.name == listed.name) {
            fault("name must not be taken twice");
        }
        if base_url.as_ref().is_some_and(|url| !is_base(url)) {
            fault("base_url must be http(s)://host[:port][/path], without user, query or fragment");
        }
        if api_key.as_ref().is_some_and(|key| !is_key(key.expose())) {
            fault("api_key must be visible ASCII characters, without spaces or line breaks");
        } else if let Some(key) = &api_key {
            env.refuse_placeholder(&format!("api_key in MODEL_PROVIDERS, entry {number},"), key.expose());
        }
        providers.push(Provider {
            name: listed.name,
            speaks: listed.speaks,
            base_url: base_url.unwrap_or_else(|| listed.speaks.home().to_owned()),
            api_key,
        });
    }
    env.faults.append(&mut faults);
    providers
}

fn without_slash(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

/// Whether an agent can say it before a colon, and a tenant's key be kept under it.
fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(fits) && !TAKEN.contains(&name)
}

/// Whether a header can carry it. A line break at the end of a secret is easily kept.
fn is_key(key: &str) -> bool {
    key.bytes().all(|byte| byte.is_ascii_graphic())
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
        let openai = Speaks::OpenAi.home();
        for (settings, base_url, key, default) in [
            (vec![], None, None, None),
            (vec![("MODEL_DEFAULT", "echo")], None, None, Some("echo")),
            (vec![provider, ("MODEL_API_KEY", "k")], Some(openai), Some("k"), None),
            (vec![("MODEL_PROVIDER", "gemini"), ("MODEL_API_KEY", "k")], Some(Speaks::Gemini.home()), Some("k"), None),
            (
                vec![("MODEL_PROVIDER", "anthropic"), ("MODEL_API_KEY", "k")],
                Some(Speaks::Anthropic.home()),
                Some("k"),
                None,
            ),
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
    fn further_providers_are_read_from_a_list() {
        let list = r#"[{"name": "groq", "speaks": "openai", "base_url": "https://groq.example/v1/", "api_key": "k"},
                       {"name": "claude-2", "speaks": "anthropic"}]"#;
        let model = read(&[("MODEL_PROVIDERS", list)]).unwrap();
        let others: Vec<_> = model
            .others
            .iter()
            .map(|one| (one.name.as_str(), one.speaks, one.base_url.as_str(), one.api_key.is_some()))
            .collect();
        assert_eq!(
            others,
            [
                ("groq", Speaks::OpenAi, "https://groq.example/v1", true),
                ("claude-2", Speaks::Anthropic, "https://api.anthropic.com/v1", false)
            ]
        );
        assert!(model.provider.is_none());
    }

    #[test]
    fn what_cannot_be_meant_stops_the_start_and_is_not_repeated() {
        let entry = |fields: &str| format!(r#"[{{"speaks": "openai", {fields}}}]"#);
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
            ("MODEL_PROVIDERS", "hunter2"),
            ("MODEL_PROVIDERS", r#"{"hunter2": 1}"#),
            ("MODEL_PROVIDERS", r#"[{"name": "hunter2"}]"#),
            ("MODEL_PROVIDERS", r#"[{"name": "a", "speaks": "hunter2"}]"#),
            ("MODEL_PROVIDERS", &entry(r#""name": "a", "hunter2": "b""#)),
            ("MODEL_PROVIDERS", &entry(r#""name": "Hunter2""#)),
            ("MODEL_PROVIDERS", &entry(r#""name": "hunter2:a""#)),
            ("MODEL_PROVIDERS", &entry(r#""name": """#)),
            ("MODEL_PROVIDERS", &entry(r#""name": "echo""#)),
            ("MODEL_PROVIDERS", &entry(&format!(r#""name": "{}""#, "a".repeat(41)))),
            ("MODEL_PROVIDERS", &entry(r#""name": "a", "base_url": "hunter2""#)),
            ("MODEL_PROVIDERS", &entry(r#""name": "a", "api_key": "hunter2\n""#)),
            ("MODEL_PROVIDERS", r#"[{"speaks": "openai", "name": "a"}, {"speaks": "gemini", "name": "a"}]"#),
        ] {
            let faults = read(&[(name, value)]).err().expect(value);
            assert_eq!(faults.len(), 1, "{value}: {faults:?}");
            assert!(faults[0].starts_with(name) && !faults[0].to_lowercase().contains("hunter2"), "{faults:?}");
        }
        assert_eq!(read(&[("MODEL_PROVIDER", "openai")]).err().unwrap(), ["MODEL_API_KEY is missing"]);
        let twice =
            [("MODEL_PROVIDER", "openai"), ("MODEL_API_KEY", "k"), ("MODEL_PROVIDERS", &entry(r#""name": "openai""#))];
        assert!(read(&twice).is_err(), "the default provider has its name already");
    }
}
