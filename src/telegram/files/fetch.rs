//! Fetching a file that an agent offers.

use std::io::{Seek, Write};
use std::time::Duration;

use baal_protocol::MAX_FILE_BYTES;
use sqlx::Row;
use tokio::time::{Instant, timeout_at};

use super::{Content, File, FileError, display_name};
use crate::app::App;
use crate::turns::agent_client::{AgentClient, AgentError};

/// How long a file may take to come, and a second more for each [`PER_SECOND`] bytes that have: an agent that dawdles takes
/// the place of others' files.
const AT_LEAST: Duration = Duration::from_secs(20);
const PER_SECOND: u64 = 512 * 1024;

pub(super) async fn from_agent(app: &App, agent_id: i64, path: &str) -> Result<File, FileError> {
    let client = client(app, agent_id).await?;
    let mut response = client.file(path).await.map_err(of_agent)?;
    let announced = response.content_length();
    if announced.is_some_and(|size| size > MAX_FILE_BYTES) {
        return Err(FileError::TooLarge);
    }
    let (mut file, mut size) = (tempfile::tempfile().map_err(trouble)?, 0);
    let begun = Instant::now();
    loop {
        let until = begun + AT_LEAST + Duration::from_secs(size / PER_SECOND);
        let piece = timeout_at(until, response.chunk()).await.map_err(|_| FileError::Slow)?;
        let Some(piece) = piece.map_err(|error| FileError::Trouble(error.without_url().to_string()))? else { break };
        size += piece.len() as u64;
        if size > MAX_FILE_BYTES {
            return Err(FileError::TooLarge);
        }
        // Into the page cache: quick enough to be done in between.
        file.write_all(&piece).map_err(trouble)?;
    }
    if announced.is_some_and(|announced| announced != size) {
        return Err(FileError::Trouble("the file ended before its end".into()));
    }
    file.rewind().map_err(trouble)?;
    if size == 0 {
        // Telegram takes no empty files.
        return Err(FileError::Refused("it is empty".into()));
    }
    Ok(File { name: display_name(path), size, content: Content::Disk(file) })
}

async fn client(app: &App, agent_id: i64) -> Result<AgentClient, FileError> {
    let row = sqlx::query("select status, url, external, secret from agents where id = $1")
        .bind(agent_id)
        .fetch_optional(&app.db)
        .await
        .map_err(|error| FileError::Trouble(error.to_string()))?
        .ok_or(FileError::AgentGone)?;
    let (status, url): (String, Option<String>) = (row.get("status"), row.get("url"));
    match (status.as_str(), url) {
        ("deleting" | "deleted", _) => Err(FileError::AgentGone),
        (_, None) => Err(FileError::Trouble(format!("the agent is {status}"))),
        (_, Some(url)) => {
            let secret = app.config.vault.decrypt_text(row.get("secret"));
            let secret = secret.map_err(|error| FileError::Trouble(error.to_string()))?;
            Ok(AgentClient::new(app.agents_http.of(row.get("external")), &url, secret))
        }
    }
}

fn trouble(error: std::io::Error) -> FileError {
    FileError::Trouble(format!("the file could not be put aside: {error}"))
}

fn of_agent(error: AgentError) -> FileError {
    match error {
        AgentError::Refused(413) => FileError::TooLarge,
        AgentError::Refused(400 | 403 | 404 | 410) | AgentError::UnknownTurn => FileError::Gone,
        AgentError::NotRunning(_) => FileError::AgentGone,
        AgentError::Refused(_)
        | AgentError::Barred(_)
        | AgentError::Unreachable(_)
        | AgentError::Broken(_)
        | AgentError::Unwell(_)
        | AgentError::File { .. } => FileError::Trouble(error.to_string()),
    }
}
