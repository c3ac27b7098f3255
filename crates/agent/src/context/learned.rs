//! What is known of the model's tokens, over restarts.

use super::budget::Ratio;
use crate::model::Usage;
use crate::store::{Store, StoreError};
use std::sync::{Mutex, PoisonError};
use tracing::warn;

/// The ratio of one model, and what of it is stored.
pub struct Learned {
    model: String,
    now: Mutex<(Ratio, Option<f64>)>,
}

impl Learned {
    /// As an earlier run left it.
    ///
    /// # Errors
    /// The database failed.
    pub async fn load(store: &Store, model: &str) -> Result<Self, StoreError> {
        let stored = store.read().tokens_per_byte(model).await?;
        Ok(Self { model: model.to_owned(), now: Mutex::new((Ratio::new(stored), stored)) })
    }

    /// Tokens a byte, as far as is known.
    pub fn ratio(&self) -> Ratio {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// A request of so many bytes was counted by the provider.
    pub async fn correct(&self, store: &Store, bytes: usize, usage: &Usage) {
        let ratio = {
            let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            now.0 = now.0.corrected(bytes, usage);
            if now.0 == Ratio::default() || !now.0.is_news(now.1) {
                return;
            }
            now.1 = Some(now.0.get());
            now.0
        };
        if let Err(e) = store.learn_tokens_per_byte(self.model.clone(), ratio.get()).await {
            warn!(error = %e, "what was learned of the model's tokens was not stored, it will be learned again");
        }
    }
}
