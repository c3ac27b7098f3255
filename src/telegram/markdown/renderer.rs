//! From CommonMark's events to writes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use pulldown_cmark::{CodeBlockKind, Event, LinkType, Tag, TagEnd};
use reqwest::Url;

use super::spoiler::{self, Mark};
use super::table::{self, Cell, Table};
use super::writer::Writer;
use super::{EntityKind, Formatted};

/// Longer URLs are written as text. Telegram names no limit; browsers agree on about this.
const MAX_URL: usize = 2048;

/// Renders parsed Markdown. `definitions` are the link definitions of the source (`[label]: url`), as span and URL.
pub(super) fn run(
    source: &str,
    events: Vec<(Event<'_>, Range<usize>)>,
    definitions: Vec<(Range<usize>, String)>,
) -> Formatted {
    let mut renderer = Renderer { source, marks: spoiler::find(source, &events), ..Renderer::default() };
    for (event, range) in events {
        renderer.event(event, range);
    }
    // Models list their sources as link definitions; what no link uses would be lost.
    let mut unused: Vec<_> =
        definitions.into_iter().filter(|(_, url)| !renderer.used.contains(url)).map(|(span, _)| span).collect();
    unused.sort_by_key(|span| span.start);
    renderer.writer.separate(2);
    for span in unused {
        renderer.writer.write(source.get(span).unwrap_or_default().trim());
        renderer.writer.separate(1);
    }
    renderer.writer.finish()
}

/// A link or image that was opened: what to add behind it, and where its text starts.
struct Link {
    /// Written where the link has no text.
    fallback: String,
    /// The URL of a link that can't be an entity.
    plain: Option<String>,
    mark: usize,
}

#[derive(Default)]
struct Renderer<'a> {
    source: &'a str,
    writer: Writer,
    marks: HashMap<usize, Mark>,
    /// URLs of the links seen.
    used: HashSet<String>,
    links: Vec<Link>,
    /// The next number of each open list; `None` for bullets.
    lists: Vec<Option<u64>>,
    /// The code block being read, with its language.
    code: Option<(String, Option<String>)>,
    table: Option<Table<'a>>,
}

impl<'a> Renderer<'a> {
    fn event(&mut self, event: Event<'a>, range: Range<usize>) {
        if let Some(table) = &mut self.table
            && event != Event::End(TagEnd::Table)
        {
            if let Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) = &event {
                self.used.insert(dest_url.to_string());
            }
            return table.event(event, range, self.source);
        }
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) => match &mut self.code {
                Some((code, _)) => code.push_str(&text),
                None => self.text(&text, range.start),
            },
            Event::Code(text) => self.inline_code(&text),
            Event::InlineHtml(_) if table::is_line_break(&event) => self.writer.line_break(),
            Event::Html(text) | Event::InlineHtml(text) => self.writer.write(&text),
            Event::SoftBreak | Event::HardBreak => self.writer.line_break(),
            Event::Rule => {
                self.writer.separate(2);
                self.writer.write("──────────");
                self.writer.separate(2);
            }
            Event::TaskListMarker(done) => self.writer.set_marker(if done { "☑ " } else { "☐ " }),
            // Extensions that are not switched on; their text is not lost should they ever be.
            Event::InlineMath(text) | Event::DisplayMath(text) | Event::FootnoteReference(text) => {
                self.writer.write(&text);
            }
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Heading { .. } => {
                self.writer.separate(2);
                self.writer.open(EntityKind::Bold, None);
            }
            Tag::BlockQuote(_) => {
                self.writer.separate(2);
                self.writer.own_line();
                self.writer.open(EntityKind::Blockquote, None);
            }
            Tag::CodeBlock(kind) => {
                let language = match kind {
                    CodeBlockKind::Fenced(info) => {
                        let (language, rest) = split_info(&info);
                        self.writer.separate(2);
                        self.writer.write(rest);
                        language
                    }
                    CodeBlockKind::Indented => None,
                };
                self.code = Some((String::new(), language));
            }
            Tag::List(first) => {
                self.writer.separate(if self.lists.is_empty() { 2 } else { 1 });
                self.lists.push(first);
            }
            Tag::Item => {
                let marker = match self.lists.last_mut() {
                    Some(Some(number)) => {
                        let marker = format!("{number}. ");
                        *number = number.saturating_add(1);
                        marker
                    }
                    _ => "• ".to_owned(),
                };
                self.writer.start_item(marker);
            }
            Tag::Table(alignments) => self.table = Some(Table::new(alignments)),
            Tag::Emphasis => self.writer.open(EntityKind::Italic, None),
            Tag::Strong => self.writer.open(EntityKind::Bold, None),
            Tag::Strikethrough => self.writer.open(EntityKind::Strikethrough, None),
            Tag::Link { link_type, dest_url, .. } => {
                let url = match link_type {
                    LinkType::Email => format!("mailto:{dest_url}"),
                    _ => dest_url.to_string(),
                };
                self.used.insert(dest_url.into_string());
                self.open_link(url, None);
            }
            Tag::Image { dest_url, .. } => {
                self.used.insert(dest_url.to_string());
                self.open_link(dest_url.into_string(), Some("image"));
            }
            _ => self.writer.separate(2),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough => self.writer.close(),
            TagEnd::Heading(_) | TagEnd::BlockQuote(_) => {
                self.writer.close();
                self.writer.separate(2);
            }
            TagEnd::Link | TagEnd::Image => self.close_link(),
            TagEnd::CodeBlock => {
                if let Some((code, language)) = self.code.take() {
                    self.pre(code.trim_end_matches('\n'), language);
                }
            }
            TagEnd::Table => {
                if let Some(table) = self.table.take() {
                    match table.records() {
                        Ok((labels, rows)) => self.records(&labels, rows),
                        Err(table) => self.pre(&table.text(), None),
                    }
                }
            }
            // Its last line brought a line break of its own.
            TagEnd::HtmlBlock => self.writer.set_newlines(2),
            TagEnd::List(_) => {
                self.lists.pop();
                self.writer.separate(if self.lists.is_empty() { 2 } else { 1 });
            }
            TagEnd::Item => self.writer.end_item(),
            _ => self.writer.separate(2),
        }
    }

    fn text(&mut self, text: &str, start: usize) {
        let mut written = 0;
        for (position, _) in text.match_indices("||") {
            let Some(mark) = self.marks.get(&(start + position)) else { continue };
            self.writer.write(&text[written..position]);
            match mark {
                Mark::Open => self.writer.open(EntityKind::Spoiler, None),
                Mark::Close => self.writer.close(),
            }
            written = position + "||".len();
        }
        self.writer.write(&text[written..]);
    }

    /// `code` doesn't nest, so it ends the entities around it for its length. Where that would hurt (a link would break
    /// in two, a spoiler would show, a quote would fall apart) the text stays without being code.
    fn inline_code(&mut self, text: &str) {
        let nested = [EntityKind::TextLink, EntityKind::Spoiler, EntityKind::Blockquote];
        if text.trim().is_empty() || nested.into_iter().any(|kind| self.writer.is_open(kind)) {
            self.writer.write(text);
        } else {
            self.writer.write_code(EntityKind::Code, text, None);
        }
    }

    fn pre(&mut self, text: &str, language: Option<String>) {
        self.writer.separate(2);
        self.writer.own_line();
        if !text.trim().is_empty() {
            self.writer.write_code(EntityKind::Pre, text, language);
        }
        self.writer.separate(2);
    }

    /// A wide table: an item for each row, with a line for each cell that holds something.
    fn records(&mut self, labels: &[String], rows: Vec<Vec<Cell<'a>>>) {
        self.writer.separate(2);
        for row in rows {
            let mut cells = row.into_iter().enumerate().filter(|(_, cell)| cell.has_text()).peekable();
            if cells.peek().is_none() {
                continue;
            }
            self.writer.start_item("• ".to_owned());
            while let Some((column, cell)) = cells.next() {
                if let Some(label) = labels.get(column).filter(|label| !label.is_empty()) {
                    self.writer.write(label.trim_end_matches(':'));
                    self.writer.write(": ");
                }
                // What a row is about is mostly in its first column.
                if column == 0 {
                    self.writer.open(EntityKind::Bold, None);
                }
                for (event, range) in cell.events {
                    self.event(event, range);
                }
                if column == 0 {
                    self.writer.close();
                }
                if cells.peek().is_some() {
                    self.writer.line_break();
                }
            }
            self.writer.end_item();
        }
        self.writer.separate(2);
    }

    fn open_link(&mut self, url: String, fallback: Option<&str>) {
        let link = Link {
            fallback: fallback.unwrap_or(&url).to_owned(),
            plain: (!is_linkable(&url)).then(|| url.clone()),
            mark: self.writer.mark(),
        };
        if link.plain.is_none() {
            self.writer.open(EntityKind::TextLink, Some(url));
        }
        self.links.push(link);
    }

    fn close_link(&mut self) {
        let Some(link) = self.links.pop() else { return };
        if self.writer.since(link.mark).is_empty() {
            self.writer.write(&link.fallback);
        }
        match link.plain {
            None => self.writer.close(),
            Some(url) if url.is_empty() || self.writer.since(link.mark).ends_with(url.as_str()) => {}
            Some(url) => self.writer.write(&format!(" ({url})")),
        }
    }
}

/// Whether Telegram can open the URL; anything else (a relative path, `javascript:`) is shown instead of linked.
fn is_linkable(url: &str) -> bool {
    if url.len() > MAX_URL || url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return false;
    }
    Url::parse(url).is_ok_and(|parsed| match parsed.scheme() {
        "http" | "https" => parsed.has_host(),
        "tg" | "mailto" => true,
        _ => false,
    })
}

/// A fence's info string as the code's language, its first word if that can be one, and what else is to be seen of it:
/// a file's name, or words that a model wrote behind the fence. Attributes (`{1,3}`, `title="x"`) are not.
fn split_info(info: &str) -> (Option<String>, &str) {
    let info = info.trim();
    let end = info.find(|c: char| c.is_whitespace() || matches!(c, ',' | '{' | ':')).unwrap_or(info.len());
    let (word, rest) = info.split_at(end);
    if word.len() > 32 || !word.chars().all(|c| c.is_ascii_alphanumeric() || "+-_#.".contains(c)) {
        return (None, info);
    }
    let rest = rest.trim_start_matches([',', ':']).trim();
    let is_attribute = |word: &str| {
        let pair = word.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
        pair || word.starts_with('{') || word.ends_with('}')
    };
    let rest = if rest.split_whitespace().all(is_attribute) { "" } else { rest };
    ((!word.is_empty()).then(|| word.to_owned()), rest)
}
