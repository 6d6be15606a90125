//! When an agent steps back: its rules, read and matched; and the step itself.
//!
//! A rule has a condition: terms joined by the word `AND`. A term is a phrase, looked for in the message that is to be
//! answered, or a comparison of a count with a number: `talk to a human`, `billing AND attempts > 2`, `messages >= 10`.
//! The first rule whose terms all hold hands the conversation to a person.

use chat_core::{
    Result,
    conversation::Status,
    event::ServerFrame,
    ids::{ConversationId, TenantId},
    job::Job,
    keys::{ESCALATION_EXPIRY, escalation_status_key},
    store::{claim::Claim, turns::End},
};
use serde::Deserialize;
use tracing::{error, info, warn};

use crate::{Orchestrator, routes::web};

/// Longest condition, in characters.
const MAX_CONDITION_CHARS: usize = 1_000;

/// Messages that are read at once while earlier attempts are counted, and how often at most: a count of attempts is exact
/// for the newest 10,000 messages.
const READ_AT_ONCE: i64 = 200;
const READS: usize = 50;

/// A rule, ready to be matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// All of them must be in the message; folded, see [`folded`].
    phrases: Vec<String>,
    /// All of them must hold.
    comparisons: Vec<Comparison>,
    /// What the person is told: the rule's reason, or its condition.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Comparison {
    count: Count,
    operator: Operator,
    number: i64,
}

/// What is counted, of the user's messages of this epoch, the one to answer included. After a person has handed the
/// conversation back it is counted from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Count {
    /// Those that have all phrases of the rule; without phrases all of them.
    Attempts,
    /// All of them.
    Messages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Greater,
    AtLeast,
    Less,
    AtMost,
    Equal,
}

impl Comparison {
    fn holds(self, count: i64) -> bool {
        match self.operator {
            Operator::Greater => count > self.number,
            Operator::AtLeast => count >= self.number,
            Operator::Less => count < self.number,
            Operator::AtMost => count <= self.number,
            Operator::Equal => count == self.number,
        }
    }
}

/// A rule as tenants write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    condition: String,
    #[serde(default)]
    reason: Option<String>,
}

/// The rules in their order, and those that cannot be read: their number, from 1, and what is wrong. A fault is told
/// without the tenant's words.
pub fn rules(json: &str) -> (Vec<Rule>, Vec<(usize, &'static str)>) {
    let Ok(written) = serde_json::from_str::<Vec<serde_json::Value>>(json) else {
        return (Vec::new(), vec![(0, "the rules are no JSON array")]);
    };
    let (mut rules, mut faults) = (Vec::new(), Vec::new());
    for (number, rule) in (1..).zip(written) {
        let read = serde_json::from_value(rule).map_err(|_| "a rule is {condition, reason?}, both text");
        match read.and_then(|Written { condition, reason }| Rule::parse(&condition, reason)) {
            Ok(rule) => rules.push(rule),
            Err(fault) => faults.push((number, fault)),
        }
    }
    (rules, faults)
}

impl Rule {
    /// Reads a condition.
    fn parse(condition: &str, reason: Option<String>) -> Result<Self, &'static str> {
        if condition.chars().count() > MAX_CONDITION_CHARS {
            return Err("the condition is too long");
        }
        let (mut phrases, mut comparisons) = (Vec::new(), Vec::new());
        let words: Vec<&str> = condition.split_whitespace().collect();
        for term in words.split(|word| *word == "AND") {
            if term.is_empty() {
                return Err("a term is missing");
            }
            if term.iter().any(|word| matches!(*word, "OR" | "NOT")) {
                return Err("terms are joined by AND alone; write another rule instead of OR");
            }
            let term = term.join(" ");
            if term.contains(['<', '>', '=']) {
                comparisons
                    .push(comparison(&term).ok_or("a comparison is attempts or messages, > >= < <= =, a number")?);
            } else {
                phrases.push(folded(&term));
            }
        }
        let reason = reason.map(|reason| reason.trim().to_owned()).filter(|reason| !reason.is_empty());
        Ok(Self { phrases, comparisons, reason: reason.unwrap_or_else(|| condition.trim().to_owned()) })
    }

    /// Whether a message, folded, has all phrases of the rule.
    fn is_about(&self, message: &str) -> bool {
        self.phrases.iter().all(|phrase| has_phrase(message, phrase))
    }

    /// The highest number to which something must be counted, one above what it is compared with; `None` if nothing must.
    fn counts_to(&self, count: Count) -> Option<i64> {
        let compared = self.comparisons.iter().filter(|comparison| comparison.count == count);
        compared.map(|comparison| comparison.number.saturating_add(1)).max()
    }

    /// Whether all comparisons of this count hold.
    fn agrees(&self, count: Count, counted: i64) -> bool {
        self.comparisons.iter().filter(|comparison| comparison.count == count).all(|rule| rule.holds(counted))
    }
}

/// Reads `attempts > 2`.
fn comparison(term: &str) -> Option<Comparison> {
    let begins = term.find(['<', '>', '='])?;
    let (name, rest) = term.split_at(begins);
    let count = match name.trim_end() {
        "attempts" => Count::Attempts,
        "messages" => Count::Messages,
        _ => return None,
    };
    let operators = [
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::Greater),
        ("<", Operator::Less),
        ("=", Operator::Equal),
    ];
    let (operator, number) =
        operators.into_iter().find_map(|(sign, operator)| Some((operator, rest.strip_prefix(sign)?)))?;
    let number = number.trim();
    // No sign and no separators: `parse` alone would take +2.
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    Some(Comparison { count, operator, number: number.parse().ok().filter(|_| digits)? })
}

/// A text as it is compared: in lower case, and with one space wherever it has white space.
fn folded(text: &str) -> String {
    let lower = text.to_lowercase();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a phrase is in a text, both folded, and no word of the text goes on where it ends.
fn has_phrase(text: &str, phrase: &str) -> bool {
    let goes_on = |outside: Option<char>, inside: Option<char>| outside.is_some_and(joins) && inside.is_some_and(joins);
    text.match_indices(phrase).any(|(at, found)| {
        !goes_on(text[..at].chars().next_back(), found.chars().next())
            && !goes_on(text[at + found.len()..].chars().next(), found.chars().next_back())
    })
}

/// Whether a character and its neighbour of the same kind are one word. Not so in scripts that write without spaces, or
/// with endings that the phrase does not have: Thai to Khmer, kana, Hangul, Han.
fn joins(c: char) -> bool {
    c.is_alphanumeric()
        && !matches!(c, '\u{0e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'
            | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
}

impl Orchestrator {
    /// Why this message is one for a person, if it is; asked before the agent is. Nothing is read from the store unless a
    /// rule that counts is about this message.
    ///
    /// # Errors
    /// [`Code::Unavailable`](chat_core::Code::Unavailable) if Postgres did not answer.
    pub(crate) async fn escalates(&self, claim: &Claim) -> Result<Option<String>> {
        let Some(written) = &claim.agent.escalation_rules else { return Ok(None) };
        let (rules, faults) = rules(written);
        for (rule, fault) in faults {
            error!(tenant.id = %claim.tenant, agent.id = %claim.agent.id, rule, fault, "an escalation rule is skipped");
        }
        let message = folded(&claim.message);
        for rule in rules {
            if rule.is_about(&message) && self.counts_agree(claim, &rule).await? {
                return Ok(Some(rule.reason));
            }
        }
        Ok(None)
    }

    async fn counts_agree(&self, claim: &Claim, rule: &Rule) -> Result<bool> {
        if let Some(most) = rule.counts_to(Count::Messages) {
            let counted = self.store.messages_counted(claim, most).await?;
            if !rule.agrees(Count::Messages, counted) {
                return Ok(false);
            }
        }
        let Some(most) = rule.counts_to(Count::Attempts) else { return Ok(true) };
        let counted = if rule.phrases.is_empty() {
            self.store.messages_counted(claim, most).await?
        } else {
            self.attempts(claim, rule, most).await?
        };
        Ok(rule.agrees(Count::Attempts, counted))
    }

    /// How many messages are about the rule; at most `most`.
    async fn attempts(&self, claim: &Claim, rule: &Rule, most: i64) -> Result<i64> {
        let (mut counted, mut below) = (0, i64::MAX);
        for _ in 0..READS {
            let said = self.store.messages_said(claim, below, READ_AT_ONCE).await?;
            counted += said.iter().filter(|(_, text)| rule.is_about(&folded(text))).map(|_| 1).sum::<i64>();
            let Some((seq, _)) = said.last().filter(|_| counted < most) else { break };
            below = *seq;
        }
        Ok(counted.min(most))
    }

    /// Hands the conversation to a person, if the turn is still ours, and tells the sockets. Returns the hint for the next
    /// turn.
    ///
    /// # Errors
    /// [`Code::Unavailable`](chat_core::Code::Unavailable) if Postgres did not confirm.
    pub(crate) async fn step_back(&self, claim: &Claim, reason: &str) -> Result<(bool, Option<Job>)> {
        let (ours, next) = self.store.escalate(claim, reason).await?;
        if ours {
            info!("a person is wanted");
            let status = ServerFrame::Status { status: Status::Escalated, by: None };
            let frames = [vec![status], End::Escalated.frames(claim.turn)].concat();
            let key = escalation_status_key(claim.tenant, &claim.conversation.to_string());
            let cached = self.publisher.set(&key, Status::Escalated.as_str(), ESCALATION_EXPIRY);
            if let ((), Err(error)) = tokio::join!(web::publish(&self.publisher, claim, frames), cached) {
                warn!(?error, "escalation not cached; the column has it");
            }
        }
        Ok((ours, next))
    }

    /// Tells the tenant outside that a person is wanted, if that is due and nobody else does.
    pub(crate) async fn tell_outside(&self, tenant: TenantId, conversation: ConversationId) {
        match self.store.claim_notice(tenant, conversation, self.notices.settings()).await {
            Ok(None) => {}
            Ok(Some(notice)) => {
                let outcome = self.notices.send(&notice).await;
                if let Err(error) = self.store.notice_told(&notice, &outcome.to_string()).await {
                    warn!(notice.id = %notice.id, ?error, "a notice was sent, and nobody wrote down how that went");
                }
            }
            Err(error) => warn!(?error, "no look for a notice; the sweep gives another hint"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(condition: &str) -> Rule {
        Rule::parse(condition, None).unwrap_or_else(|fault| panic!("{condition}: {fault}"))
    }

    #[test]
    fn a_phrase_is_found_whole_in_any_case_and_spacing() {
        for (phrase, text, found) in [
            ("talk to a human", "Can I TALK  to\na human?", true),
            ("talk to a human", "talk to a humanoid", false),
            ("billing", "Billing!", true),
            ("billing", "rebilling", false),
            ("billing", "billing2", false),
            ("billing", "«billing»", true),
            ("bill", "the billing, or the bill", true),
            ("Straße", "in der STRASSE", false),
            ("über uns", "ÜBER UNS", true),
            ("c++", "I use C++.", true),
            ("c++", "c++11", true),
            ("人工", "请转人工", true),
            ("상담원", "상담원으로 연결", true),
            ("human", "", false),
        ] {
            assert_eq!(rule(phrase).is_about(&folded(text)), found, "{phrase} in {text}");
        }
    }

    #[test]
    fn all_terms_of_a_condition_must_hold() {
        let both = rule("refund AND not working");
        assert!(both.is_about(&folded("Not working: I want a refund")));
        assert!(!both.is_about(&folded("I want a refund")));
        // AND is the word, in capitals; anything else is part of a phrase.
        assert!(rule("salt and pepper").is_about("salt and pepper"));
        assert_eq!(rule("BRAND").phrases, ["brand"]);

        for (condition, count, holds) in [
            ("attempts > 2", 2, false),
            ("attempts > 2", 3, true),
            ("attempts>=2", 2, true),
            ("attempts < 2", 1, true),
            ("attempts < 2", 2, false),
            ("attempts <= 2", 3, false),
            ("attempts = 2", 2, true),
            ("attempts =2", 3, false),
        ] {
            let rule = rule(condition);
            assert_eq!(rule.agrees(Count::Attempts, count), holds, "{condition}: {count}");
            assert!(rule.agrees(Count::Messages, count), "{condition} says nothing of messages");
            assert_eq!((rule.counts_to(Count::Attempts), rule.counts_to(Count::Messages)), (Some(3), None));
        }
        let mixed = rule("billing AND messages >= 10 AND attempts > 1 AND messages < 20");
        assert_eq!((mixed.counts_to(Count::Messages), mixed.counts_to(Count::Attempts)), (Some(21), Some(2)));
        assert_eq!(mixed.phrases, ["billing"]);
    }

    #[test]
    fn a_malformed_rule_is_skipped_and_the_others_hold() {
        for bad in [
            "",
            "  ",
            "AND",
            "billing AND",
            "AND billing",
            "billing AND AND refund",
            "attempts >",
            "attempts > two",
            "attempts > -1",
            "attempts > +1",
            "attempts > 1.5",
            "attempts >> 1",
            "attempts == 1",
            "attempts => 1",
            "1 < attempts",
            "price > 5",
            "Attempts > 1",
            "attempts > 99999999999999999999",
            "billing OR refund",
            "NOT billing",
        ] {
            assert!(Rule::parse(bad, None).is_err(), "{bad}");
        }
        assert!(Rule::parse(&"a".repeat(MAX_CONDITION_CHARS + 1), None).is_err());

        let json = r#"[{"condition": "one"}, {"condition": ""}, "two", {"condition": "three", "reason": "because"},
            {"reason": "no condition"}, {"condition": "four", "else": 1}, {"condition": " five ", "reason": " "}]"#;
        let (good, faults) = rules(json);
        assert_eq!(good.iter().map(|rule| rule.reason.as_str()).collect::<Vec<_>>(), ["one", "because", "five"]);
        assert_eq!(faults.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 3, 5, 6]);
        for json in ["{}", "null", "", "1"] {
            assert_eq!(rules(json).1.len(), 1, "{json}");
        }
    }
}
