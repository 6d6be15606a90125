//! Where the answers go that are not for the web.

use super::{Env, model::is_base};

/// Slack's Web API: <https://docs.slack.dev/apis/web-api/>.
const SLACK: &str = "https://slack.com/api";

/// WhatsApp's Cloud API, with the version that its documents name; each version lives about two years:
/// <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/text-messages/>.
const WHATSAPP: &str = "https://graph.facebook.com/v26.0";

/// The services behind the channels. Their tokens are the tenants' own, in `channel_connections`.
#[derive(Debug, Clone)]
pub struct Channels {
    /// What stands before `/chat.postMessage`, without a slash at its end.
    pub slack_base_url: String,
    /// What stands before `/{phone_number_id}/messages`, without a slash at its end; ends with the version.
    pub whatsapp_base_url: String,
}

impl Channels {
    /// Reads `SLACK_BASE_URL` and `WHATSAPP_BASE_URL`.
    pub fn read(env: &mut Env<'_>) -> Self {
        Self { slack_base_url: slack(env), whatsapp_base_url: base(env, "WHATSAPP_BASE_URL", WHATSAPP) }
    }
}

/// Reads `SLACK_BASE_URL`.
pub(super) fn slack(env: &mut Env<'_>) -> String {
    base(env, "SLACK_BASE_URL", SLACK)
}

fn base(env: &mut Env<'_>, name: &'static str, default: &str) -> String {
    let url = env.optional(name).unwrap_or_else(|| default.to_owned());
    let url = url.trim_end_matches('/');
    if !is_base(url) {
        env.faults.push(format!("{name} must be http(s)://host[:port][/path], without user, query or fragment"));
    }
    url.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_defaults_and_are_not_repeated_when_they_cannot_be_meant() {
        let mut env = Env::new(&|_| None);
        let channels = Channels::read(&mut env);
        assert!(env.faults.is_empty());
        assert_eq!((channels.slack_base_url.as_str(), channels.whatsapp_base_url.as_str()), (SLACK, WHATSAPP));
        let mut env = Env::new(&|name| (name == "SLACK_BASE_URL").then(|| "http://127.0.0.1:1/api/".to_owned()));
        assert_eq!(Channels::read(&mut env).slack_base_url, "http://127.0.0.1:1/api");
        for name in ["SLACK_BASE_URL", "WHATSAPP_BASE_URL"] {
            let lookup = |asked: &str| (asked == name).then(|| "https://me:hunter2@host".to_owned());
            let mut env = Env::new(&lookup);
            Channels::read(&mut env);
            assert_eq!(env.faults.len(), 1);
            assert!(env.faults[0].starts_with(name) && !env.faults[0].contains("hunter2"), "{:?}", env.faults);
        }
    }
}
