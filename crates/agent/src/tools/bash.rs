//! `bash`: a shell command in the workspace, behind the walls.

use super::excerpt::Collected;
use super::workspace::{open, told};
use super::{Access, Call, Output, Tool, ToolError, arguments};
use axum::body::Bytes;
use baal_launcher::wire::{Ending, Exit};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;

/// Seconds where the model doesn't say how many.
const DEFAULT_SECONDS: f64 = 60.0;
const MAX_SECONDS: f64 = 300.0;
/// Characters of output for the model.
const MAX_TEXT: usize = 30_000;

/// The tool.
pub const TOOL: Tool = Tool {
    name: "bash",
    description: "Runs a shell command in the workspace and gives what it prints and its exit code. Every call is a new \
        shell; nothing of it runs on after the call. Output beyond 30,000 characters is cut in the middle.",
    parameters: || {
        json!({"type": "object", "required": ["command"], "properties": {
            "command": {"type": "string", "description": "For bash -c"},
            "timeout": {"type": "number", "description": "Seconds after which it is ended; 60 unless given, at most 300"}}})
    },
    reads_only: false,
    access: Access::Owner,
    available: |services| services.walls.has_bash(),
    run,
};

#[derive(Deserialize)]
struct Arguments {
    command: String,
    #[serde(default)]
    timeout: Option<f64>,
}

fn run(call: Call, given: Value) -> BoxFuture<'static, Result<Output, ToolError>> {
    Box::pin(async move {
        let Arguments { command, timeout } = arguments(given)?;
        let timeout = Duration::from_secs_f64(timeout.unwrap_or(DEFAULT_SECONDS).clamp(1.0, MAX_SECONDS));
        let mut session = open(&call).await?;
        let (sender, receiver) = mpsc::channel(16);
        let (exit, collected) =
            tokio::join!(session.bash(&command, timeout, sender, &call.stop), collect(receiver, &call));
        let exit = exit.map_err(told)?;
        Ok(Output::text(result(&collected.text(MAX_TEXT), &exit, timeout)))
    })
}

/// Keeps what the model will read, and passes it on to whoever watches.
async fn collect(mut output: mpsc::Receiver<Bytes>, call: &Call) -> Collected {
    let mut collected = Collected::default();
    while let Some(piece) = output.recv().await {
        collected.add(&piece);
        // silent-ok: nobody has to watch
        drop(call.output.send(piece).await);
    }
    collected
}

fn result(output: &str, exit: &Exit, timeout: Duration) -> String {
    let ending = match exit.ending {
        Ending::Code(code) => format!("exit code {code}"),
        Ending::Signal(signal) => format!("killed by signal {signal}"),
        Ending::TimedOut => format!(
            "not done after {} s and ended; give a longer timeout, at most {MAX_SECONDS} s, or do less at once",
            timeout.as_secs()
        ),
        Ending::Cancelled => "cancelled and ended".to_owned(),
        Ending::DiskFull => "ended because the disk is almost full".to_owned(),
        Ending::QuotaFull => "ended because the workspace is larger than it may be".to_owned(),
        Ending::OutOfMemory => "ended because it took too much memory".to_owned(),
    };
    let output = output.trim_end_matches('\n');
    let dropped = match exit.dropped_bytes {
        0 => String::new(),
        bytes => format!("\n[{bytes} more bytes of output were not kept]"),
    };
    if output.is_empty() { format!("[no output; {ending}]") } else { format!("{output}{dropped}\n[{ending}]") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(output: &str, ending: Ending) -> String {
        let exit = Exit { ending, output_bytes: 0, dropped_bytes: 0, elapsed_ms: 1 };
        result(output, &exit, Duration::from_secs(60))
    }

    #[test]
    fn the_model_reads_output_and_end() {
        assert_eq!(ended("hi\n", Ending::Code(0)), "hi\n[exit code 0]");
        assert_eq!(ended("", Ending::Code(1)), "[no output; exit code 1]");
        assert_eq!(ended("a\n", Ending::Signal(9)), "a\n[killed by signal 9]");
        assert!(ended("", Ending::TimedOut).contains("60 s"));
    }
}
