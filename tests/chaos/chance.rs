//! How long the tests go on, and the chance that decides where they strike.

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

/// Whether this is `make chaos`.
pub fn long() -> bool {
    std::env::var("CHAOS_ROUNDS").is_ok_and(|rounds| rounds == "long")
}

/// How often something is done: in the short form, or in the long one.
pub fn rounds(short: usize, in_long: usize) -> usize {
    if long() { in_long } else { short }
}

/// Random decisions from a seed that is printed.
pub struct Chance(Mutex<StdRng>);

impl Chance {
    /// Those of a test: of `CHAOS_SEED`, or else of another seed each time.
    pub fn of(test: &str) -> Self {
        let given = std::env::var("CHAOS_SEED").ok().map(|seed| seed.parse().expect("CHAOS_SEED is a number"));
        let seed: u64 = given.unwrap_or_else(rand::random);
        println!("{test}: CHAOS_SEED={seed}");
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    /// Another one, for decisions that are made beside ours.
    pub fn child(&self) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(self.number(0..u64::MAX))))
    }

    /// A number of the range.
    pub fn number(&self, range: Range<u64>) -> u64 {
        self.0.lock().unwrap().random_range(range)
    }

    /// So many milliseconds.
    pub fn pause(&self, milliseconds: Range<u64>) -> Duration {
        Duration::from_millis(self.number(milliseconds))
    }

    /// A number below `most` of which small ones are as likely as large ones: as many of 1 to 9 as of 1,000 to 9,999.
    pub fn of_any_size(&self, most: u64) -> u64 {
        let exponent = self.0.lock().unwrap().random_range(0.0..(most as f64).ln());
        exponent.exp() as u64
    }

    /// True once in `n` times.
    pub fn once_in(&self, n: u64) -> bool {
        self.number(0..n) == 0
    }
}
