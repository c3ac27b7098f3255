//! Asking at the terminal: what is typed is shown by us or not at all.

use std::io::{self, IsTerminal as _};

use dialoguer::console::{Key, Term, style};
use dialoguer::theme::ColorfulTheme;
use dialoguer::{Confirm, Input, Select};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// Whether there is somebody to ask: standard input and standard error are a terminal.
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Keeps the terminal from showing what is typed by itself, until it is dropped: also what is typed ahead of a hidden question,
/// while something is being checked.
pub struct Quiet(Termios);

impl Quiet {
    /// From now on.
    pub fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
        Ok(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // silent-ok: a terminal that is gone needs nothing
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
        let _ = Term::stderr().show_cursor(); // silent-ok: as above
    }
}

/// The person at the terminal. Errors are those of the terminal; Ctrl-C is [`io::ErrorKind::Interrupted`].
pub struct Terminal {
    term: Term,
    theme: ColorfulTheme,
}

impl Terminal {
    /// On standard error, as standard output may go elsewhere.
    pub fn new() -> Self {
        Self { term: Term::stderr(), theme: ColorfulTheme::default() }
    }

    /// The beginning of a step: its name, and what it is about.
    pub fn title(&self, title: &str, about: &[&str]) -> io::Result<()> {
        self.term.write_line("")?;
        self.term.write_line(&style(title).bold().to_string())?;
        about.iter().try_for_each(|line| self.say(line))
    }

    /// A line.
    pub fn say(&self, line: &str) -> io::Result<()> {
        self.term.write_line(&shown(line))
    }

    /// Something is well.
    pub fn good(&self, what: &str) -> io::Result<()> {
        self.term.write_line(&format!("{} {}", style("✔").green(), shown(what)))
    }

    /// Something is wrong.
    pub fn wrong(&self, what: &str) -> io::Result<()> {
        self.term.write_line(&format!("{} {}", style("✘").red(), shown(what)))
    }

    /// Something may be wrong.
    pub fn doubt(&self, what: &str) -> io::Result<()> {
        self.term.write_line(&format!("{} {}", style("!").yellow(), shown(what)))
    }

    /// A line of text without white space around it; the default for an empty one.
    pub fn text(&self, prompt: &str, default: Option<&str>) -> io::Result<String> {
        let mut input = Input::<String>::with_theme(&self.theme).with_prompt(prompt).allow_empty(true);
        if let Some(default) = default.filter(|default| !default.is_empty()) {
            input = input.default(default.to_owned());
        }
        Ok(input.interact_text_on(&self.term).map_err(cause)?.trim().to_owned())
    }

    /// The same, not shown. Not [`dialoguer::Password`], which throws away what was typed before it began to read.
    pub fn hidden(&self, prompt: &str) -> io::Result<String> {
        let prompt = format!("{} {} ", style("?").yellow(), style(format!("{prompt} (not shown):")).bold());
        self.term.write_str(&prompt)?;
        self.term.flush()?;
        let mut typed = String::new();
        loop {
            match self.term.read_key()? {
                Key::Enter => break,
                Key::Char(c) if !c.is_control() => typed.push(c),
                Key::Backspace => drop(typed.pop()),
                // Ctrl-U and Ctrl-W: what can't be seen is typed again as a whole.
                Key::Char('\u{15}' | '\u{17}') => typed.clear(),
                _ => {}
            }
        }
        self.term.write_line("")?;
        Ok(typed.trim().to_owned())
    }

    /// Yes or no.
    pub fn confirm(&self, prompt: &str, default: bool) -> io::Result<bool> {
        // With Enter: people press it anyway, and it would answer the next question.
        let confirm = Confirm::with_theme(&self.theme).with_prompt(prompt).default(default).wait_for_newline(true);
        confirm.interact_on(&self.term).map_err(cause)
    }

    /// One of several; its index.
    pub fn choose(&self, prompt: &str, items: &[&str], default: usize) -> io::Result<usize> {
        let select = Select::with_theme(&self.theme).with_prompt(format!("{prompt} (arrows, then Enter)"));
        select.items(items).default(default).interact_on(&self.term).map_err(cause)
    }
}

fn cause(error: dialoguer::Error) -> io::Error {
    let dialoguer::Error::IO(error) = error;
    error
}

/// Far sides' words do nothing to the terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
