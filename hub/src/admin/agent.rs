//! AI employees.

use std::{io::Write, path::PathBuf};

use chat_core::{
    Error, Result,
    ids::{AgentId, TenantId},
    store::admin::{Values, tables::AGENTS},
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    Desk,
    words::{self, changes, given, some},
};

/// What an agent is told. What is not given is left as it is, or as the table has it for a new one.
#[derive(Debug, Args)]
pub struct Told {
    /// Which model speaks for it: `model`, or `provider:model` [default: echo].
    #[arg(long, value_parser = words::word)]
    model: Option<String>,
    /// A file with what it is told about itself; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    system_prompt: Option<PathBuf>,
    /// Models that are asked in this order when its own gives no answer, with commas between them; empty is none.
    #[arg(long, value_name = "MODELS", value_parser = words::list)]
    fallback_models: Option<Value>,
    /// How freely it speaks, 0 to 2; `none` leaves it to the model.
    #[arg(long, allow_negative_numbers = true, value_parser = words::or_none::<f64>)]
    temperature: Option<Value>,
    /// Longest answer, in the model's tokens; `none` leaves it to the model.
    #[arg(long, value_name = "TOKENS", value_parser = words::or_none::<i32>)]
    max_output_tokens: Option<Value>,
    /// What fits into a prompt, answer included, in tokens [default: 16000].
    #[arg(long, value_name = "TOKENS")]
    context_tokens: Option<i32>,
    /// The names of the tools it may use, with commas between them; empty is none.
    #[arg(long, value_parser = words::list)]
    tools: Option<Value>,
    /// A file with its rules for handing a conversation to a person: a JSON list of {"condition", "reason"?}; `-` is
    /// standard input.
    #[arg(long, value_name = "FILE")]
    escalation_rules: Option<PathBuf>,
    /// Whether it may be asked: true or false.
    #[arg(long, value_name = "BOOL")]
    active: Option<bool>,
}

impl Told {
    fn values(self) -> Result<Values> {
        let dash = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if dash(&self.system_prompt) && dash(&self.escalation_rules) {
            return Err(Error::field(
                "escalation_rules",
                "cannot come from standard input along with the system prompt",
            ));
        }
        let prompt = self.system_prompt.map(|path| words::text_of("system_prompt", &path)).transpose()?;
        let rules = self.escalation_rules.map(|path| words::text_of("escalation_rules", &path)).transpose()?;
        Ok(given([
            ("model", some(self.model)),
            ("system_prompt", some(prompt)),
            ("fallback_models", self.fallback_models),
            ("temperature", self.temperature),
            ("max_output_tokens", self.max_output_tokens),
            ("context_tokens", some(self.context_tokens)),
            ("tools", self.tools),
            ("escalation_rules", rules.map(|text| rules_of(&text)).transpose()?),
            ("is_active", some(self.active)),
        ]))
    }
}

/// Rules as the table holds them. Whether a condition can be read, the orchestrator says.
fn rules_of(text: &str) -> Result<Value> {
    let refused =
        || Error::field("escalation_rules", "must be a JSON list of {\"condition\": TEXT, \"reason\"?: TEXT}");
    let rules: Value = serde_json::from_str(text).map_err(|_| refused())?;
    let rule = |rule: &Value| {
        let Some(rule) = rule.as_object() else { return false };
        rule.get("condition").is_some_and(Value::is_string)
            && rule.iter().all(|(name, value)| ["condition", "reason"].contains(&name.as_str()) && value.is_string())
    };
    if rules.as_array().is_some_and(|rules| rules.iter().all(rule)) { Ok(rules) } else { Err(refused()) }
}

/// A command about agents.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an agent, and print its id; one of this name and these values that stands is left as it is.
    Create {
        /// Its company.
        #[arg(long)]
        tenant: TenantId,
        /// What it is called: 1 to 200 characters.
        #[arg(long, value_parser = words::name)]
        name: String,
        /// Its id, if it shall not be a new one.
        #[arg(long)]
        id: Option<AgentId>,
        /// See there.
        #[command(flatten)]
        told: Told,
    },
    /// Change what an agent is called or told; from its next turn on.
    Change {
        /// Which.
        agent: AgentId,
        /// What it is called.
        #[arg(long, value_parser = words::name)]
        name: Option<String>,
        /// See there.
        #[command(flatten)]
        told: Told,
    },
    /// Show agents.
    List {
        /// Of this company.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
}

/// Carries it out.
///
/// # Errors
/// What is refused, or cannot be reached.
pub async fn run(command: Command, desk: &mut Desk<impl Write>) -> Result<()> {
    match command {
        Command::Create { tenant, name, id, told } => {
            let mut values = told.values()?;
            values.extend(given([("id", some(id)), ("tenant_id", Some(json!(tenant))), ("name", Some(json!(name)))]));
            desk.create(&AGENTS, values).await
        }
        Command::Change { agent, name, told } => {
            let mut values = told.values()?;
            values.extend(given([("name", some(name))]));
            let mut values = changes(values)?;
            values.insert("id", json!(agent));
            desk.change(&AGENTS, values).await
        }
        Command::List { tenant } => desk.list(&AGENTS, given([("tenant_id", some(tenant))])).await,
    }
}
