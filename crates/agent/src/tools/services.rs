//! What tools work with.

use crate::store::Store;
use crate::web::{Brave, Dns, Fetcher, Policy};
use baal_protocol::AgentConfig;
use secrecy::SecretString;

/// What tools work with.
pub struct Services {
    /// The database.
    pub store: Store,
    /// Reads the web.
    pub fetcher: Fetcher,
    /// Searches it, where there is a key.
    pub brave: Option<Brave>,
}

impl Services {
    /// As configured.
    pub fn new(config: &AgentConfig, store: Store) -> Self {
        // What is no address was told when the configuration was checked; leaving it out forbids more, never less.
        let policy = Policy::parse(&config.web_allow).unwrap_or_default();
        let dns = Dns::system();
        let brave = config.brave_api_key.as_ref();
        let brave = brave.map(|key| Brave::new(&config.brave_api_url, SecretString::from(key.clone()), dns.clone()));
        Self { store, fetcher: Fetcher::new(policy, dns), brave }
    }
}
