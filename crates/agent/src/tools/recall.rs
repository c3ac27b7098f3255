//! `recall`: looks for something in memory and in what was said.

use super::{Access, Call, Output, Tool, ToolError, arguments};
use crate::store::{Found, Store};
use crate::workspace::notes::{MEMORY, day_of, matching, words};
use crate::workspace::{Workspaces, one_line};
use baal_launcher::Root;
use baal_launcher::client::{CallError, Session};
use chrono::DateTime;
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;

/// Days whose notes are searched, the newest first.
const MAX_DAYS: usize = 60;
/// Bytes of one file that are searched.
const MAX_FILE: u64 = 256 * 1024;
/// Lines of files, and messages, that are told.
const MAX_LINES: usize = 20;
const MAX_MESSAGES: u32 = 12;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "recall",
    description: "Looks for words in your memory, in the daily notes and in all that was said in this chat, also long ago, and \
        gives the places that fit best. Two or three telling words find more than a sentence.",
    parameters: || {
        json!({"type": "object", "required": ["query"], "properties": {
            "query": {"type": "string", "description": "The words to look for"}}})
    },
    reads_only: true,
    access: Access::Memory,
    available: |_| true,
    run,
};

#[derive(Deserialize)]
struct Arguments {
    query: String,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { query } = arguments(given)?;
        let services = &call.services;
        let root = call.who.root();
        let found = look(&services.store, &services.workspaces, &root, call.who.home_chat(), &query);
        let stopped = || ToolError::told("The turn was stopped.");
        call.stop.run_until_cancelled(found).await.ok_or_else(stopped)?.map(Output::text)
    })
}

async fn look(
    store: &Store,
    workspaces: &Workspaces,
    root: &Root,
    chat_id: &str,
    query: &str,
) -> Result<String, ToolError> {
    let words = words(query);
    if words.is_empty() {
        return Err(ToolError::told("There is no word to look for."));
    }
    let (files, said) = tokio::join!(in_files(workspaces, root, &words), in_history(store, chat_id, query));
    let mut text = String::new();
    match files {
        Ok(lines) if lines.is_empty() => text += "In memory and notes: nothing.",
        Ok(lines) => {
            text += "In memory and notes:";
            lines.iter().take(MAX_LINES).for_each(|line| text += &format!("\n- {line}"));
        }
        Err(e) => {
            warn!(error = %e, "memory cannot be searched");
            text += "Memory and notes cannot be read just now.";
        }
    }
    text += "\n\n";
    match said {
        Ok(found) if found.is_empty() => text += "In this chat: nothing.",
        Ok(found) => {
            text += "In this chat:";
            found.iter().for_each(|found| text += &format!("\n- {}", told(found)));
        }
        Err(e) => {
            warn!(error = %e, "the history cannot be searched");
            text += "The history of this chat cannot be searched just now.";
        }
    }
    Ok(text)
}

async fn in_history(store: &Store, chat_id: &str, query: &str) -> Result<Vec<Found>, crate::store::StoreError> {
    store.catch_up_index().await?;
    store.read().search(chat_id, query, MAX_MESSAGES).await
}

fn told(found: &Found) -> String {
    let day = DateTime::from_timestamp(found.created_at, 0).map(|at| at.format("%Y-%m-%d").to_string());
    let who = match found.role.as_str() {
        "user" => "they said",
        "tool" => "a tool brought",
        _ => "you said",
    };
    format!("{}, {who}: {}", day.unwrap_or_default(), one_line(&found.snippet, 600))
}

async fn in_files(workspaces: &Workspaces, root: &Root, words: &[String]) -> Result<Vec<String>, CallError> {
    let mut session = workspaces.open(root).await?;
    let mut days: Vec<_> = match session.list("memory").await {
        Ok(entries) => entries.into_iter().filter_map(|entry| day_of(&entry.name)).collect(),
        // silent-ok: most often there is none yet
        Err(CallError::Failed(_)) => Vec::new(),
        Err(e) => return Err(e),
    };
    days.sort_unstable();
    let notes = days.iter().rev().take(MAX_DAYS).map(|day| crate::workspace::notes::daily(*day));
    let mut lines = Vec::new();
    for path in [MEMORY.to_owned()].into_iter().chain(notes) {
        lines.extend(lines_of(&mut session, &path, words).await?);
        if lines.len() >= MAX_LINES {
            break;
        }
    }
    Ok(lines)
}

async fn lines_of(session: &mut Session, path: &str, words: &[String]) -> Result<Vec<String>, CallError> {
    match session.read(path, MAX_FILE).await {
        Ok(file) => {
            let lines = matching(&String::from_utf8_lossy(&file.bytes), words);
            Ok(lines.into_iter().map(|line| format!("{path}: {}", line.trim_start_matches("- "))).collect())
        }
        // silent-ok: a file that cannot be read holds nothing to be found
        Err(CallError::Failed(_)) => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
