//! Commands in messages. Pure.

/// A command and what follows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Command<'a> {
    /// In lower case, without the slash.
    pub name: String,
    /// What stands behind it.
    pub argument: &'a str,
}

impl<'a> Command<'a> {
    /// `/name argument` or `/name@bot argument`.
    pub fn parse(text: &'a str) -> Option<Self> {
        let rest = text.strip_prefix('/')?;
        let (word, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let name = word.split_once('@').map_or(word, |(name, _)| name);
        let plausible = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        // A path or a lone slash is something said, not a command.
        plausible.then(|| Self { name: name.to_ascii_lowercase(), argument: argument.trim() })
    }

    /// Whether it is a way out, which is open also to those who send too much.
    pub fn always_works(&self) -> bool {
        matches!(&*self.name, "stop" | "cancel")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_words() {
        let command = |name: &str, argument| Some(Command { name: name.into(), argument });
        assert_eq!(Command::parse("/start agent_42"), command("start", "agent_42"));
        assert_eq!(Command::parse("/HELP@baal_bot"), command("help", ""));
        assert_eq!(Command::parse("/delete\n 7 "), command("delete", "7"));
        for words in ["hello", "/", "/usr/bin/env", " /start", "/é", "//"] {
            assert_eq!(Command::parse(words), None, "{words}");
        }
    }
}
