//! What the control plane fetches from an agent: files, and what it says unasked. All of it is bounded.

use std::time::Duration;

use baal_protocol::{AcknowledgePending, PendingMessages};
use reqwest::{Method, RequestBuilder, Response, Url};
use uuid::Uuid;

use super::{AgentClient, AgentError, FIRST_BYTE, describe};

/// The longest answer of `GET /pending`, in bytes: an agent sends about 1 MiB at once.
const MAX_PENDING: usize = 4 * 1024 * 1024;

impl AgentClient {
    /// `GET /files/{path}`: the answer's head is there, its body is yet to be read. The path is the agent's: one that would
    /// lead out of `/files/` is refused as if the agent had done so.
    pub async fn file(&self, path: &str) -> Result<Response, AgentError> {
        let base = Url::parse(&format!("{}/files", self.base));
        let base = base.map_err(|error| AgentError::Unreachable(error.to_string()))?;
        let url = below(base, path).ok_or(AgentError::Refused(403))?;
        self.answer(self.http.get(url.as_str())?, FIRST_BYTE).await
    }

    /// `GET /pending`: with `after` what has a greater id, held open for `wait` until there is something; without it, as the
    /// base protocol knows it, everything, which the agent forgets.
    pub async fn pending(&self, after: Option<i64>, wait: Duration) -> Result<PendingMessages, AgentError> {
        let mut request = self.request(Method::GET, "/pending")?;
        if let Some(after) = after {
            request = request.query(&[("after", after), ("wait", wait.as_secs() as i64)]);
        }
        let read = async {
            let mut response = self.answer(request, wait + FIRST_BYTE).await?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(|error| AgentError::Broken(describe(error)))? {
                if body.len() + chunk.len() > MAX_PENDING {
                    return Err(AgentError::Broken("its answer is too long".into()));
                }
                body.extend_from_slice(&chunk);
            }
            // Where, not what: this goes to the logs, and the words are for a chat.
            serde_json::from_slice(&body)
                .map_err(|error| AgentError::Broken(format!("its answer does not fit at byte {}", error.column())))
        };
        let late = Err(AgentError::Broken("no answer in time".into()));
        tokio::time::timeout(wait + 2 * FIRST_BYTE, read).await.unwrap_or(late)
    }

    /// `POST /pending/ack`: the agent may forget what it said up to this id of this database. One that has another database by
    /// now has nothing to forget.
    pub async fn acknowledge(&self, up_to: i64, database_id: Option<Uuid>) -> Result<(), AgentError> {
        let body = AcknowledgePending { up_to, database_id };
        match self.answer(self.request(Method::POST, "/pending/ack")?.json(&body), FIRST_BYTE).await {
            Ok(_) | Err(AgentError::Refused(409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The head of a successful answer.
    async fn answer(&self, request: RequestBuilder, patience: Duration) -> Result<Response, AgentError> {
        let response = self.send(request, patience).await?;
        match response.status() {
            status if status.is_success() => Ok(response),
            status if status.is_server_error() || status.as_u16() == 429 => Err(AgentError::Unwell(status.as_u16())),
            status => Err(AgentError::Refused(status.as_u16())),
        }
    }
}

/// The URL of a path below `base`; `None`: it would lead elsewhere.
fn below(mut base: Url, path: &str) -> Option<Url> {
    // A URL drops tabs and line breaks before it is read, so that `.<tab>.` is `..`.
    let leads_out = |segment: &str| matches!(segment, "" | "." | "..") || segment.chars().any(char::is_control);
    let segments: Vec<&str> = path.split('/').collect();
    if segments.iter().any(|segment| leads_out(segment)) {
        return None;
    }
    let within = format!("{}/", base.path());
    base.path_segments_mut().ok()?.extend(&segments);
    base.path().starts_with(&within).then_some(base)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_files() {
        let base = || Url::parse("http://agent:1/files").expect("a URL");
        let url = below(base(), "out/1/größer ?#%2e.pdf").expect("a path");
        assert_eq!(url.as_str(), "http://agent:1/files/out/1/gr%C3%B6%C3%9Fer%20%3F%23%252e.pdf");
        let outside = [
            "",
            ".",
            "..",
            "../pending",
            "a/../../pending",
            ".\t./pending",
            "a/.\n./.\r./pending",
            "a//b",
            "/a",
            "a\0b",
        ];
        for path in outside {
            assert_eq!(below(base(), path), None, "{path:?}");
        }
        // What a client may take for a dot or a slash stays below all the same.
        for path in ["%2e%2e/pending", "..\\pending", "a/%2e./b", "%2E%2e"] {
            assert!(below(base(), path).is_none_or(|url| url.path().starts_with("/files/")), "{path}");
        }
    }
}
