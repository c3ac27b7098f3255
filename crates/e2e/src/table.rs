//! What became of each attack, for people to read.

use std::fmt;

/// One attack by one attacker.
#[derive(Debug, Clone)]
pub struct Row {
    /// What was tried.
    pub attack: String,
    /// As whom.
    pub who: &'static str,
    /// What happened, on one line.
    pub happened: String,
    /// The attacker got what they were after.
    pub succeeded: bool,
}

/// All of them, as Markdown.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Adds a row, and prints it at once.
    pub fn add(&mut self, row: Row) {
        println!("{row}");
        self.rows.push(row);
    }

    /// What succeeded.
    pub fn breaches(&self) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.succeeded).collect()
    }

    /// How many different attacks there were.
    pub fn attacks(&self) -> usize {
        let mut names: Vec<_> = self.rows.iter().map(|row| row.attack.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.succeeded { "**SUCCEEDED**: " } else { "" };
        write!(f, "| {} | {} | {verdict}{} |", self.attack, self.who, self.happened.replace('|', "\\|"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| attack | as | what happened |\n|---|---|---|")?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))
    }
}
