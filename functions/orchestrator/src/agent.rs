//! What an agent is asked: who it is, what was said, and the message to answer; and what it says.

use chat_core::{Code, Error, Result, store::turns::Claim};
use futures::StreamExt;

use crate::{
    draft::Draft,
    model::{Model, Piece, Prompt, Purse, Said},
};

/// The prompt of a claimed turn.
#[must_use]
pub fn prompt(claim: &Claim) -> Prompt {
    let agent = &claim.agent;
    let mut said = Vec::with_capacity(claim.history.len() * 2);
    for exchange in &claim.history {
        said.push(Said::User(exchange.said.clone()));
        // A message that was never answered was said all the same.
        said.extend(exchange.answered.clone().map(|text| Said::Agent { text, calls: Vec::new() }));
    }
    Prompt {
        tenant: claim.tenant,
        models: [vec![agent.model.clone()], agent.fallback_models.clone()].concat(),
        system: agent.system_prompt.clone(),
        said,
        tools: Vec::new(),
        temperature: agent.temperature,
        max_output_tokens: agent.max_output_tokens.and_then(|most| u32::try_from(most).ok()),
    }
}

/// Hears a model out, into a draft.
///
/// # Errors
/// Those of [`Model::speak`].
pub async fn write(model: &dyn Model, prompt: &Prompt, purse: &dyn Purse, draft: &Draft) -> Result<()> {
    let mut pieces = model.speak(prompt, purse);
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Text(words) => draft.push(&words),
            Piece::Anew => draft.clear(),
            Piece::Call(_) => {}
            Piece::End(_) => return Ok(()),
        }
    }
    Err(Error::new(Code::ModelFailed, Code::ModelFailed.failure()).because("the model stopped without an end"))
}

/// The whole answer at once.
///
/// # Errors
/// Those of [`Model::speak`].
pub async fn answer(model: &dyn Model, prompt: &Prompt, purse: &dyn Purse) -> Result<String> {
    let draft = Draft::default();
    write(model, prompt, purse, &draft).await?;
    Ok(draft.text())
}
