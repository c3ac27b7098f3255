//! Texts as assistants write them, made by a generator that knows what is to be seen of them: it writes down the words of
//! a text and how they look while it writes the Markdown, so its expectations owe nothing to any parser.

use baal::telegram::markdown::EntityKind;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// A text and what is to be seen of it.
#[derive(Debug, Default)]
pub struct Sample {
    pub markdown: String,
    /// In the order in which they are shown, but for those of tables.
    pub shown: Vec<Shown>,
}

/// A word, which occurs once in its text, or the whole of a block of code.
#[derive(Debug, Clone)]
pub struct Shown {
    pub text: String,
    /// The kinds of the entities that cover it; none in tables.
    pub kinds: Option<Vec<EntityKind>>,
    pub url: Option<String>,
    pub language: Option<String>,
}

/// Beginnings of words: scripts of both directions, emoji with joiners, modifiers and flags, combining marks.
const SCRIPTS: [&str; 16] = [
    "word",
    "wörd",
    "naïve",
    "e\u{301}t",
    "слово",
    "λόγος",
    "שלום",
    "مرحبا",
    "日本語",
    "한국",
    "हिन्दी",
    "👩‍👩‍👧",
    "🏳️‍🌈",
    "👍🏽",
    "🇫🇷",
    "x1️⃣",
];

const URLS: [&str; 10] = [
    "https://example.com",
    "https://example.com/a_b_c?q=1&r=%20#top",
    "http://example.com:8080/x*y*z",
    "https://en.wikipedia.org/wiki/Ada_(name)",
    "https://xn--mnchen-3ya.example/~user",
    "https://example.com/ümlaut/日本",
    "tg://resolve?domain=example",
    "mailto:ada@example.com",
    "https://[2001:db8::1]/",
    "https://example.com/!$&',;=:@",
];

const LANGUAGES: [&str; 8] = ["rust", "python", "c++", "c#", "objective-c", "sh", "asp.net", ""];

const CODE_LINES: [&str; 14] = [
    "fn main() {",
    "    let x = *p ** 2; // **not bold**",
    "\tif (a || b) { return `x`; }",
    "# not a heading",
    "> not a quote",
    "- not a list",
    "| not | a table |",
    "|-----|---|",
    "",
    "[not](a link) ![nor](this) <b>this</b> &amp; \\n",
    "SELECT \"quoted\", 'single' FROM t;",
    "~~~",
    "``",
    "print(\"👩‍👩‍👧 שלום\")",
];

/// `count` texts; the same for the same seed.
pub fn samples(seed: u64, count: usize) -> Vec<Sample> {
    (0..count).map(|n| Writer::new(seed.wrapping_add(n as u64)).document()).collect()
}

/// Every text: generated, broken, specified and very long ones.
pub fn all() -> Vec<String> {
    let mut texts: Vec<_> = samples(super::SEED, super::GENERATED).into_iter().map(|sample| sample.markdown).collect();
    texts.extend((0..super::BROKEN).map(|n| broken(super::SEED + n).0));
    texts.extend(specified().into_iter().map(|(markdown, _)| markdown));
    texts.extend(giants());
    texts
}

/// A text with markup broken as by a model that loses the thread, or by one that was stopped. Gives its words that are
/// still whole.
pub fn broken(seed: u64) -> (String, Vec<String>) {
    let Sample { mut markdown, shown } = Writer::new(seed).document();
    let mut rng = StdRng::seed_from_u64(seed ^ 0xB0);
    let spot = |rng: &mut StdRng, text: &str| text.floor_char_boundary(rng.random_range(0..=text.len()));
    for _ in 0..rng.random_range(1..12) {
        let at = spot(&mut rng, &markdown);
        match rng.random_range(0..10) {
            0 => markdown.truncate(at),
            1 => drop(markdown.drain(..at)),
            2 => {
                // A mark is lost.
                if let Some(mark) = markdown[at..].find(['*', '`', '_', '|', '~', ']', '[', '>', '\n', ')']) {
                    markdown.remove(at + mark);
                }
            }
            _ => {
                let marks = [
                    "```",
                    "\n```\n",
                    "**",
                    "*",
                    "_",
                    "`",
                    "|",
                    "||",
                    "[",
                    "](",
                    ")",
                    "\n> ",
                    "\n- ",
                    "~~",
                    "<",
                    "\\",
                    "&",
                    "\n\n",
                    "\n    ",
                    "#",
                    "\n1. ",
                    "\t",
                    "\n---\n",
                    "\n|-|-|\n",
                    "<!--",
                    "\u{200f}",
                ];
                markdown.insert_str(at, marks.choose(&mut rng).unwrap());
            }
        }
    }
    let words = shown.iter().flat_map(|shown| shown.text.split_whitespace());
    let words = words.filter(|word| word.ends_with('·') && markdown.contains(word)).map(str::to_owned).collect();
    (markdown, words)
}

/// Whole texts that are one thing, very long.
pub fn giants() -> Vec<String> {
    let line = |piece: &str| piece.repeat(100_000 / piece.len());
    vec![
        line("word "),
        line("x"),
        line("👩‍👩‍👧"),
        line("שלום "),
        line("**a** "),
        line("`a` "),
        line("*"),
        line("> "),
        line("| a | b "),
        format!("```rust\n{}", line("let x = 1;\n")),
        format!("- {}", line("word ")),
        format!("|a|b|\n|-|-|\n{}", line("|cell|cell|\n")),
    ]
}

/// The examples of CommonMark's specification and of GitHub's tables, task lists and strikethrough, each with the HTML it
/// stands for: the parser's package has them as tests.
pub fn specified() -> Vec<(String, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    // Of this platform: packages of others were never fetched.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    command.args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &platform]);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    let metadata: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let parser = packages.iter().find(|package| package["name"] == "pulldown-cmark").unwrap();
    let tests = std::path::Path::new(parser["manifest_path"].as_str().unwrap()).with_file_name("tests").join("suite");
    let mut examples = Vec::new();
    for file in ["spec.rs", "gfm_table.rs", "gfm_tasklist.rs", "gfm_strikethrough.rs"] {
        let source = std::fs::read_to_string(tests.join(file)).unwrap();
        let literals = |name: &str| {
            let start = format!("let {name} = r##\"");
            let parts: Vec<_> = source.split(start.as_str()).skip(1).map(str::to_owned).collect();
            parts.into_iter().map(|part| part.split("\"##;").next().unwrap_or_default().to_owned())
        };
        examples.extend(literals("original").zip(literals("expected")));
    }
    examples
}

/// Where in the text something is written.
#[derive(Clone, Default)]
struct Around {
    kinds: Vec<EntityKind>,
    url: Option<String>,
    /// What the entities are is not looked at.
    any: bool,
    /// No spoilers, images or links here.
    simple: bool,
}

impl Around {
    fn with(&self, kind: EntityKind) -> Self {
        let mut inner = self.clone();
        inner.kinds.push(kind);
        inner
    }

    fn has(&self, kind: EntityKind) -> bool {
        self.kinds.contains(&kind)
    }
}

struct Writer {
    rng: StdRng,
    words: usize,
    shown: Vec<Shown>,
}

impl Writer {
    fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), words: 0, shown: Vec::new() }
    }

    fn document(mut self) -> Sample {
        let blocks = if self.one_in(20) { self.rng.random_range(20..60) } else { self.rng.random_range(1..9) };
        let markdown = self.blocks(blocks, &Around::default(), 0);
        Sample { markdown, shown: self.shown }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.rng.random_ratio(1, n)
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from.choose(&mut self.rng).copied().unwrap_or_default()
    }

    /// Blocks with empty lines between them.
    fn blocks(&mut self, count: usize, around: &Around, depth: usize) -> String {
        let mut blocks = Vec::new();
        let (mut was_list, mut was_indented) = (false, false);
        for _ in 0..count {
            let kind = self.rng.random_range(0..20);
            // Two lists in a row would be one, as would two pieces of indented code, which after a list is part of it.
            let is_list = (10..14).contains(&kind);
            let block = match kind {
                10..14 if depth < 3 && !was_list => self.list(around, depth),
                14 | 15 => self.fence(),
                16 if !was_list && !was_indented && depth == 0 => self.indented(),
                17 if !around.has(EntityKind::Blockquote) => self.quote(around, depth),
                18 if depth == 0 => self.table(),
                8 if depth == 0 => self.heading(around),
                9 if depth == 0 => "---".into(),
                _ => self.paragraph(around),
            };
            was_list = is_list;
            was_indented = block.starts_with("    ");
            blocks.push(block);
        }
        blocks.join("\n\n")
    }

    fn paragraph(&mut self, around: &Around) -> String {
        let lines = self.rng.random_range(1..4);
        let lines: Vec<_> = (0..lines).map(|_| self.inlines(around, 0)).collect();
        let end = self.pick(&["\n", "  \n", "\\\n"]);
        lines.join(end)
    }

    fn heading(&mut self, around: &Around) -> String {
        let text = self.inlines(&around.with(EntityKind::Bold), 0);
        match self.rng.random_range(0..8) {
            0 => format!("{text}\n==="),
            1 => format!("{text}\n---"),
            level => format!("{} {text}", "#".repeat(level - 1)),
        }
    }

    fn quote(&mut self, around: &Around, depth: usize) -> String {
        let inner = self.rng.random_range(1..3);
        let inner = self.blocks(inner, &around.with(EntityKind::Blockquote), depth + 1);
        let marker = if self.one_in(4) { "> > " } else { "> " };
        prefixed(&inner, marker, marker)
    }

    fn list(&mut self, around: &Around, depth: usize) -> String {
        let ordered = self.one_in(2);
        let bullet = self.pick(&["- ", "* ", "+ "]);
        // Another number than 1 would not end the paragraph of the item around it.
        let first = if depth == 0 { self.rng.random_range(1..1200) } else { 1 };
        let gap = if self.one_in(4) { "\n\n" } else { "\n" };
        let mut items = Vec::new();
        for n in 0..self.rng.random_range(1..6) {
            let marker = if ordered { format!("{}. ", first + n) } else { bullet.to_owned() };
            let task = if self.one_in(8) { self.pick(&["[ ] ", "[x] "]) } else { "" };
            let mut item = format!("{task}{}", self.inlines(around, 0));
            if depth < 3 && self.one_in(3) {
                item = format!("{item}\n{}", self.list(around, depth + 1));
            } else if self.one_in(8) {
                item = format!("{item}\n\n{}", self.fence());
            } else if self.one_in(8) {
                item = format!("{item}\n\n{}", self.paragraph(around));
            }
            items.push(prefixed(&item, &marker, &" ".repeat(marker.len())));
        }
        items.join(gap)
    }

    fn fence(&mut self) -> String {
        let language = self.pick(&LANGUAGES);
        let fence = self.pick(&["```", "````", "~~~~"]);
        let code = self.code();
        self.show_code(&code, language);
        format!("{fence}{language}\n{code}\n{fence}")
    }

    fn indented(&mut self) -> String {
        let code = self.code().replace('\t', "    ");
        self.show_code(&code, "");
        prefixed(&code, "    ", "    ")
    }

    fn show_code(&mut self, code: &str, language: &str) {
        let language = (!language.is_empty()).then(|| language.to_owned());
        self.shown.push(Shown { text: code.into(), kinds: Some(vec![EntityKind::Pre]), url: None, language });
    }

    /// Lines that begin and end with a word of their own.
    fn code(&mut self) -> String {
        let mut lines = vec![self.new_word()];
        for _ in 0..self.rng.random_range(0..12) {
            lines.push(self.pick(&CODE_LINES).to_owned());
        }
        lines.push(self.new_word());
        lines.join("\n")
    }

    /// A table. It may be shown as one or as records with the header's words in each, so of its words it is only asked
    /// that they are there.
    fn table(&mut self) -> String {
        let columns = self.rng.random_range(1..6);
        let longest = self.pick(&["1", "1", "8"]).parse().unwrap_or(1);
        let around = Around { any: true, simple: true, ..Around::default() };
        let mut lines = Vec::new();
        for row in 0..self.rng.random_range(2..8) {
            let cells = (0..columns).map(|column| {
                if row > 0 && column > 0 && self.one_in(6) {
                    return String::new();
                }
                let words = if row == 0 { 1 } else { self.rng.random_range(1..=longest) };
                (0..words).map(|_| self.inline(&around, 1)).collect::<Vec<_>>().join(" ")
            });
            lines.push(format!("| {} |", cells.collect::<Vec<_>>().join(" | ")));
            if row == 0 {
                let rules: Vec<_> = (0..columns).map(|_| self.pick(&["---", ":--", "--:", ":-:"])).collect();
                lines.push(format!("|{}|", rules.join("|")));
            }
        }
        lines.join("\n")
    }

    fn inlines(&mut self, around: &Around, depth: usize) -> String {
        let count = if depth == 0 { self.rng.random_range(1..14) } else { self.rng.random_range(1..4) };
        let pieces: Vec<_> = (0..count).map(|_| self.inline(around, depth)).collect();
        pieces.join(" ")
    }

    fn inline(&mut self, around: &Around, depth: usize) -> String {
        use EntityKind::{Bold, Code, Italic, Spoiler, Strikethrough, TextLink};
        let kind = self.rng.random_range(0..24);
        match kind {
            0 | 1 if depth < 3 && !around.has(Bold) => self.styled(around, depth, Bold, "**"),
            2 if depth < 3 && !around.has(Italic) => self.styled(around, depth, Italic, "*"),
            3 if depth < 3 && !around.has(Italic) && !around.has(Bold) => self.styled(around, depth, Italic, "_"),
            4 if depth < 3 && !around.has(Strikethrough) => self.styled(around, depth, Strikethrough, "~~"),
            5 if depth == 0 && !around.simple && around.kinds.is_empty() => self.styled(around, depth, Spoiler, "||"),
            6 | 7 => {
                let nests = [TextLink, Spoiler, EntityKind::Blockquote].iter().any(|&kind| around.has(kind));
                let around = if nests { around.clone() } else { Around { kinds: vec![Code], ..around.clone() } };
                format!("`{}`", self.word(&around))
            }
            8 | 9 if !around.has(TextLink) && !around.simple => {
                let url = self.pick(&URLS).to_owned();
                let inner = Around { url: Some(url.clone()), ..around.with(TextLink) };
                let text = if kind == 8 { self.inlines(&inner, 2) } else { self.word(&inner) };
                let image = if kind == 9 { "!" } else { "" };
                format!("{image}[{text}]({url})")
            }
            _ => {
                let word = self.word(around);
                let end = self.pick(&["", "", "", ",", ".", "!", "?", ":"]);
                format!("{word}{end}")
            }
        }
    }

    fn styled(&mut self, around: &Around, depth: usize, kind: EntityKind, mark: &str) -> String {
        // Words at both ends: of marks beside marks not even CommonMark makes what one thinks.
        let around = around.with(kind);
        let first = self.word(&around);
        let middle = self.inlines(&around, depth + 1);
        format!("{mark}{first} {middle} {}{mark}", self.word(&around))
    }

    fn word(&mut self, around: &Around) -> String {
        let text = self.new_word();
        let mut kinds = around.kinds.clone();
        kinds.sort();
        let kinds = (!around.any).then_some(kinds);
        self.shown.push(Shown { text: text.clone(), kinds, url: around.url.clone(), language: None });
        text
    }

    /// A word that is part of no other word.
    fn new_word(&mut self) -> String {
        self.words += 1;
        let script = self.pick(&SCRIPTS);
        format!("{script}·{}·", self.words)
    }
}

fn prefixed(text: &str, first: &str, others: &str) -> String {
    let lines = text.split('\n').enumerate();
    let lines = lines.map(|(n, line)| format!("{}{line}", if n == 0 { first } else { others }));
    lines.collect::<Vec<_>>().join("\n")
}
