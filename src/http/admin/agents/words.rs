//! What people write about agents, with the schemas that say exactly what [`validate`](crate::agents::service) takes.

use serde::{Deserialize, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::super::problem::{ApiError, FieldError};
use crate::agents::service::{self, ServiceError};
use crate::config::Models;

/// White space and what takes no space: cut off at both ends.
macro_rules! edge {
    () => {
        r"\t-\r \x85\xa0\xad\u1680\u2000-\u200f\u2028\u2029\u202f\u205f-\u2064\u2800\u3000\u3164\ufeff"
    };
}
/// Controls, and what breaks a line or turns its direction: nowhere in between.
macro_rules! breaks {
    () => {
        r"\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069"
    };
}

/// As [`service::validate_name`]: something to see, no more than one line of it.
const ON_ONE_LINE: &str = concat!(
    "^[",
    edge!(),
    "]*[^",
    edge!(),
    breaks!(),
    "]([^",
    breaks!(),
    "]*[^",
    edge!(),
    breaks!(),
    "])?[",
    edge!(),
    "]*$"
);
/// The same, or nothing.
const ON_ONE_LINE_IF_ANY: &str = concat!(
    "^[",
    edge!(),
    "]*([^",
    edge!(),
    breaks!(),
    "]([^",
    breaks!(),
    "]*[^",
    edge!(),
    breaks!(),
    "])?)?[",
    edge!(),
    "]*$"
);
/// As [`service::validate_prompt`]: something but white space.
const WITH_WORDS: &str = r"[^\x00\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $schema:literal, $describe:literal, $min:expr, $max:expr, $pattern:expr, $example:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(transparent)]
        pub(in super::super) struct $name(pub String);

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let schema = ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).description(Some($describe));
                let schema = schema.min_length($min).max_length(Some($max)).pattern($pattern).examples([$example]);
                schema.build().into()
            }
        }

        impl ToSchema for $name {
            fn name() -> std::borrow::Cow<'static, str> {
                $schema.into()
            }
        }
    };
}

words!(
    /// An agent's name, not yet checked.
    Name, "AgentName",
    "1 to 64 characters on one line, something to see among them. Space around them is cut off.",
    Some(1), service::NAME_CHARACTERS, Some(ON_ONE_LINE), "Ada"
);
words!(
    /// A personality, not yet checked.
    Prompt, "SystemPrompt",
    "How the agent is: 1 to 16,384 bytes of UTF-8, in which NULs are left out.",
    Some(1), service::PROMPT_BYTES, Some(WITH_WORDS), "You are a patient teacher of mathematics."
);
words!(
    /// A model's id, not yet checked.
    ModelId, "ModelId",
    "One of the models that this server offers (MODELS).",
    Some(1), 200, None::<String>, "glm-4.7"
);
words!(
    /// What a link is called, not yet checked.
    Label, "LinkLabel",
    "What the link is called: at most 32 characters on one line, or nothing.",
    None, service::LABEL_CHARACTERS, Some(ON_ONE_LINE_IF_ANY), "For friends"
);

impl Name {
    /// As it will be kept.
    pub(in super::super) fn check(&self) -> Result<String, ServiceError> {
        let name = service::validate_name(&self.0)?;
        within("name", &self.0, service::NAME_CHARACTERS).map(|()| name)
    }
}

impl Prompt {
    /// As it will be kept.
    pub(in super::super) fn check(&self) -> Result<String, ServiceError> {
        service::validate_prompt(&self.0)
    }
}

impl ModelId {
    /// If it is offered.
    pub(in super::super) fn check(&self, models: &Models) -> Result<String, ServiceError> {
        service::validate_model(models, &self.0)
    }
}

impl Label {
    /// As it will be kept.
    pub(in super::super) fn check(&self) -> Result<String, ServiceError> {
        let label = service::validate_label(&self.0)?;
        within("label", &self.0, service::LABEL_CHARACTERS).map(|()| label)
    }
}

/// Schemas count what will be cut off as well.
fn within(field: &'static str, text: &str, limit: usize) -> Result<(), ServiceError> {
    if text.chars().count() <= limit {
        return Ok(());
    }
    let message = format!("Send at most {limit} characters, the space around them included.");
    Err(ServiceError::Invalid { field, message })
}

/// Gathers what is wrong with a request's fields, so that all of it is told at once.
#[derive(Default)]
pub(in super::super) struct Wrong(Vec<FieldError>);

impl Wrong {
    /// The value if it is good.
    pub(in super::super) fn take<T>(&mut self, checked: Result<T, ServiceError>) -> Option<T> {
        let field = if let Err(ServiceError::Invalid { field, .. }) = &checked { field } else { "" };
        let noted =
            checked.map_err(|error| self.0.push(FieldError { field: field.into(), message: error.to_string() }));
        noted.ok()
    }

    /// An error if there was anything.
    pub(in super::super) fn none(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex_lite::Regex;

    #[test]
    fn the_patterns_say_what_is_taken() {
        let (name, label, prompt) = (ON_ONE_LINE, ON_ONE_LINE_IF_ANY, WITH_WORDS);
        let [name, label, prompt] = [name, label, prompt].map(|pattern| Regex::new(pattern).expect("a pattern"));
        // All of which either says something, and some others.
        let chars = ('\0'..='\u{3170}').chain('\u{fe00}'..='\u{ffff}').chain(['👩', '\u{e0001}', '\u{10ffff}']);
        for c in chars {
            for text in [format!("{c}"), format!("a{c}b"), format!("{c}a"), format!("a{c}")] {
                assert_eq!(name.is_match(&text), service::validate_name(&text).is_ok(), "name {text:?}");
                assert_eq!(label.is_match(&text), Label(text.clone()).check().is_ok(), "label {text:?}");
                assert_eq!(prompt.is_match(&text), service::validate_prompt(&text).is_ok(), "prompt {text:?}");
            }
        }
        assert!(label.is_match("") && !name.is_match("") && !prompt.is_match(""));
    }

    #[test]
    fn names_are_as_short_as_the_schema_says_before_their_edges_are_cut() {
        assert!(Name(format!(" {}", "é".repeat(63))).check().is_ok());
        assert!(Name(format!(" {}", "é".repeat(64))).check().is_err());
        assert!(Label(" ".repeat(33)).check().is_err());
    }
}
