//! What an agent is started with.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The agent's configuration, one JSON file (`baal-agent --config FILE`), mode 0600 because it holds keys.
///
/// The names are those that the Python agent read from its environment, in lower case. A field that must be there is empty by
/// default, which the agent refuses.
#[derive(Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Display name, told to the model and by `/health`.
    pub agent_name: String,
    /// The personality, any text.
    pub system_prompt: String,
    /// Model id at the inference service.
    pub model: String,
    /// Key of the inference service.
    pub libertai_api_key: String,
    /// Base URL of the inference service up to and with the version, such as `https://api.libertai.io/v1`.
    pub libertai_api_base_url: String,
    /// The bearer secret that callers present.
    pub agent_secret: String,
    /// TCP port on 127.0.0.1; 0 lets the system choose.
    pub port: u16,
    /// The SQLite database.
    pub db_path: PathBuf,
    /// Directory of memory, skills and files.
    pub workspace_path: PathBuf,
    /// The owner's chat: where unasked messages go, and how the owner is known to callers that send no `sender`.
    pub owner_chat_id: String,
    /// Messages of history given to the model; more become a summary.
    pub max_history: u32,
    /// Rounds of tools in one turn.
    pub max_tool_iterations: u32,
    /// Tokens that the model can read; 0: as known of the model.
    pub max_context_tokens: u32,
    /// Tokens of them that are kept free for the answer.
    pub generation_reserve: u32,
    /// Messages that stay word for word when older ones become a summary.
    pub compaction_keep_messages: u32,
    /// Whether the model can be shown images.
    pub model_sees_images: bool,
    /// Seconds between two looks at HEARTBEAT.md; 0: never.
    pub heartbeat_interval: u64,
    /// Tokens a day (UTC) that heartbeats and subagents may spend together.
    pub background_tokens_per_day: u64,
    /// Tools that visitors have beyond their own, such as `bash`.
    pub visitor_tools: Vec<String>,
    /// Key of the Brave Search API; without it there is no `web_search`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub brave_api_key: Option<String>,
    /// Base URL of the Brave Search API.
    pub brave_api_url: String,
    /// Hosts and networks that `web_fetch` may visit although they are not public, such as `10.1.0.0/16`.
    pub web_allow: Vec<String>,
    /// The socket of the tool launcher, as systemd listens on it; without it tools run as the agent's own user, with fewer
    /// walls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools_socket: Option<PathBuf>,
    /// The same for visitors, whose tools run as yet another user; both or none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_tools_socket: Option<PathBuf>,
    /// Offers `bash` also where the walls around it are incomplete.
    pub bash_without_walls: bool,
    /// Seconds without a byte from the inference service after which a turn ends with an error.
    pub model_idle_timeout_seconds: u64,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            agent_name: String::new(),
            system_prompt: String::new(),
            model: String::new(),
            libertai_api_key: String::new(),
            libertai_api_base_url: String::new(),
            agent_secret: String::new(),
            port: 8080,
            db_path: "".into(),
            workspace_path: "".into(),
            owner_chat_id: String::new(),
            max_history: 100,
            max_tool_iterations: 50,
            max_context_tokens: 0,
            generation_reserve: 4096,
            compaction_keep_messages: 20,
            model_sees_images: false,
            heartbeat_interval: 1800,
            background_tokens_per_day: 200_000,
            visitor_tools: Vec::new(),
            brave_api_key: None,
            brave_api_url: "https://api.search.brave.com".to_owned(),
            web_allow: Vec::new(),
            tools_socket: None,
            guest_tools_socket: None,
            bash_without_walls: false,
            model_idle_timeout_seconds: 120,
        }
    }
}

impl fmt::Debug for AgentConfig {
    /// Leaves out the keys and the prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("agent_name", &self.agent_name)
            .field("model", &self.model)
            .field("port", &self.port)
            .field("db_path", &self.db_path)
            .finish_non_exhaustive()
    }
}
