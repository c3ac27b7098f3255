//! Writes text while entities open and close around it.

use super::{Entity, EntityKind, Formatted, is_allowed, split, utf16_len};

/// The deepest indentation of nested lists, in spaces: deeper levels would leave no room on a phone, and ten thousand
/// of them would make the text quadratic.
const MAX_INDENT: usize = 12;

/// An entity that was opened and not yet closed.
struct Open {
    kind: EntityKind,
    url: Option<String>,
    /// The UTF-16 offset of its first character, once that was written.
    start: Option<usize>,
}

/// Text in the making. Line breaks are held back until something follows them, so that no entity begins or ends with
/// one; entities begin with the first character written after they were opened.
#[derive(Default)]
pub(super) struct Writer {
    text: String,
    /// The text's length in UTF-16 units.
    units: usize,
    entities: Vec<Entity>,
    /// At most one of each kind, outermost first.
    open: Vec<Open>,
    /// For each `open` call not yet closed: whether it opened an entity.
    nesting: Vec<bool>,
    /// Line breaks to write before the next character.
    newlines: usize,
    /// Whether the next line is already where it should be, however much space its block asks for.
    placed: bool,
    /// What each open list item added to the indentation.
    indents: Vec<usize>,
    indent: usize,
    /// The bullet or number of the item that has no text yet.
    marker: Option<String>,
}

impl Writer {
    /// The length of the text so far in bytes: a mark for [`Writer::since`].
    pub fn mark(&self) -> usize {
        self.text.len()
    }

    /// What was written since a mark, without white space around it.
    pub fn since(&self, mark: usize) -> &str {
        self.text[mark..].trim()
    }

    pub fn is_open(&self, kind: EntityKind) -> bool {
        self.open.iter().any(|open| open.kind == kind)
    }

    /// Opens an entity; inside one of its own kind it adds nothing, because Telegram has no use for bold in bold and
    /// refuses a quote in a quote.
    pub fn open(&mut self, kind: EntityKind, url: Option<String>) {
        let opens = !self.is_open(kind);
        if opens {
            self.open.push(Open { kind, url, start: None });
        }
        self.nesting.push(opens);
    }

    /// Closes what the last [`Writer::open`] opened.
    pub fn close(&mut self) {
        if self.nesting.pop() == Some(true)
            && let Some(open) = self.open.pop()
        {
            self.emit(open.kind, open.start, open.url, None);
        }
    }

    /// Asks for at least `newlines` line breaks before what comes next. The first block of a list item stays beside
    /// the item's marker.
    pub fn separate(&mut self, newlines: usize) {
        if self.marker.is_none() && !self.placed {
            self.newlines = self.newlines.max(newlines);
        }
    }

    /// Puts what comes next on a line of its own, even in a list item that has only its marker yet.
    pub fn own_line(&mut self) {
        let beside_marker = self.marker.is_some();
        if beside_marker {
            self.begin();
        }
        self.separate(1);
        self.placed = beside_marker;
    }

    /// Ends the line; two calls leave an empty line.
    pub fn line_break(&mut self) {
        self.newlines += 1;
    }

    /// Replaces line breaks that are still held back.
    pub fn set_newlines(&mut self, newlines: usize) {
        self.newlines = newlines;
    }

    pub fn start_item(&mut self, marker: String) {
        if self.marker.is_some() {
            self.begin();
        }
        self.start_line(self.indent);
        self.start_entities();
        let width = utf16_len(&marker).min(MAX_INDENT - self.indent);
        self.indent += width;
        self.indents.push(width);
        self.marker = Some(marker);
    }

    /// Shows a check box in place of the item's bullet, or behind its number.
    pub fn set_marker(&mut self, marker: &str) {
        match &mut self.marker {
            Some(old) if old.starts_with(|c: char| c.is_ascii_digit()) => old.push_str(marker),
            Some(old) => *old = marker.to_owned(),
            None => self.write(marker),
        }
    }

    pub fn end_item(&mut self) {
        if self.marker.is_some() {
            self.begin();
        }
        self.indent -= self.indents.pop().unwrap_or(0);
        self.separate(1);
    }

    /// Writes text; its line breaks keep the indentation.
    pub fn write(&mut self, text: &str) {
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.line_break();
            }
            if !line.is_empty() {
                self.begin();
                self.push(line);
            }
        }
    }

    /// Writes `pre` or `code` as it stands. These don't nest with other entities, so the open ones end before it and
    /// begin again behind it.
    pub fn write_code(&mut self, kind: EntityKind, text: &str, language: Option<String>) {
        self.suspend();
        // Spaces before a block of code would show as a crooked first line.
        let indent = if kind == EntityKind::Pre { 0 } else { self.indent };
        self.start_line(indent);
        if let Some(marker) = self.marker.take() {
            self.push(&marker);
        }
        let start = self.units;
        self.push(text);
        self.emit(kind, Some(start), None, language);
    }

    pub fn finish(mut self) -> Formatted {
        while !self.nesting.is_empty() {
            self.close();
        }
        self.entities.sort_by_key(|e| (e.offset, std::cmp::Reverse(e.length), e.kind));
        split::trimmed(Formatted { text: self.text, entities: self.entities })
    }

    fn suspend(&mut self) {
        for index in (0..self.open.len()).rev() {
            let open = &mut self.open[index];
            let (kind, start, url) = (open.kind, open.start.take(), open.url.clone());
            self.emit(kind, start, url, None);
        }
    }

    fn emit(&mut self, kind: EntityKind, start: Option<usize>, url: Option<String>, language: Option<String>) {
        if let Some(offset) = start
            && offset < self.units
        {
            self.entities.push(Entity { kind, offset, length: self.units - offset, url, language });
        }
    }

    fn begin(&mut self) {
        self.start_line(self.indent);
        if let Some(marker) = self.marker.take() {
            self.push(&marker);
        }
        self.start_entities();
    }

    fn start_line(&mut self, indent: usize) {
        self.placed = false;
        let newlines = std::mem::take(&mut self.newlines);
        if newlines > 0 && !self.text.is_empty() {
            self.push(&"\n".repeat(newlines));
            self.push(&" ".repeat(indent));
        }
    }

    fn start_entities(&mut self) {
        for open in &mut self.open {
            open.start.get_or_insert(self.units);
        }
    }

    fn push(&mut self, text: &str) {
        // Character references (`&#1;`) bring back what cleaning the source took out.
        for c in text.chars().filter(|&c| is_allowed(c)) {
            self.text.push(c);
            self.units += c.len_utf16();
        }
    }
}
