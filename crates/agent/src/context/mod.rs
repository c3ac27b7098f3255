//! What the model is told in a turn: what it is, what it remembers, and as much of the conversation as fits.

pub mod budget;
mod compaction;
mod conversation;
mod learned;
mod pauses;
pub mod prompt;
#[cfg(test)]
mod tests;
mod transcript;
pub mod window;
mod windows;

pub use conversation::Conversation;

use crate::model::Client;
use crate::store::{Bounds, Deleted, Store, StoreError};
use crate::tools::Who;
use crate::workspace::Workspaces;
use baal_protocol::{AgentConfig, ChatRequest};
use chrono::NaiveDate;
use learned::Learned;
use pauses::Pauses;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use windows::{Window, Windows};

/// What an agent tells its model. Clones share it.
#[derive(Clone)]
pub struct Contexts {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    store: Store,
    model: Client,
    workspaces: Workspaces,
    head: Mutex<Option<(NaiveDate, Arc<str>)>>,
    learned: Learned,
    pauses: Mutex<Pauses>,
    windows: Mutex<Windows>,
}

struct Settings {
    agent_name: String,
    instructions: String,
    /// Tokens of a request at most.
    prompt_tokens: u32,
    max_history: usize,
    keep_messages: usize,
}

impl Contexts {
    /// As configured.
    ///
    /// # Errors
    /// The database failed.
    pub async fn new(
        config: &AgentConfig,
        store: Store,
        model: Client,
        workspaces: Workspaces,
    ) -> Result<Self, StoreError> {
        let max_history = config.max_history as usize;
        let settings = Settings {
            agent_name: config.agent_name.clone(),
            instructions: config.system_prompt.clone(),
            prompt_tokens: budget::prompt_tokens(&config.model, config.max_context_tokens, config.generation_reserve),
            max_history,
            // Half at most: what stays must leave room to grow until the next compaction.
            keep_messages: (config.compaction_keep_messages as usize).min(max_history / 2).max(1),
        };
        let learned = Learned::load(&store, &config.model).await?;
        let inner = Inner {
            settings,
            store,
            model,
            workspaces,
            head: Mutex::default(),
            learned,
            pauses: Mutex::default(),
            windows: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The conversation that the turn at `position` goes on with.
    ///
    /// # Errors
    /// The database failed.
    pub async fn begin(
        &self,
        who: &Who,
        position: i64,
        request: &ChatRequest,
        today: NaiveDate,
    ) -> Result<Conversation, StoreError> {
        let root = who.root();
        let told = self.inner.workspaces.told(&root, today).await;
        let speaker = prompt::speaker(who, request.sender.as_ref(), request.language_code.as_deref());
        let system = format!("{}\n\n{told}\n\n{speaker}", self.head(today));
        let (window, generation) = lock(&self.inner.windows).take(&who.chat_id);
        let window = match window {
            Some(window) => window,
            None => self.inner.read_window(&who.chat_id, position).await?,
        };
        Ok(Conversation::new(self.clone(), who.clone(), position, today, system, window, generation))
    }

    fn head(&self, today: NaiveDate) -> Arc<str> {
        let mut head = lock(&self.inner.head);
        match &*head {
            Some((day, text)) if *day == today => text.clone(),
            _ => {
                let settings = &self.inner.settings;
                let text: Arc<str> = prompt::head(&settings.agent_name, &settings.instructions, today).into();
                *head = Some((today, text.clone()));
                text
            }
        }
    }

    /// Something was added to a chat's history beside its turns.
    pub fn has_changed(&self, chat_id: &str) {
        lock(&self.inner.windows).forget(chat_id);
    }

    /// Forgets a conversation: its messages, its summary and what was searchable of them.
    ///
    /// # Errors
    /// Nothing was deleted.
    pub async fn delete_chat(&self, chat_id: &str) -> Result<Deleted, StoreError> {
        // Before, so that no turn begins with what is about to go; after, so that none puts it back.
        lock(&self.inner.windows).forget(chat_id);
        let deleted = self.inner.store.delete_chat(chat_id.to_owned()).await;
        lock(&self.inner.windows).forget(chat_id);
        deleted
    }
}

impl Inner {
    /// Bytes of a request at most.
    fn max_bytes(&self) -> usize {
        self.learned.ratio().bytes(self.settings.prompt_tokens)
    }

    /// What the database holds for a turn: the summary, and the newest messages behind it.
    async fn read_window(&self, chat_id: &str, position: i64) -> Result<Window, StoreError> {
        let summary = self.store.read().summary(chat_id).await?;
        let after = summary.as_ref().map_or(0, |summary| summary.up_to);
        // More than are ever shown, so that a compaction that is due is seen, and not so many that one which fails for long makes
        // every turn slow.
        let max_messages = self.settings.max_history.saturating_mul(4).saturating_add(64);
        let bounds = Bounds { max: max_messages, max_bytes: 2 * self.max_bytes(), short: window::SHORT_RESULT };
        let rows = self.store.read().messages_before(chat_id, after, position, bounds).await?;
        let newest_turn = rows.iter().map(|row| row.turn).rfind(|turn| *turn != 0);
        let mut messages = windows::whole_turns(rows);
        if let Some(newest) = newest_turn.filter(|_| messages.is_empty()) {
            // A turn so long that it does not even begin within the bounds. What was asked and answered is never missing.
            messages = windows::whole_turns(self.store.read().words_of_turn(newest).await?);
        }
        let left_out = match windows::first_id(&messages) {
            Some(first) => self.store.read().has_messages_between(chat_id, after, first).await?,
            None => false,
        };
        Ok(Window { summary, messages, left_out })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section is a few map operations, which leave the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
