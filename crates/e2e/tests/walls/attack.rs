//! An attack is what a model asks its tools to do; whether it succeeded is told by what came out and by what root sees.

use baal_e2e::ToolCall;

/// Before every command: says that the attacker is through. In pieces, so that a command quoted in an error doesn't.
const PRELUDE: &str = "breach() { printf '%s%s %s\\n' BRE ACH \"$*\"; }\n";
/// What `breach` prints.
pub const BREACH: &str = "BREACH";

/// A shell command that tries something. In all texts `{server}` is the server's process id, `{victim}` the file of another
/// chat, `{host}` the model's host, `{model}` its port.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// What is tried, for the table.
    pub name: &'static str,
    /// For `bash`.
    pub command: &'static str,
    /// Seconds for it.
    pub seconds: u64,
    /// Root's preparation on the machine.
    pub prepare: &'static str,
    /// Root's look afterwards: fails if the attack succeeded.
    pub check: &'static str,
    /// Root, without walls, succeeds with the same command: so it is the walls that stop it.
    pub bites: bool,
    /// The owner may do it: visitors' files are on the owner's machine.
    pub owner_may: bool,
}

impl Attack {
    /// Succeeds if it prints a secret or calls `breach`; succeeds for root.
    pub const fn new(name: &'static str, command: &'static str) -> Self {
        Self { name, command, seconds: 30, prepare: "", check: "", bites: true, owner_may: false }
    }

    /// One that is not tried as root: root would break the machine with it, or is not stopped by what is attacked.
    pub const fn untried(name: &'static str, command: &'static str) -> Self {
        Self { bites: false, ..Self::new(name, command) }
    }

    pub const fn checked(self, check: &'static str) -> Self {
        Self { check, ..self }
    }

    pub const fn prepared(self, prepare: &'static str) -> Self {
        Self { prepare, ..self }
    }

    pub const fn visitors_only(self) -> Self {
        Self { owner_may: true, ..self }
    }

    pub const fn seconds(self, seconds: u64) -> Self {
        Self { seconds, ..self }
    }

    /// What the model asks for.
    pub fn call(&self, place: &Place) -> ToolCall {
        ToolCall::bash(&self.script(place), self.seconds)
    }

    /// The command as it runs.
    pub fn script(&self, place: &Place) -> String {
        format!("{PRELUDE}{}", place.fill(self.command))
    }
}

/// What an attacker has found out, or guessed.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub server: String,
    pub victim: String,
    pub host: String,
    pub model: String,
}

impl Place {
    pub fn fill(&self, text: &str) -> String {
        text.replace("{server}", &self.server)
            .replace("{victim}", &self.victim)
            .replace("{host}", &self.host)
            .replace("{model}", &self.model)
    }
}

/// One line for the table of what an attacker saw.
pub fn in_short(text: &str) -> String {
    const LENGTH: usize = 100;
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = printable.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= LENGTH {
        return words;
    }
    format!("{}…", words.chars().take(LENGTH).collect::<String>())
}
