//! What a chat is left with at the end of a turn. Pure.

use super::answer::Answer;
use super::ending::Ending;
use super::outcome::{Outcome, Status};
use super::refusal::Refusal;
use super::status::put_below;
use super::store::{Claimed, Kind};
use crate::telegram::callback::Press;
use crate::telegram::markdown::{self, Formatted};
use crate::telegram::outbox::Call;
use crate::telegram::{files, texts};

impl Ending {
    /// The whole answer.
    pub fn complete(turn: &Claimed, answer: &Answer) -> Self {
        let failed = answer.error.is_some();
        let status = if failed { Status::Failed } else { Status::Completed };
        // Nobody asked an agent to introduce itself, so nobody hears that it failed to.
        let asked_for = turn.kind == Kind::Message;
        let told = answer.error.as_deref().filter(|_| asked_for);
        let mut parts = words(turn, answer, texts::final_text(&answer.markdown(), told));
        if parts.is_empty() && answer.files.is_empty() && asked_for {
            // Markdown of which nothing is to be seen.
            parts = markdown::messages(texts::NOTHING_TO_SAY);
        }
        let try_again = vec![vec![Press::RetryTurn(turn.id).button(texts::TRY_AGAIN)]];
        Self {
            outcome: outcome(answer, status, failed.then(|| why(answer).to_owned())),
            parts,
            buttons: if failed && asked_for { try_again } else { vec![] },
            files: handed_over(turn, answer),
            only_if_begun: false,
        }
    }

    /// What there is of an answer, and why there is no more.
    pub fn failed(turn: &Claimed, answer: &Answer, refusal: Refusal) -> Self {
        let asked_for = turn.kind == Kind::Message;
        let text = texts::final_text(&answer.markdown(), asked_for.then_some(&*refusal.words));
        Self {
            parts: words(turn, answer, text),
            buttons: if asked_for { refusal.ways_out(turn) } else { vec![] },
            files: handed_over(turn, answer),
            outcome: outcome(answer, refusal.status, Some(refusal.error)),
            only_if_begun: false,
        }
    }

    /// What there was of an answer when the user stopped it.
    pub fn stopped(turn: &Claimed, answer: &Answer) -> Self {
        Self {
            outcome: outcome(answer, Status::Cancelled, None),
            parts: words(turn, answer, texts::stopped(&answer.markdown())),
            files: handed_over(turn, answer),
            // `/stop` has an answer of its own.
            only_if_begun: answer.is_empty(),
            ..Self::default()
        }
    }

    /// The user stopped it before the agent was asked, or a replica that died had asked it.
    pub fn not_begun(turn: &Claimed) -> Self {
        let refund = turn.attempt == 1;
        Self {
            outcome: Outcome { refund, ..Outcome::of(Status::Cancelled) },
            ..Self::stopped(turn, &Answer::default())
        }
    }

    /// Nothing could be sent to the chat already before the agent was asked.
    pub fn nobody_there(turn: &Claimed) -> Self {
        let mut ending = Self::unreachable(&Answer::default());
        ending.outcome.refund = turn.attempt == 1;
        ending
    }

    /// Nothing can be sent to the chat any more.
    pub fn unreachable(answer: &Answer) -> Self {
        let error = Some("nothing can be sent to the chat".to_owned());
        Self { outcome: Outcome { refund: false, ..outcome(answer, Status::Failed, error) }, ..Self::default() }
    }
}

/// Why an answer ended with an error, in our words: what agents say of that holds what was said to them, which is in no table.
fn why(answer: &Answer) -> &'static str {
    if answer.cut_off { "the answer was too long and was cut off" } else { "the agent said that it failed" }
}

fn outcome(answer: &Answer, status: Status, error: Option<String>) -> Outcome {
    let nothing = answer.is_empty() && answer.tools.is_empty() && answer.files.is_empty();
    Outcome {
        status,
        error,
        prompt_tokens: answer.prompt_tokens,
        completion_tokens: answer.completion_tokens,
        cost: answer.cost,
        // What cost tokens or brought something counts, however it ended.
        refund: status == Status::Failed && nothing && answer.completion_tokens.is_none(),
        pending: answer.pending,
    }
}

/// The final text as messages, with what its user wants to know of tools.
fn words(turn: &Claimed, answer: &Answer, mut text: String) -> Vec<Formatted> {
    if answer.files_left_out > 0 {
        text = texts::with_files_left_out(text, answer.files_left_out);
    }
    let mut parts = markdown::messages(&text);
    let summary = answer.tools.summary().filter(|_| turn.verbose && turn.kind == Kind::Message);
    if let Some(line) = summary
        && !parts.last_mut().is_some_and(|last| put_below(last, &line))
    {
        let mut own = Formatted::default();
        put_below(&mut own, &line);
        parts.push(own);
    }
    parts
}

fn handed_over(turn: &Claimed, answer: &Answer) -> Vec<Call> {
    let calls = answer
        .files
        .iter()
        .flat_map(|file| files::send_agents(turn.place, turn.agent_id, &file.path, &markdown::render(&file.caption)));
    calls.collect()
}
