//! Runs the calls of one round: those that only read side by side, the others one after another, in the model's order.

use super::Scheduler;
use super::output::Printed;
use crate::model::ToolCall;
use crate::store::ToolResult;
use crate::tools::{Call, Offer, Output, ToolError, Who, head_and_tail};
use baal_protocol::EventKind;
use futures_util::FutureExt;
use futures_util::future::join_all;
use serde_json::Value;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use uuid::Uuid;

/// Longest result, in characters, whatever a tool's own bound is.
const MAX_RESULT: usize = 60_000;
/// A tool that was stopped ends by itself within this time, or is left to what drops with it.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// Pieces of output that wait to be passed on.
const OUTPUT_WAITING: usize = 16;

/// The turn in which calls run.
pub(super) struct Round<'a> {
    pub scheduler: &'a Scheduler,
    pub who: &'a Who,
    pub offer: &'a Offer,
    pub position: i64,
    pub turn_id: Uuid,
    /// Somebody reads the tools' output.
    pub stream: bool,
    pub stop: &'a CancellationToken,
}

/// What a group of calls brought.
#[derive(Default)]
pub(super) struct Brought {
    /// In the order of the calls.
    pub results: Vec<ToolResult>,
    pub events: Vec<EventKind>,
    /// Output was passed on.
    pub had_output: bool,
    /// Going on makes no sense, in words for the user.
    pub fatal: Option<String>,
}

/// How many of the next calls run side by side: at least one.
pub(super) fn group(calls: &[ToolCall], offer: &Offer) -> usize {
    // What is not there does nothing at all.
    let reads_only = |call: &&ToolCall| offer.find(&call.name).is_none_or(|tool| tool.reads_only);
    calls.iter().take_while(reads_only).count().max(1)
}

/// Results of calls that may have run before the agent was restarted, and of those behind them.
pub(super) fn interrupted(calls: &[ToolCall], offer: &Offer) -> Vec<ToolResult> {
    let begun = if calls.is_empty() { 0 } else { group(calls, offer) };
    calls
        .iter()
        .enumerate()
        .map(|(at, call)| {
            let text = if at < begun {
                "interrupted: the agent was restarted while this ran. It was not repeated; look whether it took effect \
                 before you do it again."
            } else {
                "not run: the agent was restarted before it came to this."
            };
            ToolResult { call_id: call.id.clone(), text: text.to_owned() }
        })
        .collect()
}

/// The same result for all of these calls.
pub(super) fn all(calls: &[ToolCall], text: &str) -> Vec<ToolResult> {
    calls.iter().map(|call| ToolResult { call_id: call.id.clone(), text: text.to_owned() }).collect()
}

impl Round<'_> {
    /// Runs calls side by side and waits until nothing of them runs.
    pub(super) async fn run(&self, calls: &[ToolCall]) -> Brought {
        let mut brought = Brought::default();
        for (call, (result, had_output)) in calls.iter().zip(join_all(calls.iter().map(|call| self.call(call))).await) {
            let stopped = self.stop.is_cancelled();
            let text = match result {
                Ok(Output { text, events }) => {
                    brought.events.extend(events);
                    if stopped {
                        format!("cancelled by the user, perhaps before it was done. What there is of it:\n\n{text}")
                    } else {
                        text
                    }
                }
                Err(_) if stopped => "cancelled by the user".to_owned(),
                Err(ToolError::Told(why)) => format!("Error: {why}"),
                Err(ToolError::Fatal(why)) => {
                    let text = format!("Error: {why}");
                    brought.fatal.get_or_insert(why);
                    text
                }
            };
            // Services refuse an empty result, or take it for none.
            let text = if text.is_empty() { "(nothing)".to_owned() } else { head_and_tail(&text, MAX_RESULT) };
            brought.results.push(ToolResult { call_id: call.id.clone(), text });
            brought.had_output |= had_output;
        }
        brought
    }

    /// What a call brought, and whether output was passed on meanwhile.
    async fn call(&self, call: &ToolCall) -> (Result<Output, ToolError>, bool) {
        let Some(tool) = self.offer.find(&call.name) else {
            let names = self.offer.names();
            let told = if names.is_empty() {
                format!("There is no tool {:?}, nor any other here.", call.name)
            } else {
                format!("There is no tool {:?} here. There are: {names}.", call.name)
            };
            return (Err(ToolError::Told(told)), false);
        };
        let arguments = match arguments(&call.arguments) {
            Ok(arguments) => arguments,
            Err(e) => return (Err(e), false),
        };
        let (sender, receiver) = mpsc::channel(OUTPUT_WAITING);
        let shared = &self.scheduler.shared;
        let given = Call {
            services: shared.tools.services(),
            turns: self.scheduler.clone(),
            who: self.who.clone(),
            position: self.position,
            turn_id: self.turn_id,
            stop: self.stop.clone(),
            output: sender,
        };
        let ended = CancellationToken::new();
        let printed = Printed { store: &shared.store, position: self.position, name: tool.name, wanted: self.stream };
        let run = async {
            let run = AssertUnwindSafe(async { (tool.run)(given, arguments).await }).catch_unwind();
            let late = async {
                self.stop.cancelled().await;
                tokio::time::sleep(STOP_WITHIN).await;
            };
            let result = tokio::select! {
                result = run => result.unwrap_or_else(|_| {
                    error!(turn.id = %self.turn_id, tool = tool.name, "a tool failed badly");
                    Err(ToolError::told("The tool failed because of a mistake in the agent itself."))
                }),
                () = late => {
                    error!(turn.id = %self.turn_id, tool = tool.name, "a tool did not stop in time");
                    Err(ToolError::told("It did not stop in time."))
                }
            };
            ended.cancel();
            result
        };
        let (result, had_output) = tokio::join!(run, printed.pass_on(receiver, &ended));
        if !tool.reads_only {
            shared.tools.services().workspaces.changed(&self.who.root());
        }
        info!(turn.id = %self.turn_id, tool = tool.name, ok = result.is_ok(), "tool called");
        (result, had_output)
    }
}

/// The arguments as an object.
fn arguments(written: &str) -> Result<Value, ToolError> {
    if written.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    match serde_json::from_str(written) {
        Ok(Value::Object(arguments)) => Ok(Value::Object(arguments)),
        Ok(_) => Err(ToolError::told("The arguments must be a JSON object. The tool was not run.")),
        Err(e) => Err(ToolError::told(format!(
            "The arguments are no JSON object, perhaps because they were cut off: {e}. The tool was not run."
        ))),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::context::Contexts;
    use crate::files::Files;
    use crate::model::Client;
    use crate::store::Store;
    use crate::tools::{Access, Rules, Services, Tool, Toolbox, TurnKind};
    use baal_protocol::{AgentConfig, Role};
    use secrecy::SecretString;
    use serde_json::json;
    use std::sync::Arc;
    use tempfile::TempDir;

    const PLAIN: Tool = Tool {
        name: "plain",
        description: "",
        parameters: || json!({"type": "object"}),
        reads_only: true,
        access: Access::Everyone,
        available: |_| true,
        run: |_, _| Box::pin(async { Ok(Output::text("fine")) }),
    };
    const PANICS: Tool = Tool { name: "panics", run: |_, _| panic!("as it must"), ..PLAIN };
    const FATAL: Tool =
        Tool { name: "fatal", run: |_, _| Box::pin(async { Err(ToolError::Fatal("no disk".into())) }), ..PLAIN };
    const ENDLESS: Tool =
        Tool { name: "endless", run: |_, _| Box::pin(async { Ok(Output::text("ä".repeat(100_000))) }), ..PLAIN };
    const SILENT: Tool = Tool { name: "silent", run: |_, _| Box::pin(async { Ok(Output::default()) }), ..PLAIN };
    const WRITES: Tool = Tool { name: "writes", reads_only: false, ..PLAIN };

    fn calls(names: &[&str]) -> Vec<ToolCall> {
        let call = |(at, name): (usize, &&str)| ToolCall {
            id: at.to_string(),
            name: (*name).to_owned(),
            arguments: "{}".to_owned(),
        };
        names.iter().enumerate().map(call).collect()
    }

    /// One that nothing was given to; no service answers it.
    pub async fn idle_scheduler(directory: &TempDir) -> Scheduler {
        // An error only says that another test was first.
        drop(rustls::crypto::ring::default_provider().install_default());
        let database = directory.path().join("agent.db");
        let (store, _writer) = Store::open(&database).await.expect("a database");
        let files = Files::beside(&database).expect("directories");
        let config = AgentConfig { workspace_path: directory.path().into(), ..AgentConfig::default() };
        let services = Arc::new(Services::new(&config, store.clone(), files));
        let model = Client::new("http://127.0.0.1:1/v1", "m", SecretString::from("k"), Duration::from_secs(1));
        let model = model.expect("a client");
        let contexts = Contexts::new(&config, store.clone(), model.clone(), services.workspaces.clone());
        let contexts = contexts.await.expect("contexts");
        let rules = Rules::new(&config);
        let tools = Toolbox::new(services);
        Scheduler::new(store, model, contexts, 10, tools, rules, CancellationToken::new())
    }

    async fn brought(names: &[&str]) -> Brought {
        let directory = TempDir::new().expect("temp dir");
        let scheduler = idle_scheduler(&directory).await;
        let stop = CancellationToken::new();
        let who = Who {
            chat_id: "1".into(),
            role: Role::Owner,
            only_talks: false,
            kind: TurnKind::Chat,
            deliver_to: None,
            visitor_tools: [].into(),
        };
        let offer = Offer::of(vec![&PLAIN, &PANICS, &FATAL, &ENDLESS, &SILENT, &WRITES]);
        let round = Round {
            scheduler: &scheduler,
            who: &who,
            offer: &offer,
            position: 1,
            turn_id: Uuid::nil(),
            stream: false,
            stop: &stop,
        };
        round.run(&calls(names)).await
    }

    #[tokio::test]
    async fn a_tool_that_fails_badly_harms_no_other() {
        let brought = brought(&["plain", "panics", "silent", "endless"]).await;
        let texts: Vec<&str> = brought.results.iter().map(|result| result.text.as_str()).collect();
        assert_eq!(texts[0], "fine");
        assert!(texts[1].starts_with("Error: ") && brought.fatal.is_none(), "{}", texts[1]);
        assert_eq!(texts[2], "(nothing)");
        assert!(texts[3].chars().count() < MAX_RESULT + 100);
        let ids: Vec<&str> = brought.results.iter().map(|result| result.call_id.as_str()).collect();
        assert_eq!(ids, ["0", "1", "2", "3"]);
    }

    #[tokio::test]
    async fn a_fatal_error_is_for_the_user() {
        let brought = brought(&["fatal", "plain"]).await;
        assert_eq!((brought.fatal.as_deref(), brought.results.len()), (Some("no disk"), 2));
    }

    #[test]
    fn only_what_reads_runs_side_by_side() {
        let offer = Offer::of(vec![&PLAIN, &WRITES]);
        let sizes = |names: &[&str]| {
            let calls = calls(names);
            let (mut rest, mut sizes) = (&calls[..], Vec::new());
            while !rest.is_empty() {
                sizes.push(group(rest, &offer));
                rest = &rest[group(rest, &offer)..];
            }
            sizes
        };
        assert_eq!(sizes(&["plain", "unknown", "writes", "writes", "plain"]), [2, 1, 1, 1]);
        assert_eq!(sizes(&["writes"]), [1]);
    }
}
