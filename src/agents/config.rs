//! What an agent is started with, wherever it runs.

use baal_protocol::AgentConfig;
use secrecy::ExposeSecret as _;

use super::Agent;
use super::keys::ModelKey;
use crate::config::Config;
use crate::vault::Undecryptable;

/// The agent as its row says, on this key; port, paths and sockets are its place's. It holds keys.
pub fn agent_config(config: &Config, agent: &Agent, key: &ModelKey) -> Result<AgentConfig, Undecryptable> {
    Ok(AgentConfig {
        agent_name: agent.name.clone(),
        system_prompt: agent.system_prompt.clone(),
        model: agent.model.clone(),
        libertai_api_key: key.secret.expose_secret().to_owned(),
        libertai_api_base_url: config.libertai_api_base_url.clone(),
        agent_secret: agent.secret(&config.vault)?.expose_secret().to_owned(),
        owner_chat_id: agent.chat_id.to_string(),
        ..AgentConfig::default()
    })
}
