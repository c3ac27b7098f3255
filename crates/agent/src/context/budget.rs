//! How much a model can read, and how many tokens a text is.

use crate::model::Usage;

/// Tokens a byte before the provider has said anything: 3.3 bytes a token, a little more than English needs.
const FIRST_GUESS: f64 = 0.3;
/// A ratio beyond these bounds is a mistake of the provider's: 20 bytes a token, and a token for every byte.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = 0.05..=1.0;
/// Weight of the newest answer.
const WEIGHT: f64 = 0.2;
/// In a shorter request a provider's own additions weigh too much.
const LEAST_BYTES: usize = 2_000;
/// Bytes that a message is on top of its texts: role, names, punctuation.
pub const MESSAGE_BYTES: usize = 16;

/// Tokens that a model reads and writes together.
///
/// Source of the numbers: the defaults of the Python system that came before this one.
pub fn context_tokens(model: &str, configured: u32) -> u32 {
    match (configured, model) {
        (1.., _) => configured,
        (0, "qwen3-coder-next") => 98_304,
        (0, "glm-4.7") => 131_072,
        (0, _) => 32_768,
    }
}

/// Tokens of a request at most. A reserve that leaves less than a quarter was meant for a larger model.
pub fn prompt_tokens(model: &str, configured: u32, reserve: u32) -> u32 {
    let context = context_tokens(model, configured);
    context.saturating_sub(reserve).max(context / 4)
}

/// Tokens a byte of one model, corrected with every answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

impl Default for Ratio {
    fn default() -> Self {
        Self(FIRST_GUESS)
    }
}

impl Ratio {
    /// As learned before; what is not plausible is forgotten.
    pub fn new(learned: Option<f64>) -> Self {
        learned.filter(|ratio| PLAUSIBLE.contains(ratio)).map_or_else(Self::default, Self)
    }

    /// Tokens a byte.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The tokens of so many bytes.
    pub fn tokens(self, bytes: usize) -> u32 {
        // Saturates, as `as` does for floats; far beyond any model.
        (bytes as f64 * self.0).ceil() as u32
    }

    /// The bytes of so many tokens.
    pub fn bytes(self, tokens: u32) -> usize {
        (f64::from(tokens) / self.0) as usize
    }

    /// Corrected by what a request of so many bytes was counted as.
    #[must_use]
    pub fn corrected(self, bytes: usize, usage: &Usage) -> Self {
        let seen = usage.prompt_tokens as f64 / bytes as f64;
        if bytes < LEAST_BYTES || !PLAUSIBLE.contains(&seen) {
            return self;
        }
        Self(self.0 * (1.0 - WEIGHT) + seen * WEIGHT)
    }

    /// Whether it has moved enough since `stored` to be written down.
    pub fn is_news(self, stored: Option<f64>) -> bool {
        stored.is_none_or(|stored| (self.0 / stored - 1.0).abs() > 0.03)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(prompt_tokens: i64) -> Usage {
        Usage { prompt_tokens, ..Usage::default() }
    }

    #[test]
    fn the_budget_is_the_models_or_the_configured_one_less_the_reserve() {
        assert_eq!(prompt_tokens("qwen3-coder-next", 0, 4_096), 94_208);
        assert_eq!(prompt_tokens("glm-4.7", 0, 4_096), 126_976);
        assert_eq!(prompt_tokens("another", 0, 4_096), 28_672);
        assert_eq!(prompt_tokens("glm-4.7", 10_000, 4_096), 5_904);
        assert_eq!(prompt_tokens("small", 1_000, 4_096), 250);
    }

    #[test]
    fn the_ratio_follows_the_provider_slowly_and_not_into_nonsense() {
        let mut ratio = Ratio::default();
        for _ in 0..50 {
            ratio = ratio.corrected(100_000, &usage(20_000));
        }
        assert!((ratio.get() - 0.2).abs() < 0.001);
        for (bytes, tokens) in [(100_000, 0), (100_000, 1_000_000_000), (100, 90), (0, 0), (100_000, -5)] {
            assert_eq!(ratio.corrected(bytes, &usage(tokens)), ratio);
        }
        assert_eq!(Ratio::new(Some(f64::NAN)), Ratio::default());
        assert_eq!(Ratio::new(Some(7.0)), Ratio::default());
        assert_eq!(Ratio::new(Some(0.25)).tokens(1_000), 250);
        assert_eq!(Ratio::new(Some(0.25)).bytes(250), 1_000);
    }

    #[test]
    fn small_moves_are_not_written_down() {
        let ratio = Ratio::new(Some(0.25));
        assert!(ratio.is_news(None) && ratio.is_news(Some(0.3)));
        assert!(!ratio.is_news(Some(0.252)));
    }
}
