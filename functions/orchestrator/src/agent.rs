//! What an agent is asked: who it is, what was said, and the message to answer; and what it says.

use std::time::Duration;

use chat_core::{
    Code, Error, Result,
    conversation::{Author, ToolState},
    store::{
        claim::{Agent, Claim},
        memory::Words,
    },
};
use futures::StreamExt;
use tokio::time::{Instant, timeout_at};

use crate::{
    draft::Draft,
    model::{Ended, Model, Piece, Prompt, Purse, Said, ToolCall, ask},
    tools::Toolbox,
};

/// Tokens that are left for an answer whose length the agent leaves to its model.
const ANSWER_TOKENS: usize = 1_024;

/// How often an agent may look at what its tools found and call others, for one answer.
const TOOL_STEPS: usize = 5;

/// Calls of one step at most; what a model wants beyond is not done.
const TOOL_CALLS: usize = 8;

/// Time for all tools of one answer.
const TOOLS_TIME: Duration = Duration::from_secs(30);

/// Tokens that the result of a tool needs at least to be of use.
const LEAST_RESULT: usize = 200;

/// Tokens that stand around each thing that is said.
const AROUND: usize = 8;

/// The prompt of a claimed turn: as many of the words before its message as fit into the model's context, the newest
/// first of all. And the place of the oldest that is in it; `None` if there is none.
#[must_use]
pub fn prompt(claim: &Claim, before: &[Words]) -> (Prompt, Option<i64>) {
    let agent = &claim.agent;
    let mut room = room(claim).saturating_sub(tokens(&claim.message));
    let fits = |words: &&Words| {
        let takes = tokens(&words.text);
        let fits = takes <= room;
        room = room.saturating_sub(takes);
        fits
    };
    let kept = before.iter().rev().take_while(fits).count();
    // An answer without its question would begin the talk in the middle.
    let kept: Vec<&Words> =
        before[before.len() - kept..].iter().skip_while(|words| words.author != Author::User).collect();
    let said = kept.iter().map(|words| match words.author {
        Author::User => Said::User(words.text.clone()),
        Author::Assistant => Said::Agent { text: words.text.clone(), calls: Vec::new() },
    });
    let prompt = Prompt {
        tenant: claim.tenant,
        models: [vec![agent.model.clone()], agent.fallback_models.clone()].concat(),
        system: system(claim),
        said: said.chain([Said::User(claim.message.clone())]).collect(),
        tools: Vec::new(),
        temperature: agent.temperature,
        max_output_tokens: agent.max_output_tokens.and_then(|most| u32::try_from(most).ok()),
        until: None,
    };
    // Where nothing is kept, everything before the message has fallen out.
    let oldest = kept.iter().map(|words| words.seq).min().unwrap_or(claim.seq);
    (prompt, (!before.is_empty()).then_some(oldest))
}

/// What the agent was told about itself, and what it knows of what was said before.
fn system(claim: &Claim) -> String {
    match &claim.summary {
        Some(summary) => {
            format!("{}\n\nEarlier in this conversation, in short:\n{summary}", claim.agent.system_prompt)
        }
        None => claim.agent.system_prompt.clone(),
    }
}

/// Tokens that what was said may take: the model's context without the instructions and the answer.
#[must_use]
pub fn room(claim: &Claim) -> usize {
    room_of(&claim.agent, &system(claim))
}

/// The same for an agent with these instructions.
#[must_use]
pub fn room_of(agent: &Agent, instructions: &str) -> usize {
    let whole = usize::try_from(agent.context_tokens).unwrap_or(0);
    let answer = agent.max_output_tokens.and_then(|most| usize::try_from(most).ok()).unwrap_or(ANSWER_TOKENS);
    whole.saturating_sub(answer).saturating_sub(tokens(instructions))
}

/// How many tokens a text takes, at most: no model's own count, which would take its vocabulary of some megabytes. English
/// has about four bytes a token, the scripts of Asia three bytes a character and up to one token; so this errs on the safe
/// side.
#[must_use]
pub fn tokens(text: &str) -> usize {
    tokens_in(text.len())
}

/// The same of that many bytes.
#[must_use]
pub fn tokens_in(bytes: usize) -> usize {
    bytes.div_ceil(3) + AROUND
}

/// Hears a model out, into a draft, and uses the tools that it asks for.
///
/// # Errors
/// Those of [`Model::speak`].
pub async fn write(
    model: &dyn Model,
    mut prompt: Prompt,
    purse: &dyn Purse,
    toolbox: &Toolbox<'_>,
    draft: &Draft,
) -> Result<()> {
    let until = Instant::now() + TOOLS_TIME;
    let mut room = toolbox.room(&prompt);
    for step in 0..=TOOL_STEPS {
        // With nothing left to call, or no room for what it finds, it has to answer.
        let may_call = step < TOOL_STEPS && Instant::now() < until && room >= LEAST_RESULT;
        prompt.tools = if may_call { toolbox.specs() } else { Vec::new() };
        let begun = draft.bytes();
        let (calls, ended) = hear(model, &prompt, purse, draft).await?;
        if calls.is_empty() || prompt.tools.is_empty() {
            return Ok(());
        }
        // Whoever has called goes on; who gave no answer just now is not asked first again.
        if let Some(place) = prompt.models.iter().position(|model| *model == ended.model) {
            prompt.models.rotate_left(place);
        }
        let text = draft.text().split_off(begun);
        prompt.said.push(Said::Agent { text, calls: calls.clone() });
        for call in calls {
            draft.tool(&call.name, ToolState::Running);
            let result = timeout_at(until, toolbox.run(&call.name, &call.arguments)).await;
            let (result, state) = match result.unwrap_or_else(|_| Err("The tool took too long.".to_owned())) {
                Ok(found) => (found, ToolState::Done),
                Err(why) => (why, ToolState::Failed),
            };
            draft.tool(&call.name, state);
            let result = fitting(result, room);
            room = room.saturating_sub(tokens(&result));
            prompt.said.push(Said::Tool { id: call.id, name: call.name, result });
        }
        draft.pause();
    }
    Ok(())
}

/// A result, cut to as many tokens as there is room for.
fn fitting(mut result: String, room: usize) -> String {
    let most = room.saturating_sub(AROUND) * 3;
    result.truncate(result.floor_char_boundary(most));
    result
}

/// Hears one answer out, and returns what the model wants to call, and which it was.
async fn hear(model: &dyn Model, prompt: &Prompt, purse: &dyn Purse, draft: &Draft) -> Result<(Vec<ToolCall>, Ended)> {
    let begun = draft.bytes();
    let mut calls = Vec::new();
    let mut pieces = ask(model, prompt, purse);
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Text(words) => draft.push(&words),
            Piece::Anew => {
                draft.back_to(begun);
                calls.clear();
            }
            Piece::Call(call) if calls.len() < TOOL_CALLS => calls.push(call),
            Piece::Call(_) => {}
            Piece::End(ended) => return Ok((calls, ended)),
        }
    }
    Err(Error::new(Code::ModelFailed, Code::ModelFailed.failure()).because("the model stopped without an end"))
}

/// The whole answer at once, without tools.
///
/// # Errors
/// Those of [`Model::speak`].
pub async fn answer(model: &dyn Model, prompt: &Prompt, purse: &dyn Purse) -> Result<String> {
    Ok(answer_of(model, prompt, purse).await?.0)
}

/// The same, and which model it was.
///
/// # Errors
/// Those of [`Model::speak`].
pub async fn answer_of(model: &dyn Model, prompt: &Prompt, purse: &dyn Purse) -> Result<(String, Ended)> {
    let draft = Draft::default();
    let (_, ended) = hear(model, prompt, purse, &draft).await?;
    Ok((draft.text(), ended))
}
