//! What was measured against what was wanted, as a table for docs.

use std::fmt::Write as _;

/// One line of the table.
struct Row {
    what: String,
    target: String,
    figure: String,
    met: bool,
}

/// Gathers the lines while the parts run.
#[derive(Default)]
pub struct Table(Vec<Row>);

impl Table {
    /// A figure that is to be at least `target`.
    pub fn at_least(&mut self, what: impl Into<String>, figure: f64, target: f64, unit: &str) {
        self.push(what.into(), "≥", figure, target, unit, figure >= target);
    }

    /// A figure that is to be at most `target`.
    pub fn at_most(&mut self, what: impl Into<String>, figure: f64, target: f64, unit: &str) {
        self.push(what.into(), "≤", figure, target, unit, figure <= target);
    }

    /// A figure for which there is no target.
    pub fn told(&mut self, what: impl Into<String>, figure: impl Into<String>) {
        self.0.push(Row { what: what.into(), target: String::new(), figure: figure.into(), met: true });
    }

    fn push(&mut self, what: String, sign: &str, figure: f64, target: f64, unit: &str, met: bool) {
        let with_unit = |number: String| format!("{number} {unit}").trim_end().to_owned();
        let target = format!("{sign} {}", with_unit(rounded(target)));
        self.0.push(Row { what, target, figure: with_unit(rounded(figure)), met });
    }

    /// The table in Markdown, under the machine and the command that it is of.
    pub fn print(&self, machine: &str, command: &str) {
        if self.0.is_empty() {
            return;
        }
        let mut text = format!("\n{machine}: `{command}`\n\n| | measured | target | |\n|---|---|---|---|\n");
        for Row { what, target, figure, met } in &self.0 {
            let verdict = match (target.is_empty(), met) {
                (true, _) => "",
                (false, true) => "met",
                (false, false) => "**missed**",
            };
            // silent-ok: writing to a string does not fail
            let _ = writeln!(text, "| {what} | {figure} | {target} | {verdict} |");
        }
        print!("{text}");
    }
}

/// With as many digits as are worth reading: what misses a target by little must not look as if it met it.
fn rounded(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}").trim_end_matches('0').trim_end_matches('.').to_owned(),
    }
}
