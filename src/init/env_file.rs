//! A `.env` that is changed and otherwise stays as it is: comments, order, unknown lines.
//!
//! Read as `dotenvy` reads it, because [`Config::load`](crate::config::Config::load) does. Written so that Compose reads the
//! same: single quotes are literal for both, and within double quotes both know `\\`, `\"` and `\$`.

use std::collections::BTreeMap;

/// Why a file cannot be changed, or a value not be written. None of the texts holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvFileError {
    /// A line that is no assignment, comment or blank.
    #[error("line {0} cannot be read; it must be NAME=value, with quotes around values with spaces")]
    Line(usize),
    /// Line breaks and other control characters.
    #[error("the value has a line break or another control character, which cannot be written into the file")]
    Control,
    /// The lines together do not mean what they should, as after a quote that is not closed where it seems to be.
    #[error("the file cannot be changed without changing something else in it; its quotes are unusual")]
    Unusual,
}

/// The lines of a `.env`; values are in them.
#[derive(Clone)]
pub struct EnvFile {
    entries: Vec<Entry>,
}

#[derive(Clone)]
struct Entry {
    /// With all its line breaks; several lines where quotes span them.
    text: String,
    /// The variable, where it is an assignment.
    name: Option<String>,
}

impl EnvFile {
    /// Reads a file's text; an empty one is a file without entries.
    pub fn parse(text: &str) -> Result<Self, EnvFileError> {
        let text = text.trim_start_matches('\u{feff}');
        let mut entries = Vec::new();
        let mut begun = String::new();
        let mut begun_at = 1;
        for (index, line) in text.split_inclusive('\n').enumerate() {
            if begun.is_empty() {
                begun_at = index + 1;
            }
            begun.push_str(line);
            // A quote that is open makes the next line part of this one.
            if let Ok(name) = assigned(&begun) {
                entries.push(Entry { text: std::mem::take(&mut begun), name });
            }
        }
        if !begun.is_empty() {
            return Err(EnvFileError::Line(begun_at));
        }
        let file = Self { entries };
        file.values()?;
        Ok(file)
    }

    /// What the file sets; of several lines for one name the last.
    pub fn values(&self) -> Result<BTreeMap<String, String>, EnvFileError> {
        // The error would show the line, and the line may be a secret.
        dotenvy::from_read_iter(self.text().as_bytes()).collect::<Result<_, _>>().map_err(|_| EnvFileError::Unusual)
    }

    /// The file's text.
    pub fn text(&self) -> String {
        self.entries.iter().map(|entry| entry.text.as_str()).collect()
    }

    /// The file with these changes: a value that is set where it stands, or below the comment that shows it, or at the end
    /// below `doc`; a value of `None` becomes a comment.
    pub fn with(&self, changes: &[Change<'_>]) -> Result<Self, EnvFileError> {
        let mut expected = self.values()?;
        let mut file = self.clone();
        for change in changes {
            match change.value {
                Some(value) if expected.get(change.name).map(String::as_str) == Some(value) => continue,
                Some(value) => {
                    file.set(change, &assignment(change.name, value)?);
                    expected.insert(change.name.to_owned(), value.to_owned());
                }
                None => {
                    file.comment_out(change.name);
                    expected.remove(change.name);
                }
            }
        }
        if Self::parse(&file.text())?.values()? != expected {
            return Err(EnvFileError::Unusual);
        }
        Ok(file)
    }

    fn set(&mut self, change: &Change<'_>, line: &str) {
        let last = self.entries.iter().rposition(|entry| entry.name.as_deref() == Some(change.name));
        let entry = Entry { text: format!("{line}\n"), name: Some(change.name.to_owned()) };
        if let Some(last) = last {
            self.entries[last] = entry;
            return;
        }
        if let Some(last) = self.entries.last_mut().filter(|last| !last.text.ends_with('\n')) {
            last.text.push('\n');
        }
        let shown = format!("{}=", change.name);
        let template = self.entries.iter().position(|entry| {
            let text = entry.text.trim_start();
            entry.name.is_none() && text.strip_prefix('#').is_some_and(|text| text.trim_start().starts_with(&shown))
        });
        if let Some(template) = template {
            self.entries.insert(template + 1, entry);
            return;
        }
        let mut comment = if self.entries.is_empty() { String::new() } else { "\n".to_owned() };
        for line in change.doc {
            comment.push_str(&format!("# {}\n", line.trim()));
        }
        self.entries.extend([Entry { text: comment, name: None }, entry]);
    }

    fn comment_out(&mut self, name: &str) {
        for entry in self.entries.iter_mut().filter(|entry| entry.name.as_deref() == Some(name)) {
            entry.text = entry.text.split_inclusive('\n').map(|line| format!("# {line}")).collect();
            entry.name = None;
        }
    }
}

/// What is to become of a variable.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// The variable.
    pub name: &'a str,
    /// Its value; none turns what sets it into a comment.
    pub value: Option<&'a str>,
    /// Lines above it where it is new.
    pub doc: &'a [&'a str],
}

/// The variable that these lines set, if they are no comment.
fn assigned(lines: &str) -> Result<Option<String>, ()> {
    match dotenvy::from_read_iter(lines.as_bytes()).next() {
        None => Ok(None),
        Some(Ok((name, _))) => Ok(Some(name)),
        Some(Err(_)) => Err(()),
    }
}

/// `NAME=value`, quoted where it has to be.
fn assignment(name: &str, value: &str) -> Result<String, EnvFileError> {
    if value.chars().any(char::is_control) {
        return Err(EnvFileError::Control);
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=~".contains(c);
    Ok(if value.chars().all(is_plain) {
        format!("{name}={value}")
    } else if !value.contains(['\'', '\\']) {
        format!("{name}='{value}'")
    } else {
        let escaped = value.replace('\\', r"\\").replace('"', "\\\"").replace('$', r"\$");
        format!("{name}=\"{escaped}\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(name: &'a str, value: &'a str) -> Change<'a> {
        Change { name, value: Some(value), doc: &["What it is."] }
    }

    fn changed(text: &str, changes: &[Change<'_>]) -> String {
        EnvFile::parse(text).unwrap().with(changes).unwrap().text()
    }

    #[test]
    fn what_is_there_stays_and_values_change_where_they_stand() {
        let text = "# mine\nFOO=1 # why\n\nexport BAR=\"two\"\nBAZ='a\nb'\nlast=x";
        assert_eq!(changed(text, &[]), text);
        assert_eq!(changed(text, &[set("FOO", "1"), set("BAZ", "a\nb")]), text, "the same values");
        assert_eq!(
            changed(text, &[set("BAR", "3"), set("NEW", "4")]),
            "# mine\nFOO=1 # why\n\nBAR=3\nBAZ='a\nb'\nlast=x\n\n# What it is.\nNEW=4\n"
        );
        assert_eq!(
            changed(text, &[Change { name: "BAZ", value: None, doc: &[] }]),
            "# mine\nFOO=1 # why\n\nexport BAR=\"two\"\n# BAZ='a\n# b'\nlast=x"
        );
    }

    #[test]
    fn a_value_goes_below_the_comment_that_shows_it() {
        let text = "# It's Telegram's.\n# TOKEN=\n# TOKENS=9\n";
        assert_eq!(changed(text, &[set("TOKEN", "1")]), "# It's Telegram's.\n# TOKEN=\nTOKEN=1\n# TOKENS=9\n");
        assert_eq!(changed("", &[set("A", "1"), set("B", "2")]), "# What it is.\nA=1\n\n# What it is.\nB=2\n");
    }

    #[test]
    fn of_several_lines_for_a_name_the_last_counts() {
        assert_eq!(changed("A=1\nA=2\n", &[set("A", "3")]), "A=1\nA=3\n");
        assert_eq!(EnvFile::parse("A=1\nA=2\n").unwrap().values().unwrap()["A"], "2");
    }

    #[test]
    fn every_value_comes_back_as_it_was() {
        for value in [
            "plain",
            "two words",
            "#no comment",
            "a # b",
            "it's",
            "it's $HOME",
            r#"say "hi""#,
            r"back\slash",
            r#"'"\$`#"#,
            "${NAME}",
            "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
            r#"[{"id":"glm-4.7","name":"It's $5"}]"#,
            "häuser",
            " spaces ",
            "",
        ] {
            let text = changed("KEPT='x y'\n", &[set("VALUE", value)]);
            let values = EnvFile::parse(&text).unwrap().values().unwrap();
            assert_eq!((values["VALUE"].as_str(), values["KEPT"].as_str()), (value, "x y"), "{text}");
        }
        for value in ["two\nlines", "a\rb", "nul\0", "\u{1b}[31m"] {
            let file = EnvFile::parse("").unwrap();
            assert_eq!(file.with(&[set("VALUE", value)]).err(), Some(EnvFileError::Control));
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_without_its_value() {
        for (text, line) in [("A=1\nhunter2 hunter2\n", 2), ("A=1\n\nB='hunter2\nC=1\n", 3)] {
            let error = EnvFile::parse(text).err().unwrap();
            assert_eq!(error, EnvFileError::Line(line));
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn the_example_can_be_filled_in() {
        let example = crate::config::env_example();
        let text = changed(&example, &[set("TELEGRAM_BOT_TOKEN", "42:x"), set("CLOUD", "hosts")]);
        assert!(text.contains("\nTELEGRAM_BOT_TOKEN=42:x\n") && text.contains("\n# CLOUD=aleph\nCLOUD=hosts\n"));
        assert_eq!(text.lines().count(), example.lines().count() + 1);
    }
}
