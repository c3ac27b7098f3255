//! Who waits for the id of a message that is being sent.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Those in this process who wait to learn a message's id; a mere shortcut, for the row says it too.
#[derive(Debug, Clone, Default)]
pub struct Receipts(Arc<Mutex<HashMap<i64, oneshot::Sender<Option<i64>>>>>);

impl Receipts {
    /// To be called before the row is committed.
    pub fn expect(&self, outbox_id: i64) -> oneshot::Receiver<Option<i64>> {
        let (tell, told) = oneshot::channel();
        self.lock().insert(outbox_id, tell);
        told
    }

    /// Nobody waits for this row any more.
    pub fn forget(&self, outbox_id: i64) {
        self.lock().remove(&outbox_id);
    }

    /// The row's message has this id; none if Telegram named none.
    pub fn tell(&self, outbox_id: i64, message_id: Option<i64>) {
        if let Some(waiter) = self.lock().remove(&outbox_id) {
            let _ = waiter.send(message_id); // silent-ok: the waiter has gone
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, oneshot::Sender<Option<i64>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
