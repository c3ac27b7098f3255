//! Turns on their way from the handler that queued them to the runner of the same process. They come into being claimed
//! ([`enqueue_all`](super::queue::enqueue_all)), which spares nearly every message a claim.
//!
//! Invariant: **a turn's key is in hand before its row can be committed**, and strays are looked for by reading the rows first, so that
//! it is not taken for one; where nobody knows whether it was committed, they are looked for soon. Killed in between, its replica is dead, and its turns are taken back as any others.

use tokio::sync::mpsc;
use uuid::Uuid;

use super::runner::PARALLEL;
use super::store::Claimed;
use crate::slots::{Held, Hold};

/// Turns on their way at once.
const ON_THEIR_WAY: usize = 256;

/// A turn's row and the attempt.
type Key = (Uuid, i32);

/// A turn that this replica has claimed.
pub struct Taken {
    /// The turn.
    pub turn: Claimed,
    /// It is in hand.
    pub hold: Hold<Key>,
}

/// The handlers' end; cheap to clone.
#[derive(Clone)]
pub struct Giving {
    turns: mpsc::Sender<Taken>,
    held: Held<Key>,
}

/// The runner's end.
pub struct Taking {
    /// The turns that come.
    pub turns: mpsc::Receiver<Taken>,
    /// All that are in hand, those that come among them.
    pub held: Held<Key>,
}

/// The two ends.
pub fn handover() -> (Giving, Taking) {
    let (giving, turns) = mpsc::channel(ON_THEIR_WAY);
    let held = Held::default();
    (Giving { turns: giving, held: held.clone() }, Taking { turns, held })
}

impl Giving {
    /// Prepares for a turn that may come into being; `None`: there is no room for it.
    pub fn prepare(&self, id: Uuid) -> Option<Prepared> {
        let room = self.turns.clone().try_reserve_owned().ok().filter(|_| self.held.count() < PARALLEL)?;
        // The first claim is the first attempt.
        Some(Prepared { place: Some((room, self.held.hold((id, 1)))), held: self.held.clone() })
    }
}

/// A place for one turn. Dropped before it is [settled](Prepared::settle), nobody knows whether there is a row.
pub struct Prepared {
    /// Both until it is settled.
    place: Option<(mpsc::OwnedPermit<Taken>, Hold<Key>)>,
    held: Held<Key>,
}

impl Prepared {
    /// What came of it: the turn, if it was taken.
    pub fn settle(mut self, taken: Option<Claimed>) {
        if let (Some((room, hold)), Some(turn)) = (self.place.take(), taken) {
            room.send(Taken { turn, hold });
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.place.is_some() {
            self.held.unsure();
        }
    }
}
