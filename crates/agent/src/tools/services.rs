//! What tools work with.

use super::Walls;
use crate::background::Budget;
use crate::files::Files;
use crate::store::Store;
use crate::web::{Brave, Dns, Fetcher, Policy};
use crate::workspace::Workspaces;
use baal_launcher::client::Launcher;
use baal_protocol::AgentConfig;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::Arc;

/// This very program, also where another version has taken its place on the disk.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What tools work with.
pub struct Services {
    /// The database.
    pub store: Store,
    /// The way to the files and the shell.
    pub launcher: Arc<Launcher>,
    /// What keeps tools from what is not theirs.
    pub walls: Walls,
    /// What the agent itself reads and writes there: memory and skills.
    pub workspaces: Workspaces,
    /// What goes out and comes in beside the words.
    pub files: Files,
    /// What the background may spend.
    pub budget: Budget,
    /// The model can be shown images.
    pub sees_images: bool,
    /// Reads the web.
    pub fetcher: Fetcher,
    /// Searches it, where there is a key.
    pub brave: Option<Brave>,
}

impl Services {
    /// As configured.
    pub fn new(config: &AgentConfig, store: Store, files: Files) -> Self {
        // What is no address was told when the configuration was checked; leaving it out forbids more, never less.
        let policy = Policy::parse(&config.web_allow).unwrap_or_default();
        let dns = Dns::system();
        let brave = config.brave_api_key.as_ref();
        let brave = brave.map(|key| Brave::new(&config.brave_api_url, SecretString::from(key.clone()), dns.clone()));
        // One without the other was told when the configuration was checked.
        let sockets = config.tools_socket.clone().zip(config.guest_tools_socket.clone());
        let launcher = match sockets {
            Some((owner, guests)) => Launcher::Socket { owner, guests },
            None => Launcher::Child { program: PathBuf::from(OWN_PROGRAM), workspace: config.workspace_path.clone() },
        };
        let walls = Walls::unknown(config.bash_without_walls);
        let launcher = Arc::new(launcher);
        Self {
            store: store.clone(),
            workspaces: Workspaces::new(launcher.clone()),
            launcher,
            walls,
            files,
            budget: Budget::new(store, config.background_tokens_per_day, config.owner_chat_id.clone()),
            sees_images: config.model_sees_images,
            fetcher: Fetcher::new(policy, dns),
            brave,
        }
    }
}
