//! What an answer cost, read leniently: a number in an odd form is no reason to lose the answer.

use serde_json::Value;

/// More tokens than this, or more dollars, are a mistake, not a count.
const PLAUSIBLE: f64 = 1e12;

/// Tokens and money of one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: i64,
    /// Tokens of the answer.
    pub completion_tokens: i64,
    /// US dollars, where the service says so.
    pub cost: Option<f64>,
}

impl Usage {
    /// `None` where there is no object; a token count that cannot be read is 0.
    pub(super) fn read(usage: &Value) -> Option<Self> {
        usage.as_object()?;
        Some(Self {
            prompt_tokens: tokens(&usage["prompt_tokens"]),
            completion_tokens: tokens(&usage["completion_tokens"]),
            cost: number(&usage["cost"]),
        })
    }

    /// Both together; what is not known counts nothing.
    pub fn sum(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        let (Some(a), Some(b)) = (one, other) else { return one.or(other) };
        Some(Self {
            prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
            completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
            cost: match (a.cost, b.cost) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            },
        })
    }
}

fn number(value: &Value) -> Option<f64> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok()?,
        value => value.as_f64()?,
    };
    (0.0..=PLAUSIBLE).contains(&number).then_some(number)
}

fn tokens(value: &Value) -> i64 {
    // Whole and within the bounds that `number` keeps, so nothing is cut off.
    number(value).map_or(0, |number| number.round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn odd_numbers_are_read_or_left_out() {
        let read = |prompt: Value, completion: Value, cost: Value| {
            let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion, "cost": cost});
            Usage::read(&usage).map(|usage| (usage.prompt_tokens, usage.completion_tokens, usage.cost))
        };
        assert_eq!(read(json!(3), json!(12.0), json!(0.25)), Some((3, 12, Some(0.25))));
        assert_eq!(read(json!("3"), json!(null), json!("0.25")), Some((3, 0, Some(0.25))));
        assert_eq!(read(json!(-3), json!(1e300), json!({"total": 1})), Some((0, 0, None)));
        assert_eq!(read(json!([]), json!("many"), json!("NaN")), Some((0, 0, None)));
        assert_eq!(Usage::read(&json!({})), Some(Usage::default()));
        for none in [json!(null), json!("much"), json!(7), json!([1])] {
            assert_eq!(Usage::read(&none), None);
        }
    }
}
