//! The end of a paragraph that is still being written.

/// A mark that waits for its counterpart.
struct Open {
    mark: char,
    at: usize,
    /// How many characters of it are unmatched.
    length: usize,
}

/// A paragraph whose open marks are closed, without those that have nothing behind them yet.
pub(super) fn complete(text: &str) -> String {
    let mut scan = Scan { text, open: Vec::new(), counts: [0; 5], end: text.trim_end().len(), tail: String::new() };
    scan.run();
    scan.result()
}

struct Scan<'a> {
    text: &'a str,
    open: Vec<Open>,
    /// How many of `open` there are of each of [`MARKS`].
    counts: [usize; MARKS.len()],
    /// How much of the text is shown.
    end: usize,
    /// What comes behind it before the marks are closed.
    tail: String,
}

/// Characters of which marks are made that come in pairs; `[` has another counterpart.
const MARKS: [char; 5] = ['*', '_', '~', '|', '['];

/// Where more marks are open, they are no markup; closing thousands would take the parser long.
const MAX_OPEN: usize = 16;

impl Scan<'_> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(c) = self.text[at..self.end].chars().next() {
            let run = match c {
                '*' | '_' | '~' | '|' | '`' => self.text[at..self.end].chars().take_while(|&next| next == c).count(),
                _ => 1,
            };
            match c {
                '\\' => {
                    if at + 1 == self.end {
                        return self.end = at;
                    }
                    at += 1 + self.text[at + 1..].chars().next().map_or(0, char::len_utf8);
                }
                '`' => match self.code(at, run) {
                    Some(next) => at = next,
                    None => return,
                },
                '*' | '_' | '~' | '|' => {
                    // At the very end it may become longer, and what it does depends on what follows.
                    if at + run == self.end && (c != '|' || run <= 2) {
                        return self.end = at;
                    }
                    self.mark(c, at, run);
                    at += run;
                }
                // An image begins with it.
                '!' if at + 1 == self.end
                    && self.text[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric()) =>
                {
                    return self.end = at;
                }
                '[' if at + 1 == self.end => {
                    return self.end = at - usize::from(self.text[..at].ends_with('!'));
                }
                '[' => {
                    self.push('[', at, 1);
                    at += 1;
                }
                ']' => match self.bracket(at) {
                    Some(next) => at = next,
                    None => return,
                },
                // A tag or an address in angle brackets.
                '<' if self.text[at + 1..self.end].starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
                    && !self.text[at..self.end].contains(|c: char| c == '>' || c.is_whitespace()) =>
                {
                    return self.end = at;
                }
                // A character reference.
                '&' if self.text[at + 1..self.end].chars().all(|c| c == '#' || c.is_ascii_alphanumeric())
                    && self.end - at <= 32 =>
                {
                    return self.end = at;
                }
                _ => at += c.len_utf8(),
            }
        }
    }

    /// Skips code, or closes it and gives `None`.
    fn code(&mut self, at: usize, run: usize) -> Option<usize> {
        let from = at + run;
        let mut look = from;
        while let Some(found) = self.text[look..self.end].find('`') {
            let start = look + found;
            let length = self.text[start..self.end].bytes().take_while(|&b| b == b'`').count();
            look = start + length;
            if length == run {
                return Some(look);
            }
        }
        let code = self.text[from..self.end].trim_end_matches('`').trim_end();
        self.end = if code.is_empty() { at } else { from + code.len() };
        if !code.is_empty() {
            self.tail = "`".repeat(run);
        }
        None
    }

    fn mark(&mut self, mark: char, at: usize, run: usize) {
        let before = self.text[..at].chars().next_back();
        let after = self.text[at + run..].chars().next();
        let is_space = |c: Option<char>| c.is_none_or(char::is_whitespace);
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let (opens, closes) = match mark {
            '|' if run == 2 => (!is_space(after) && !is_word(before), !is_space(before) && !is_word(after)),
            // One of these is more often "about" than a strikethrough.
            '~' if run != 2 => (false, false),
            '|' => (false, false),
            _ => {
                let is_mark = |c: Option<char>| !is_space(c) && !is_word(c);
                let left = !is_space(after) && (!is_mark(after) || !is_word(before));
                let right = !is_space(before) && (!is_mark(before) || !is_word(after));
                // Within a word it is more often a product or a name than emphasis.
                (left && !(is_word(before) && is_word(after)), right && (mark != '_' || !is_word(after)))
            }
        };
        let mut left = run;
        if closes {
            while left > 0 && self.count(mark) > 0 {
                while self.open.last().is_some_and(|open| open.mark != mark) {
                    self.pop();
                }
                let Some(open) = self.open.last_mut() else { break };
                let matched = left.min(open.length);
                left -= matched;
                open.length -= matched;
                if open.length == 0 {
                    self.pop();
                }
            }
        }
        if opens && left > 0 {
            self.push(mark, at + run - left, left);
        }
    }

    /// Skips what makes a bracket a link, or shows the link's text and gives `None`.
    fn bracket(&mut self, at: usize) -> Option<usize> {
        if self.count('[') == 0 {
            return Some(at + 1);
        }
        while self.open.last().is_some_and(|open| open.mark != '[') {
            self.pop();
        }
        let rest = &self.text[at + 1..self.end];
        let next = match rest.chars().next() {
            // It may go on as a link; the bracket stays open and is dropped with the others.
            None => None,
            Some('(') => match destination(rest) {
                Destination::Ends(length) => Some(at + 1 + length),
                Destination::Open => None,
                Destination::No => Some(at + 1),
            },
            Some('[') => rest.find(']').map(|end| at + 1 + end + 1),
            Some(_) => Some(at + 1),
        };
        match next {
            Some(_) => self.pop(),
            None => self.end = at,
        }
        next
    }

    fn count(&mut self, mark: char) -> usize {
        MARKS.iter().position(|&m| m == mark).map_or(0, |index| self.counts[index])
    }

    fn push(&mut self, mark: char, at: usize, length: usize) {
        if let Some(index) = MARKS.iter().position(|&m| m == mark) {
            self.counts[index] += 1;
        }
        self.open.push(Open { mark, at, length });
    }

    fn pop(&mut self) {
        if let Some(open) = self.open.pop()
            && let Some(index) = MARKS.iter().position(|&m| m == open.mark)
        {
            self.counts[index] -= 1;
        }
    }

    fn result(mut self) -> String {
        let text = self.text;
        if self.open.len() > MAX_OPEN {
            self.open.clear();
        }
        let mut shown = String::with_capacity(self.end + 16);
        let mut written = 0;
        let mut closing = Vec::new();
        for open in &self.open {
            let behind = open.at + open.length;
            let is_empty = self.tail.is_empty() && text.get(behind..self.end).is_none_or(|rest| rest.trim().is_empty());
            if open.mark == '[' {
                // Numbers in brackets are more often notes than links.
                let is_image = text[..open.at].ends_with('!');
                if !is_empty
                    && !is_image
                    && text[behind..].starts_with(|c: char| c.is_ascii_digit() || c.is_whitespace())
                {
                    continue;
                }
            } else if !is_empty {
                closing.push(open);
                continue;
            }
            let from = if open.mark == '[' && text[..open.at].ends_with('!') { open.at - 1 } else { open.at };
            if let Some(piece) = text.get(written..from.min(self.end)) {
                shown.push_str(piece);
            }
            written = behind.max(written);
        }
        if let Some(piece) = text.get(written..self.end) {
            shown.push_str(piece);
        }
        shown.truncate(shown.trim_end().len());
        // A line break, or what would make the marks below plain text.
        if shown.chars().rev().take_while(|&c| c == '\\').count() % 2 == 1 {
            shown.pop();
        }
        shown.push_str(&self.tail);
        for open in closing.into_iter().rev() {
            shown.extend(std::iter::repeat_n(open.mark, open.length));
        }
        shown
    }
}

enum Destination {
    /// Its length with the parentheses.
    Ends(usize),
    /// It is not finished.
    Open,
    /// These are words in parentheses.
    No,
}

/// What stands behind `]`, beginning with `(`.
fn destination(text: &str) -> Destination {
    let mut depth = 0usize;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return Destination::Ends(at + 1);
                }
            }
            c if c.is_whitespace() => {
                let next = text[at..].trim_start().chars().next();
                if next.is_some_and(|c| !matches!(c, '"' | '\'' | '(' | ')')) {
                    return Destination::No;
                }
                // A title; where it ends is no matter as long as it is not finished.
                return match text[at..].rfind(')') {
                    Some(end) => Destination::Ends(at + end + 1),
                    None => Destination::Open,
                };
            }
            _ => {}
        }
    }
    Destination::Open
}
