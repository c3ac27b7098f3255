//! Values of the configuration that are one of a few, and the models.

use std::str::FromStr;

use serde::Deserialize;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

macro_rules! choice {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The word in the configuration.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        // The derivation takes no names from a macro.
        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some([$($text),+])).build().into()
            }
        }
        impl ToSchema for $name {}

        impl FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err(format!("must be one of: {}", [$($text),+].join(", "))),
                }
            }
        }
    };
}

choice! {
    /// How updates arrive.
    TelegramMode {
        /// Telegram calls us.
        Webhook = "webhook",
        /// We call `getUpdates`.
        Polling = "polling",
    }
}
choice! {
    /// How a growing answer is shown.
    StreamMode {
        /// A message that is edited.
        Edit = "edit",
        /// A draft that becomes a message at the end (`sendMessageDraft`).
        Draft = "draft",
    }
}
choice! {
    /// Who may create agents.
    CreatePolicy {
        /// Everybody.
        Open = "open",
        /// Whoever redeems a code that an operator made with `/invite`; operators too.
        Invite = "invite",
        /// Operators only.
        Operators = "operators",
    }
}
choice! {
    /// Where agents run.
    CloudKind {
        /// On instances of Aleph Cloud.
        Aleph = "aleph",
        /// On machines that the operator brings.
        Hosts = "hosts",
        /// As processes of this host.
        Local = "local",
    }
}
choice! {
    /// Where agents' machines get their certificates from.
    AgentTls {
        /// From the certificate authorities of AGENT_ACME_URLS.
        Acme = "acme",
        /// From this program, with the authority of AGENT_CA_FILE.
        Internal = "internal",
    }
}
choice! {
    /// Who may open an agent beside its owner.
    Visibility {
        /// Everybody, by its number.
        Public = "public",
        /// Whoever has one of its links, which cannot be guessed.
        Unlisted = "unlisted",
        /// Only whom its owner lets in.
        Private = "private",
    }
}
choice! {
    /// The form of log lines.
    LogFormat {
        /// For people.
        Human = "human",
        /// For machines.
        Json = "json",
    }
}

/// A model that users choose from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The id at the inference service.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// One line on what it is good at.
    #[serde(default)]
    pub description: String,
    /// Context size in tokens.
    #[serde(default)]
    pub context: u32,
}

/// [`Model`]s in the order in which they are offered; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Models(pub Vec<Model>);

impl Models {
    /// The model of this id.
    pub fn get(&self, id: &str) -> Option<&Model> {
        self.0.iter().find(|model| model.id == id)
    }
}

impl FromStr for Models {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let models: Vec<Model> =
            serde_json::from_str(text).map_err(|e| format!("is not a JSON list of models ({e})"))?;
        if models.is_empty() {
            return Err("names no model".into());
        }
        Ok(Self(models))
    }
}
