//! HTML as text that a model can read: Markdown as far as it helps, with links and without what is not the page.
//!
//! The page is a stranger's. Every parser that builds a tree was measured to need minutes or to overflow its stack on a
//! few megabytes of nested elements; here tokens go straight into text, so time grows with the bytes, memory with the
//! text that is wanted, and nothing nests.

use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use reqwest::Url;

/// Deepest list indent and quote that is shown; what is nested deeper is shown at this depth.
const MAX_DEPTH: usize = 8;
/// Longest address of a link that is shown, in bytes; of longer ones only the text is.
const MAX_LINK: usize = 500;
/// Most column separators that are written before one cell.
const MAX_SEPARATORS: usize = 20;
/// Longest title, in characters.
const MAX_TITLE: usize = 300;

/// Elements whose content is never text of the page. Browsers, too, read them to the end where they are not closed.
const CODE: [&[u8]; 9] =
    [b"script", b"style", b"template", b"iframe", b"noscript", b"noembed", b"noframe", b"noframes", b"textarea"];
/// Elements that are around the text of most pages, not the text; in a page without end tags it is inside them.
const FRAME: [&[u8]; 13] = [
    b"nav",
    b"footer",
    b"aside",
    b"dialog",
    b"button",
    b"select",
    b"datalist",
    b"svg",
    b"math",
    b"object",
    b"canvas",
    b"audio",
    b"video",
];

/// Text of a page.
#[derive(Debug, PartialEq, Eq)]
pub struct Text {
    /// Its title first, as a heading.
    pub text: String,
    /// Whether there was more than the limit.
    pub cut: bool,
}

/// Renders `html`, found at `base`, up to about `limit` characters.
pub fn render(html: &str, base: &Url, limit: usize) -> Text {
    let (rendered, skipped_to_the_end) = run(html, base, limit, true);
    // A `<nav>` that is never closed has swallowed the page.
    if skipped_to_the_end { run(html, base, limit, false).0 } else { rendered }
}

/// The text of a short piece of HTML, such as a search result's description, on one line.
pub fn inline(html: &str) -> String {
    let mut text = String::new();
    let emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: html5gum::Span<()>| -> Option<()> {
        if let CallbackEvent::String { value } = event {
            text.push_str(&String::from_utf8_lossy(value));
        }
        None
    });
    Tokenizer::new_with_emitter(html, emitter).for_each(drop);
    let visible: String = text.chars().filter(|&c| c.is_whitespace() || is_visible(c)).collect();
    visible.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(html: &str, base: &Url, limit: usize, without_frame: bool) -> (Text, bool) {
    let mut page = Page { limit, without_frame, ..Page::new(base) };
    let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: html5gum::Span<()>| -> Option<()> {
        page.on(event);
        page.is_full().then_some(())
    });
    emitter.naively_switch_states(true);
    // The first token says that there is text enough.
    let cut = Tokenizer::new_with_emitter(html, emitter).next().is_some();
    let swallowed = page.skipping.as_ref().is_some_and(|skipping| FRAME.contains(&skipping.name.as_slice()));
    (Text { text: page.finish(), cut }, swallowed && !cut)
}

/// An element that is left out, until it ends.
struct Skipping {
    name: Vec<u8>,
    /// Elements of that name that are open inside it, itself included.
    open: usize,
}

/// A link that is open: its text begins at `start`.
struct Link {
    start: usize,
    href: String,
}

/// Attributes of the start tag that is being read.
#[derive(Default)]
struct Tag {
    name: Vec<u8>,
    attribute: Vec<u8>,
    href: String,
    alt: String,
}

struct Page {
    base: Url,
    limit: usize,
    without_frame: bool,
    title: String,
    in_title: bool,
    text: String,
    characters: usize,
    tag: Tag,
    skipping: Option<Skipping>,
    link: Option<Link>,
    /// Line breaks before the next text: 0, 1 or 2.
    breaks: usize,
    space: bool,
    /// Column separators before the next text.
    separators: usize,
    /// What the next text's line begins with, such as `- ` or `## `.
    marker: String,
    /// The number of the next item for each open list; 0 where they are not numbered.
    lists: Vec<usize>,
    list_begins: bool,
    quotes: usize,
    preformatted: bool,
    in_cell: bool,
}

impl Page {
    fn new(base: &Url) -> Self {
        Self {
            base: base.clone(),
            limit: 0,
            without_frame: true,
            title: String::new(),
            in_title: false,
            text: String::new(),
            characters: 0,
            tag: Tag::default(),
            skipping: None,
            link: None,
            breaks: 0,
            space: false,
            separators: 0,
            marker: String::new(),
            lists: Vec::new(),
            list_begins: false,
            quotes: 0,
            preformatted: false,
            in_cell: false,
        }
    }

    fn is_full(&self) -> bool {
        self.characters >= self.limit
    }

    fn on(&mut self, event: CallbackEvent<'_>) {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.tag = Tag { name: name.to_vec(), ..Tag::default() };
            }
            CallbackEvent::AttributeName { name } => {
                self.tag.attribute.clear();
                // No attribute that counts has a longer name.
                self.tag.attribute.extend_from_slice(&name[..name.len().min(8)]);
            }
            CallbackEvent::AttributeValue { value } => self.attribute(value),
            CallbackEvent::CloseStartTag { self_closing } => self.start(self_closing),
            CallbackEvent::EndTag { name } => self.end(name),
            CallbackEvent::String { value } => self.string(&String::from_utf8_lossy(value)),
            CallbackEvent::Comment { .. } | CallbackEvent::Doctype { .. } | CallbackEvent::Error(_) => {}
        }
    }

    fn attribute(&mut self, value: &[u8]) {
        let field = match (self.tag.name.as_slice(), self.tag.attribute.as_slice()) {
            (b"a" | b"base", b"href") => &mut self.tag.href,
            (b"img", b"alt") => &mut self.tag.alt,
            _ => return,
        };
        if field.is_empty() && value.len() <= MAX_LINK {
            *field = String::from_utf8_lossy(value).trim().to_owned();
        }
    }

    fn start(&mut self, self_closing: bool) {
        let tag = std::mem::take(&mut self.tag);
        let name = tag.name.as_slice();
        if let Some(skipping) = &mut self.skipping {
            skipping.open += usize::from(skipping.name == name);
            return;
        }
        self.in_title = false;
        // Only foreign elements end with `/>`; where others are written so, they are open all the same.
        let empty = self_closing && (name == b"svg" || name == b"math");
        if !empty && (CODE.contains(&name) || (self.without_frame && FRAME.contains(&name))) {
            self.skipping = Some(Skipping { name: tag.name, open: 1 });
            return;
        }
        match name {
            b"title" => self.in_title = self.title.is_empty(),
            b"base" => {
                if let Ok(base) = self.base.join(&tag.href) {
                    self.base = base;
                }
            }
            b"a" => {
                self.end_link();
                self.link = (!tag.href.is_empty()).then_some(Link { start: usize::MAX, href: tag.href });
            }
            b"img" if !tag.alt.is_empty() => self.string(&format!("[image: {}]", tag.alt)),
            b"br" => self.line(1),
            b"hr" => {
                self.block(2);
                self.string("---");
                self.block(2);
            }
            b"ul" | b"ol" => {
                self.list_begins = self.lists.is_empty();
                if self.lists.len() < MAX_DEPTH {
                    self.lists.push(usize::from(name == b"ol"));
                }
            }
            b"li" => self.item(),
            b"blockquote" => {
                self.block(2);
                self.quotes += 1;
            }
            b"pre" => self.fence(true),
            b"code" if !self.preformatted => self.string("`"),
            b"tr" => self.row(),
            b"td" | b"th" => {
                self.separators += usize::from(self.in_cell);
                self.in_cell = true;
            }
            b"table" => {
                self.row();
                self.block(2);
            }
            [b'h', level @ b'1'..=b'6'] => {
                self.in_cell = false;
                self.block(2);
                self.marker = if self.link.is_some() { String::new() } else { heading(level - b'0') };
            }
            _ => self.boundary(name),
        }
    }

    fn end(&mut self, name: &[u8]) {
        if let Some(skipping) = &mut self.skipping {
            skipping.open -= usize::from(skipping.name == name);
            if skipping.open == 0 {
                self.skipping = None;
            }
            return;
        }
        self.in_title = false;
        match name {
            b"a" => self.end_link(),
            b"ul" | b"ol" => {
                self.lists.pop();
                self.marker.clear();
                self.block(if self.lists.is_empty() { 2 } else { 1 });
            }
            b"blockquote" => {
                self.block(2);
                self.quotes = self.quotes.saturating_sub(1);
            }
            [b'h', b'1'..=b'6'] | b"li" => {
                // An empty one marks nothing.
                self.marker.clear();
                self.block(if name == b"li" { 1 } else { 2 });
            }
            b"pre" => self.fence(false),
            b"code" if !self.preformatted => self.string("`"),
            b"tr" | b"table" => {
                self.row();
                self.block(if name == b"table" { 2 } else { 1 });
            }
            _ => self.boundary(name),
        }
    }

    /// Lines before and after an element, by its name.
    fn boundary(&mut self, name: &[u8]) {
        match name {
            b"p" | b"dl" | b"figure" | b"article" | b"section" | b"main" | b"header" | b"form" | b"details" => {
                self.block(2);
            }
            b"div" | b"dt" | b"dd" | b"figcaption" | b"summary" | b"caption" | b"address" | b"fieldset" | b"legend"
            | b"option" | b"label" | b"thead" | b"tbody" | b"body" | b"center" => self.block(1),
            _ => {}
        }
    }

    fn item(&mut self) {
        self.in_cell = false;
        let first = std::mem::take(&mut self.list_begins);
        if self.link.is_some() {
            self.space = true;
            return;
        }
        // Paragraphs inside items do not spread the list.
        self.breaks = if first { 2 } else { 1 };
        let indent = "  ".repeat(self.lists.len().saturating_sub(1));
        self.marker = match self.lists.last_mut() {
            Some(number) if *number > 0 => {
                *number += 1;
                format!("{indent}{}. ", *number - 1)
            }
            _ => format!("{indent}- "),
        };
    }

    fn row(&mut self) {
        self.in_cell = false;
        self.separators = 0;
        self.block(1);
    }

    fn fence(&mut self, open: bool) {
        if self.preformatted == open || (open && self.link.is_some()) {
            return;
        }
        self.preformatted = false;
        self.in_cell = false;
        self.block(if open { 2 } else { 1 });
        self.string("```");
        self.preformatted = open;
        self.block(if open { 1 } else { 2 });
    }

    /// Asks for lines between blocks; inside a link or a table's cell there is only room for a space.
    fn block(&mut self, lines: usize) {
        if self.link.is_some() || self.in_cell {
            self.space = true;
        } else {
            self.line(lines);
        }
    }

    fn line(&mut self, lines: usize) {
        if self.preformatted && lines == 1 {
            self.put('\n');
        } else if self.link.is_some() || self.in_cell {
            self.space = true;
        } else if self.marker.is_empty() || self.breaks == 0 {
            // Between an item's marker and its first paragraph there is no line.
            self.breaks = self.breaks.max(lines);
        }
    }

    fn string(&mut self, text: &str) {
        if self.skipping.is_some() {
            return;
        }
        if self.in_title {
            let room = MAX_TITLE.saturating_sub(self.title.chars().count());
            self.title.extend(text.chars().filter(|&c| c.is_whitespace() || is_visible(c)).take(room));
            return;
        }
        for c in text.chars() {
            if self.is_full() {
                return;
            }
            if self.preformatted && (c == '\n' || c == '\t' || c == ' ') {
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
        if let Some(link) = self.link.as_mut().filter(|link| link.start == usize::MAX) {
            link.start = self.text.len();
        }
    }

    fn end_link(&mut self) {
        let Some(link) = self.link.take().filter(|link| link.start < self.text.len()) else {
            return;
        };
        let here = link.href.starts_with('#');
        let target = self.base.join(&link.href).ok().filter(|url| !here && ["http", "https"].contains(&url.scheme()));
        if let Some(target) = target.filter(|url| url.as_str().len() <= MAX_LINK) {
            // Only this link's own text moves.
            self.text.insert(link.start, '[');
            self.characters += 1;
            self.put_all(&format!("]({target})"));
        }
    }

    fn put_all(&mut self, text: &str) {
        text.chars().for_each(|c| self.put(c));
    }

    fn put(&mut self, c: char) {
        self.text.push(c);
        self.characters += 1;
    }

    fn finish(mut self) -> String {
        self.end_link();
        if self.preformatted {
            self.text.push_str("\n```");
        }
        let title = self.title.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = self.text.trim();
        // Most pages say their title twice.
        let said = text.strip_prefix("# ").and_then(|text| text.lines().next()) == Some(title.as_str());
        if title.is_empty() || said { text.to_owned() } else { format!("# {title}\n\n{text}").trim_end().to_owned() }
    }
}

fn heading(level: u8) -> String {
    format!("{} ", "#".repeat(level.into()))
}

/// Whether a reader would see a character: those that only machines read carry what the page's reader must not know.
fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{ad}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests;
