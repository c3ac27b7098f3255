//! What prompts hold of each root, for a while and within bounds.

use baal_launcher::Root;
use chrono::NaiveDate;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes of all texts together.
const MAX_BYTES: usize = 1024 * 1024;

#[derive(Default)]
pub(super) struct Cache {
    roots: HashMap<Root, Entry>,
    bytes: usize,
    /// Counts uses, to know the one that is longest ago.
    clock: u64,
    /// Counts changes: what was read before one is not kept after it.
    generation: u64,
}

struct Entry {
    text: Arc<str>,
    day: NaiveDate,
    good_until: Instant,
    used: u64,
}

impl Cache {
    pub fn get(&mut self, root: &Root, day: NaiveDate, now: Instant) -> Option<Arc<str>> {
        self.clock += 1;
        let entry = self.roots.get_mut(root).filter(|entry| entry.day == day && now < entry.good_until)?;
        entry.used = self.clock;
        Some(entry.text.clone())
    }

    /// To be given to [`Cache::put`] by whoever reads now.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn put(&mut self, root: Root, day: NaiveDate, text: &Arc<str>, good_until: Instant, generation: u64) {
        if generation != self.generation || text.len() > MAX_BYTES {
            return;
        }
        self.remove(&root);
        while self.bytes + text.len() > MAX_BYTES {
            let Some(oldest) = self.roots.iter().min_by_key(|(_, entry)| entry.used).map(|(root, _)| *root) else {
                break;
            };
            self.remove(&oldest);
        }
        self.clock += 1;
        self.bytes += text.len();
        self.roots.insert(root, Entry { text: text.clone(), day, good_until, used: self.clock });
    }

    pub fn forget(&mut self, root: &Root) {
        self.generation += 1;
        self.remove(root);
    }

    fn remove(&mut self, root: &Root) {
        if let Some(entry) = self.roots.remove(root) {
            self.bytes -= entry.text.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, day).expect("a date")
    }

    #[test]
    fn a_text_is_good_for_its_time_its_day_and_until_a_change() {
        let mut cache = Cache::default();
        let (now, text) = (Instant::now(), Arc::from("x"));
        let until = now + Duration::from_secs(300);
        cache.put(Root::Owner, day(23), &text, until, 0);
        assert_eq!(cache.get(&Root::Owner, day(23), now), Some(text.clone()));
        assert_eq!(cache.get(&Root::Owner, day(24), now), None);
        assert_eq!(cache.get(&Root::Owner, day(23), until), None);
        assert_eq!(cache.get(&Root::Chat([0; 16]), day(23), now), None);
        cache.forget(&Root::Owner);
        assert_eq!(cache.get(&Root::Owner, day(23), now), None);
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let mut cache = Cache::default();
        let before = cache.generation();
        cache.forget(&Root::Owner);
        let now = Instant::now();
        cache.put(Root::Owner, day(23), &Arc::from("old"), now + Duration::from_secs(9), before);
        assert_eq!(cache.get(&Root::Owner, day(23), now), None);
    }

    #[test]
    fn the_longest_unused_goes_when_there_is_no_room() {
        let mut cache = Cache::default();
        let now = Instant::now();
        let until = now + Duration::from_secs(300);
        let text: Arc<str> = "x".repeat(MAX_BYTES / 10).into();
        for n in 0..100 {
            cache.put(Root::Chat([n; 16]), day(23), &text, until, 0);
            assert!(cache.get(&Root::Chat([0; 16]), day(23), now).is_some());
        }
        assert!(cache.bytes <= MAX_BYTES && cache.roots.len() <= 10);
        assert!(cache.get(&Root::Chat([99; 16]), day(23), now).is_some());
        assert!(cache.get(&Root::Chat([50; 16]), day(23), now).is_none());
    }
}
