//! HTML as text that a model can read: Markdown as far as it helps, with links and without what is not the page.
//!
//! The page is a stranger's. Every parser that builds a tree was measured to need minutes or to overflow its stack on a
//! few megabytes of nested elements; here tokens go straight into text, so time grows with the bytes, memory with the
//! text that is wanted, and nothing nests.

mod layout;

use html5gum::Tokenizer;
use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use layout::{Layout, MAX_DEPTH, MAX_LINK, is_visible};
use reqwest::Url;

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
    let mut page = Page {
        base: base.clone(),
        has_base: false,
        without_frame,
        title: String::new(),
        in_title: false,
        layout: Layout::new(limit),
        tag: Tag::default(),
        skipping: None,
        lists: Vec::new(),
        list_begins: false,
    };
    let mut emitter = CallbackEmitter::new(|event: CallbackEvent<'_>, _: html5gum::Span<()>| -> Option<()> {
        page.on(event);
        page.layout.is_full().then_some(())
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
    /// The page itself has said what it is.
    has_base: bool,
    without_frame: bool,
    title: String,
    in_title: bool,
    layout: Layout,
    tag: Tag,
    skipping: Option<Skipping>,
    /// The number of the next item for each open list; 0 where they are not numbered.
    lists: Vec<usize>,
    list_begins: bool,
}

impl Page {
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
            // Only the first counts, as the HTML standard has it; a chain of them would grow with each.
            b"base" if !self.has_base && !tag.href.is_empty() => {
                self.has_base = true;
                if let Ok(base) = self.base.join(&tag.href) {
                    self.base = base;
                }
            }
            b"a" => {
                self.layout.end_link(&self.base);
                self.layout.begin_link(tag.href);
            }
            b"img" if !tag.alt.is_empty() => self.string(&format!("[image: {}]", tag.alt)),
            b"br" => self.layout.block(1),
            b"hr" => {
                self.layout.block(2);
                self.layout.write("---");
                self.layout.block(2);
            }
            b"ul" | b"ol" => {
                self.list_begins = self.lists.is_empty();
                if self.lists.len() < MAX_DEPTH {
                    self.lists.push(usize::from(name == b"ol"));
                }
            }
            b"li" => self.item(),
            b"blockquote" => self.layout.begin_quote(),
            b"pre" => self.layout.fence(true),
            b"code" if !self.layout.is_preformatted() => self.layout.write("`"),
            b"tr" => self.layout.row(1),
            b"td" | b"th" => self.layout.cell(),
            b"table" => self.layout.row(2),
            [b'h', level @ b'1'..=b'6'] => self.layout.heading(level - b'0'),
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
            b"a" => self.layout.end_link(&self.base),
            b"ul" | b"ol" => {
                self.lists.pop();
                self.layout.end_marked(if self.lists.is_empty() { 2 } else { 1 });
            }
            [b'h', b'1'..=b'6'] => self.layout.end_marked(2),
            b"li" => self.layout.end_marked(1),
            b"blockquote" => self.layout.end_quote(),
            b"pre" => self.layout.fence(false),
            b"code" if !self.layout.is_preformatted() => self.layout.write("`"),
            b"tr" => self.layout.row(1),
            b"table" => self.layout.row(2),
            _ => self.boundary(name),
        }
    }

    /// Lines before and after an element, by its name.
    fn boundary(&mut self, name: &[u8]) {
        match name {
            b"p" | b"dl" | b"figure" | b"article" | b"section" | b"main" | b"header" | b"form" | b"details" => {
                self.layout.block(2);
            }
            b"div" | b"dt" | b"dd" | b"figcaption" | b"summary" | b"caption" | b"address" | b"fieldset" | b"legend"
            | b"option" | b"label" | b"thead" | b"tbody" | b"body" | b"center" => self.layout.block(1),
            _ => {}
        }
    }

    fn item(&mut self) {
        let first = std::mem::take(&mut self.list_begins);
        let indent = "  ".repeat(self.lists.len().saturating_sub(1));
        let marker = match self.lists.last_mut() {
            Some(number) if *number > 0 => {
                *number += 1;
                format!("{indent}{}. ", *number - 1)
            }
            _ => format!("{indent}- "),
        };
        self.layout.item(marker, first);
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
        self.layout.write(text);
    }

    fn finish(mut self) -> String {
        self.layout.end_link(&self.base);
        let title = self.title.split_whitespace().collect::<Vec<_>>().join(" ");
        let text = self.layout.finish();
        // Most pages say their title twice.
        let said = text.strip_prefix("# ").and_then(|text| text.lines().next()) == Some(title.as_str());
        if title.is_empty() || said { text } else { format!("# {title}\n\n{text}").trim_end().to_owned() }
    }
}

#[cfg(test)]
mod tests;
