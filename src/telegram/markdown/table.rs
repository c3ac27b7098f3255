//! Tables, which Telegram doesn't have: as aligned monospaced text where that fits a phone, else as a list of records.

use std::ops::Range;

use pulldown_cmark::{Alignment, Event, Tag, TagEnd};
use unicode_width::UnicodeWidthStr;

/// Columns are padded to at most this many cells of a terminal; a longer text pushes its own row only. Without a bound
/// one long cell would be paid for in every row.
const MAX_COLUMN: usize = 40;

/// The widest table that is shown as one, in cells of a terminal. A phone shows about 35 beside each other and breaks
/// longer lines, which leaves nothing of the columns.
const MAX_WIDTH: usize = 44;

/// The longest name of a column that is repeated in each record, in cells of a terminal.
const MAX_LABEL: usize = 30;

/// A cell as plain text, and as what its text was made of.
#[derive(Default)]
pub(super) struct Cell<'a> {
    pub text: String,
    /// With their offsets in the source.
    pub events: Vec<(Event<'a>, Range<usize>)>,
}

impl Cell<'_> {
    pub fn has_text(&self) -> bool {
        !self.text.trim().is_empty()
    }
}

pub(super) struct Table<'a> {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<Cell<'a>>>,
    /// For each open link or image: where it leads and where its text starts in the cell.
    links: Vec<(String, usize)>,
    /// Where the last cell ended in the source.
    end: usize,
}

impl<'a> Table<'a> {
    pub fn new(alignments: Vec<Alignment>) -> Self {
        Self { alignments, rows: Vec::new(), links: Vec::new(), end: 0 }
    }

    /// Takes what is inside the table. `pre` holds no other entities, so in a cell's plain text formatting is left out
    /// and a link is written out behind its text.
    pub fn event(&mut self, event: Event<'a>, range: Range<usize>, source: &'a str) {
        match &event {
            Event::Start(Tag::TableHead | Tag::TableRow) => {
                self.end = range.start;
                return self.rows.push(Vec::new());
            }
            Event::End(TagEnd::TableHead | TagEnd::TableRow) => return self.add_surplus(range.end, source),
            Event::Start(Tag::TableCell) => {
                self.end = self.end.max(range.end);
                if let Some(row) = self.rows.last_mut() {
                    row.push(Cell::default());
                }
                return;
            }
            Event::End(TagEnd::TableCell) => return,
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                let start = self.cell().map_or(0, |cell| cell.text.len());
                self.links.push((dest_url.to_string(), start));
            }
            Event::End(TagEnd::Link | TagEnd::Image) => {
                if let Some((url, start)) = self.links.pop()
                    && let Some(cell) = self.cell()
                    && cell.text[start..] != url
                {
                    cell.text.push_str(&format!(" ({url})"));
                }
            }
            Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) | Event::Html(text) => {
                let text = if is_line_break(&event) { " ".to_owned() } else { text.replace(['\n', '\t'], " ") };
                if let Some(cell) = self.cell() {
                    cell.text.push_str(&text);
                }
            }
            _ => {}
        }
        if let Some(cell) = self.cell() {
            cell.events.push((event, range));
        }
    }

    fn cell(&mut self) -> Option<&mut Cell<'a>> {
        self.rows.last_mut()?.last_mut()
    }

    /// A row may have more cells than the table has columns: they are no part of it, but something that was said.
    fn add_surplus(&mut self, end: usize, source: &'a str) {
        let surplus =
            source.get(self.end..end).unwrap_or_default().trim_matches(|c: char| c == '|' || c.is_whitespace());
        if !surplus.is_empty()
            && let Some(row) = self.rows.last_mut()
        {
            let events = vec![(Event::Text(surplus.into()), 0..0)];
            row.push(Cell { text: surplus.replace('\t', " "), events });
        }
    }

    /// The columns' names and the rows below, if the table is too wide to be shown as one.
    pub fn records(self) -> Result<(Vec<String>, Vec<Vec<Cell<'a>>>), Self> {
        let widths = self.widths(usize::MAX);
        let width = widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
        let labels: Vec<_> = self.rows.first().into_iter().flatten().map(|cell| cell.text.trim().to_owned()).collect();
        // Of a column in which nothing stands, its name would be lost.
        let is_used = |column: usize| self.rows[1..].iter().any(|row| row.get(column).is_some_and(Cell::has_text));
        let fits = width <= MAX_WIDTH || labels.len() < 2 || self.rows.len() < 2;
        if fits || labels.iter().enumerate().any(|(column, label)| label.width() > MAX_LABEL || !is_used(column)) {
            return Err(self);
        }
        Ok((labels, self.rows.into_iter().skip(1).collect()))
    }

    fn widths(&self, most: usize) -> Vec<usize> {
        let mut widths = vec![0; self.alignments.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.text.width().min(most));
            }
        }
        widths
    }

    /// The table with a line under its head, columns two spaces apart.
    pub fn text(&self) -> String {
        let widths = self.widths(MAX_COLUMN);
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            let filled = row.iter().rposition(|cell| !cell.text.is_empty()).map_or(0, |last| last + 1);
            for (column, Cell { text, .. }) in row.iter().take(filled).enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let room = width.saturating_sub(text.width());
                let left = match self.alignments.get(column) {
                    Some(Alignment::Right) => room,
                    Some(Alignment::Center) => room / 2,
                    _ => 0,
                };
                if column > 0 {
                    line.push_str("  ");
                }
                line.extend(std::iter::repeat_n(' ', left));
                line.push_str(text);
                line.extend(std::iter::repeat_n(' ', room - left));
            }
            lines.push(line.trim_end().to_owned());
            if index == 0 && self.rows.len() > 1 {
                lines.push(widths.iter().map(|&w| "─".repeat(w)).collect::<Vec<_>>().join("  "));
            }
        }
        lines.join("\n")
    }
}

/// Whether it is `<br>`, the one way to break a line in a cell.
pub(super) fn is_line_break(event: &Event<'_>) -> bool {
    let Event::InlineHtml(html) = event else { return false };
    let tag = html.trim_start_matches('<').trim_end_matches('>').trim_end_matches('/').trim_end();
    tag.eq_ignore_ascii_case("br")
}
