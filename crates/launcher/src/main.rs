//! `baal-tools`: the launcher without the agent, in which it is a subcommand; the tests start this one.

use baal_launcher::{Settings, run_confined, serve};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let subcommand = arguments.next().unwrap_or_default();
    let failed = if subcommand == "tools-confine" {
        run_confined().err().map(|e| e.to_string())
    } else if subcommand == "tools"
        && let (Some(option), Some(workspace)) = (arguments.next(), arguments.next())
        && option == "--workspace"
    {
        serve(&Settings { workspace: workspace.into(), private_tmp: false }).err().map(|e| e.to_string())
    } else {
        Some("use: baal-tools tools --workspace DIR, with a connection as standard input".into())
    };
    match failed {
        None => ExitCode::SUCCESS,
        Some(e) => {
            eprintln!("baal-tools: {e}");
            ExitCode::FAILURE
        }
    }
}
