//! The state file: what a restarted simulator still shows.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::world::World;

/// Ids skipped after a run that ended without its last save: more than a second can give out.
const SKIPPED_AFTER_KILL: i64 = 1_000_000;
/// Ids skipped after a run that saved at its end: connections may have lived on for a moment.
const SKIPPED_AFTER_EXIT: i64 = 1_000;

#[derive(Serialize)]
struct Saved<'a> {
    complete: bool,
    world: &'a World,
}

#[derive(Deserialize)]
struct Loaded {
    /// Whether this was the last save of its run.
    complete: bool,
    world: World,
}

/// The world in `state`; `None` if there is no such file.
pub(crate) fn load(state: &Path) -> anyhow::Result<Option<World>> {
    let bytes = match fs::read(state) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", state.display())),
    };
    let Loaded { complete, mut world } = serde_json::from_slice(&bytes).with_context(|| {
        format!("{} is not a state of this simulator; move it away to start afresh", state.display())
    })?;
    let skipped = if complete { SKIPPED_AFTER_EXIT } else { SKIPPED_AFTER_KILL };
    world.last_message_id += skipped;
    world.updates.last_id += skipped;
    world.updates.restore_queues();
    world.changed = true;
    Ok(Some(world))
}

pub(crate) fn snapshot(world: &World, complete: bool) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Saved { complete, world })?)
}

/// Replaces `state` in one step, readable by its owner only: it holds the webhook's secret.
pub(crate) fn write(state: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = state.as_os_str().to_owned();
    beside.push(".new");
    let mut file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&beside, state)
}
