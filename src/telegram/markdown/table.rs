//! Tables, which Telegram doesn't have, as aligned monospaced text.

use pulldown_cmark::{Alignment, Event, Tag, TagEnd};
use unicode_width::UnicodeWidthStr;

/// Columns are padded to at most this many cells of a terminal; a longer text pushes its own row only. Without a bound
/// one long cell would be paid for in every row.
const MAX_COLUMN: usize = 40;

pub(super) struct Table {
    alignments: Vec<Alignment>,
    rows: Vec<Vec<String>>,
    /// For each open link or image: where it leads and where its text starts in the cell.
    links: Vec<(String, usize)>,
}

impl Table {
    pub fn new(alignments: Vec<Alignment>) -> Self {
        Self { alignments, rows: Vec::new(), links: Vec::new() }
    }

    /// Takes what is inside the table. `pre` holds no other entities, so formatting is left out and a link is written
    /// out behind its text.
    pub fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(Tag::TableHead | Tag::TableRow) => self.rows.push(Vec::new()),
            Event::Start(Tag::TableCell) => {
                if let Some(row) = self.rows.last_mut() {
                    row.push(String::new());
                }
            }
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                let start = self.cell().map_or(0, |cell| cell.len());
                self.links.push((dest_url.into_string(), start));
            }
            Event::End(TagEnd::Link | TagEnd::Image) => {
                if let Some((url, start)) = self.links.pop()
                    && let Some(cell) = self.cell()
                    && cell[start..] != url
                {
                    cell.push_str(&format!(" ({url})"));
                }
            }
            Event::Text(text) | Event::Code(text) | Event::InlineHtml(text) | Event::Html(text) => {
                if let Some(cell) = self.cell() {
                    cell.push_str(&text.replace(['\n', '\t'], " "));
                }
            }
            _ => {}
        }
    }

    fn cell(&mut self) -> Option<&mut String> {
        self.rows.last_mut()?.last_mut()
    }

    /// The table with a line under its head, columns two spaces apart.
    pub fn text(&self) -> String {
        let mut widths = vec![0; self.alignments.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width().min(MAX_COLUMN));
            }
        }
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        for (index, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            let filled = row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
            for (column, cell) in row.iter().take(filled).enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                let room = width.saturating_sub(cell.width());
                let left = match self.alignments.get(column) {
                    Some(Alignment::Right) => room,
                    Some(Alignment::Center) => room / 2,
                    _ => 0,
                };
                if column > 0 {
                    line.push_str("  ");
                }
                line.extend(std::iter::repeat_n(' ', left));
                line.push_str(cell);
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
