//! Text as it grows: where lines break, and what stands before the text that comes next.

use reqwest::Url;

/// Deepest quote that is shown; what is quoted deeper is shown at this depth.
pub(super) const MAX_DEPTH: usize = 8;
/// Longest address of a link that is shown, in bytes; of longer ones only the text is.
pub(super) const MAX_LINK: usize = 500;
/// Most column separators that are written before one cell.
const MAX_SEPARATORS: usize = 20;

/// A link that is open: its text begins at `start`, once there is any.
struct Link {
    start: Option<usize>,
    href: String,
}

/// Markdown that is being written.
#[derive(Default)]
pub(super) struct Layout {
    text: String,
    characters: usize,
    limit: usize,
    link: Option<Link>,
    /// Line breaks before the next text: 0, 1 or 2.
    breaks: usize,
    space: bool,
    /// Column separators before the next text.
    separators: usize,
    /// What the next text's line begins with, such as `- ` or `## `.
    marker: String,
    quotes: usize,
    preformatted: bool,
    in_cell: bool,
}

impl Layout {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    pub(super) fn is_full(&self) -> bool {
        self.characters >= self.limit
    }

    pub(super) fn is_preformatted(&self) -> bool {
        self.preformatted
    }

    /// Writes text: as it is where it is preformatted, else with every run of white space as one space.
    pub(super) fn write(&mut self, text: &str) {
        for c in text.chars() {
            if self.is_full() {
                return;
            }
            if self.preformatted && matches!(c, '\n' | '\t' | ' ') {
                self.begin();
                self.put(c);
            } else if c.is_whitespace() {
                self.space = true;
            } else if is_visible(c) {
                self.begin();
                self.put(c);
            }
        }
    }

    /// Asks for lines before the next text; inside a link or a table's cell there is only room for a space.
    pub(super) fn block(&mut self, lines: usize) {
        if self.link.is_some() || self.in_cell {
            self.space = true;
        } else if self.preformatted && lines == 1 {
            self.put('\n');
        } else if self.marker.is_empty() || self.breaks == 0 {
            // Between an item's marker and its first paragraph there is no line.
            self.breaks = self.breaks.max(lines);
        }
    }

    /// The next text is a heading.
    pub(super) fn heading(&mut self, level: u8) {
        self.in_cell = false;
        self.block(2);
        self.mark("#".repeat(level.into()) + " ");
    }

    /// The next text is an item of a list, whose first item stands apart from what is before it.
    pub(super) fn item(&mut self, marker: String, first: bool) {
        self.in_cell = false;
        self.block(1);
        if self.link.is_none() {
            // Paragraphs inside items do not spread the list.
            self.breaks = if first { 2 } else { 1 };
        }
        self.mark(marker);
    }

    fn mark(&mut self, marker: String) {
        // The line is the link's own.
        self.marker = if self.link.is_some() { String::new() } else { marker };
    }

    /// A heading or an item ends; if it was empty, it marks nothing.
    pub(super) fn end_marked(&mut self, lines: usize) {
        self.marker.clear();
        self.block(lines);
    }

    pub(super) fn begin_quote(&mut self) {
        self.block(2);
        self.quotes += 1;
    }

    pub(super) fn end_quote(&mut self) {
        self.block(2);
        self.quotes = self.quotes.saturating_sub(1);
    }

    /// Begins or ends preformatted text.
    pub(super) fn fence(&mut self, open: bool) {
        if self.preformatted == open || (open && self.link.is_some()) {
            return;
        }
        self.preformatted = false;
        self.in_cell = false;
        self.block(if open { 2 } else { 1 });
        self.write("```");
        self.preformatted = open;
        self.block(if open { 1 } else { 2 });
    }

    /// A row begins or ends, or the table does.
    pub(super) fn row(&mut self, lines: usize) {
        self.in_cell = false;
        self.separators = 0;
        self.block(lines);
    }

    pub(super) fn cell(&mut self) {
        self.separators += usize::from(self.in_cell);
        self.in_cell = true;
    }

    pub(super) fn begin_link(&mut self, href: String) {
        self.link = (!href.is_empty()).then_some(Link { start: None, href });
    }

    /// Ends a link; its address is shown where it has text and leads to another page.
    pub(super) fn end_link(&mut self, base: &Url) {
        let Some((start, href)) = self.link.take().and_then(|link| Some((link.start?, link.href))) else {
            return;
        };
        let target = if href.starts_with('#') { None } else { base.join(&href).ok() };
        let shown = |url: &Url| ["http", "https"].contains(&url.scheme()) && url.as_str().len() <= MAX_LINK;
        if let Some(target) = target.filter(shown) {
            // Only this link's own text moves.
            self.text.insert(start, '[');
            self.characters += 1;
            self.put_all(&format!("]({target})"));
        }
    }

    /// Writes what is owed before text: lines, quote marks, a marker, separators, a space.
    fn begin(&mut self) {
        let (breaks, space) = (std::mem::take(&mut self.breaks), std::mem::take(&mut self.space));
        let separators = std::mem::take(&mut self.separators).min(MAX_SEPARATORS);
        if self.text.is_empty() || breaks > 0 {
            if !self.text.is_empty() {
                (0..breaks).for_each(|_| self.put('\n'));
            }
            (0..self.quotes.min(MAX_DEPTH)).for_each(|_| self.put_all("> "));
            let marker = std::mem::take(&mut self.marker);
            self.put_all(&marker);
        } else if separators == 0 && space && !self.text.ends_with(char::is_whitespace) {
            self.put(' ');
        }
        (0..separators).for_each(|_| self.put_all(" | "));
        if let Some(link) = &mut self.link {
            link.start.get_or_insert(self.text.len());
        }
    }

    fn put_all(&mut self, text: &str) {
        text.chars().for_each(|c| self.put(c));
    }

    fn put(&mut self, c: char) {
        self.text.push(c);
        self.characters += 1;
    }

    /// The text, without space around it.
    pub(super) fn finish(mut self) -> String {
        if self.preformatted {
            self.text.push_str("\n```");
        }
        self.text.trim().to_owned()
    }
}

/// Whether a reader would see a character: those that only machines read carry what the page's reader must not know.
pub(super) fn is_visible(c: char) -> bool {
    let invisible = matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    !invisible && !c.is_control()
}
