//! What of a conversation fits, decided by sizes alone.
//!
//! A tool call and its results stand or fall together, so what is left out always ends where a turn begins.

use std::ops::Range;

/// Bytes that remain of a tool result that is shortened.
pub const SHORT_RESULT: usize = 800;
/// Bytes that remain of any other text, where nothing else helps.
const SHORT_TEXT: usize = 4_000;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaker {
    /// A person.
    User,
    /// The model, possibly with tool calls.
    Assistant,
    /// A tool.
    Tool,
}

/// A message, by its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Who said it.
    pub speaker: Speaker,
    /// A person began a turn with it: here a conversation may be cut.
    pub begins_turn: bool,
    /// Text, in bytes: what can be shortened.
    pub text: usize,
    /// Arguments of calls, in bytes, that can be left out.
    pub arguments: usize,
    /// What comes on top of it, in bytes: other calls, names, punctuation.
    pub rest: usize,
}

impl Piece {
    /// All of it.
    pub fn bytes(&self) -> usize {
        self.text + self.arguments + self.rest
    }

    /// What it takes where space is short: nobody misses the middle of an old result, or what an old call was given.
    pub fn least(&self) -> usize {
        match self.speaker {
            Speaker::Tool => self.text.min(SHORT_RESULT) + self.rest,
            Speaker::User | Speaker::Assistant => self.text + self.rest,
        }
    }
}

/// All of them where space is short, in bytes.
pub fn least(pieces: &[Piece]) -> usize {
    pieces.iter().map(Piece::least).sum()
}

/// A turn's own messages, in bytes: of the newest results, which the model has not yet seen, all.
pub fn own_bytes(own: &[Piece]) -> usize {
    let newest = newest_results(own);
    least(&own[..newest]) + total(&own[newest..])
}

/// Where the results begin that the model has not yet seen.
fn newest_results(pieces: &[Piece]) -> usize {
    pieces.iter().rposition(|piece| piece.speaker != Speaker::Tool).map_or(0, |at| at + 1)
}

/// What a history may always take of the room, whatever the running turn brings: a part of it.
pub fn share_of_history(room: usize) -> usize {
    room / 4
}

/// All of them, in bytes.
pub fn total(pieces: &[Piece]) -> usize {
    pieces.iter().map(Piece::bytes).sum()
}

/// Where the part of a history begins that stays word for word when what is before becomes a summary: at least `keep`
/// messages, fewer only where they are larger than `max_bytes` even with their results shortened. 0: all of it stays; behind
/// the last one: nothing does.
pub fn cut(pieces: &[Piece], keep: usize, max_bytes: usize) -> usize {
    let starts: Vec<usize> = (0..pieces.len()).filter(|at| pieces[*at].begins_turn).collect();
    let wanted = pieces.len().saturating_sub(keep);
    let at = starts.partition_point(|start| *start <= wanted).saturating_sub(1);
    let small_enough = |start: &&usize| least(&pieces[**start..]) <= max_bytes;
    let fitting = starts.get(at..).and_then(|starts| starts.iter().find(small_enough));
    fitting.copied().unwrap_or(if starts.is_empty() { 0 } else { pieces.len() })
}

/// How a conversation is made to fit.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The first message that is sent.
    pub from: usize,
    /// Messages whose text is shortened, with the bytes that remain.
    pub shorten: Vec<(usize, usize)>,
    /// Messages whose calls lose their long arguments.
    pub without_arguments: Vec<usize>,
}

/// Makes a conversation fit into `max_bytes`, taking the least that is missed first: old turns' tool results, the last turn's
/// older ones, long arguments of calls, old turns beyond their share, the newest results, and only then the other old turns
/// and what somebody said.
pub fn fit(pieces: &[Piece], max_bytes: usize) -> Fit {
    let from = pieces.iter().position(|piece| piece.begins_turn).unwrap_or(0);
    let last_turn = pieces.iter().rposition(|piece| piece.begins_turn).unwrap_or(0);
    let newest = newest_results(pieces);
    let mut fitting = Fitting {
        now: pieces.to_vec(),
        bytes: total(&pieces[from..]),
        max: max_bytes,
        fit: Fit { from, ..Fit::default() },
    };
    fitting.shorten(from..last_turn, Speaker::Tool, SHORT_RESULT);
    fitting.shorten(last_turn..newest, Speaker::Tool, SHORT_RESULT);
    // The newest calls are the last message before their results.
    fitting.leave_out_arguments(from..newest.saturating_sub(1));
    fitting.leave_out_turns(last_turn, share_of_history(max_bytes));
    if newest < pieces.len() && fitting.is_too_much() {
        let others = fitting.bytes - pieces[newest..].iter().map(|piece| piece.text).sum::<usize>();
        let share = max_bytes.saturating_sub(others) / (pieces.len() - newest);
        fitting.shorten(newest..pieces.len(), Speaker::Tool, share.max(SHORT_RESULT));
    }
    fitting.leave_out_turns(last_turn, 0);
    fitting.leave_out_arguments(fitting.fit.from..pieces.len());
    for speaker in [Speaker::Assistant, Speaker::User] {
        fitting.shorten(fitting.fit.from..pieces.len(), speaker, SHORT_TEXT);
    }
    let mut fit = fitting.fit;
    fit.shorten.retain(|(at, _)| *at >= fit.from);
    fit.shorten.sort_unstable();
    fit.without_arguments.retain(|at| *at >= fit.from);
    fit.without_arguments.sort_unstable();
    fit
}

/// A conversation that is made to fit.
struct Fitting {
    /// The messages as they are by now.
    now: Vec<Piece>,
    bytes: usize,
    max: usize,
    fit: Fit,
}

impl Fitting {
    fn is_too_much(&self) -> bool {
        self.bytes > self.max
    }

    fn shorten(&mut self, range: Range<usize>, speaker: Speaker, to: usize) {
        for at in range {
            if !self.is_too_much() {
                return;
            }
            let piece = &mut self.now[at];
            if piece.speaker == speaker && piece.text > to {
                self.bytes -= piece.text - to;
                piece.text = to;
                self.fit.shorten.push((at, to));
            }
        }
    }

    fn leave_out_arguments(&mut self, range: Range<usize>) {
        for at in range {
            if !self.is_too_much() {
                return;
            }
            let arguments = std::mem::take(&mut self.now[at].arguments);
            if arguments > 0 {
                self.bytes -= arguments;
                self.fit.without_arguments.push(at);
            }
        }
    }

    /// Leaves out old turns as long as they take more than `share` bytes.
    fn leave_out_turns(&mut self, last_turn: usize, share: usize) {
        while self.is_too_much() && self.fit.from < last_turn && total(&self.now[self.fit.from..last_turn]) > share {
            let from = self.fit.from;
            let next = (from + 1..=last_turn).find(|at| self.now[*at].begins_turn).unwrap_or(last_turn);
            self.bytes -= total(&self.now[from..next]);
            self.fit.from = next;
        }
    }
}

/// Beginning and end of a text, with a note between them: at most `max` bytes, where that is room for the note at all.
pub fn shortened(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let note = |left_out: usize| format!("\n[… {left_out} bytes left out here to save space …]\n");
    let room = max.saturating_sub(note(text.len()).len());
    let head = text.floor_char_boundary(room * 2 / 3);
    let tail = text.ceil_char_boundary(text.len() - (room - room * 2 / 3));
    format!("{}{}{}", &text[..head], note(tail - head), &text[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(letter: char, text: usize) -> Piece {
        let speaker = match letter {
            'u' | 's' => Speaker::User,
            'a' => Speaker::Assistant,
            _ => Speaker::Tool,
        };
        Piece { speaker, begins_turn: letter == 'u', text, arguments: 0, rest: 0 }
    }

    /// u: a user's message that begins a turn, s: one that steers, a: an assistant's, t: a tool's result.
    fn pieces(letters: &str, text: usize) -> Vec<Piece> {
        letters.chars().map(|letter| piece(letter, text)).collect()
    }

    #[test]
    fn a_cut_falls_where_a_turn_begins_and_keeps_at_least_what_is_wanted() {
        let talk = pieces("uauattauasaua", 10);
        assert_eq!(cut(&talk, 2, 1_000), 11);
        assert_eq!(cut(&talk, 3, 1_000), 7);
        assert_eq!(cut(&talk, 6, 1_000), 7);
        assert_eq!(cut(&talk, 7, 1_000), 2);
        assert_eq!(cut(&talk, 13, 1_000), 0);
        assert_eq!(cut(&talk, 100, 1_000), 0);
    }

    #[test]
    fn what_is_kept_is_bounded_with_its_results_shortened() {
        let talk = pieces("uauattaua", 10);
        assert_eq!(cut(&talk, 9, 80), 2);
        assert_eq!(cut(&talk, 9, 30), 7);
        assert_eq!(cut(&talk, 9, 5), 9);
        let mut read = talk.clone();
        read[5].text = 50_000;
        assert_eq!(cut(&read, 9, 7 * 10 + SHORT_RESULT), 2);
        assert_eq!(cut(&pieces("aatt", 10), 1, 5), 0);
        assert_eq!(cut(&[], 20, 5), 0);
    }

    #[test]
    fn what_fits_stays_as_it_is_but_begins_with_a_turn() {
        assert_eq!(fit(&pieces("uattaua", 10), 70), Fit::default());
        assert_eq!(fit(&pieces("ttaua", 10), 70), Fit { from: 3, ..Fit::default() });
        assert_eq!(fit(&[], 70), Fit::default());
    }

    #[test]
    fn old_results_go_first_then_old_turns() {
        let mut talk = pieces("uataua", 100);
        talk[2].text = 5_000;
        assert_eq!(fit(&talk, 2_000), Fit { shorten: vec![(2, SHORT_RESULT)], ..Fit::default() });
        assert_eq!(fit(&talk, 1_000), Fit { from: 4, ..Fit::default() });
    }

    #[test]
    fn a_turn_larger_than_everything_loses_its_older_results_first_and_keeps_every_message() {
        let mut talk = pieces("uaauattatt", 100);
        for at in [5, 6, 8, 9] {
            talk[at].text = 10_000;
        }
        let shorter = fit(&talk, 22_500);
        assert_eq!(shorter, Fit { shorten: vec![(5, SHORT_RESULT), (6, SHORT_RESULT)], ..Fit::default() });
        let shortest = fit(&talk, 8_000);
        let share = (8_000 - 600 - 2 * SHORT_RESULT) / 2;
        assert_eq!(shortest.shorten, [(5, SHORT_RESULT), (6, SHORT_RESULT), (8, share), (9, share)]);
    }

    #[test]
    fn what_a_turn_wrote_is_left_out_of_its_older_calls_first() {
        let mut talk = pieces("uauatatatt", 100);
        for at in [3, 5, 7] {
            talk[at].arguments = 15_000;
        }
        assert_eq!(fit(&talk, 32_000), Fit { without_arguments: vec![3], ..Fit::default() });
        assert_eq!(fit(&talk, 16_000), Fit { without_arguments: vec![3, 5], ..Fit::default() });
        let all = fit(&talk, 10_000);
        assert_eq!((all.without_arguments, all.shorten), (vec![3, 5, 7], vec![]));
    }

    #[test]
    fn a_history_that_takes_little_stays_beside_large_results() {
        let mut talk = pieces("uauauauatt", 100);
        for at in [8, 9] {
            talk[at].text = 50_000;
        }
        let share = (80_000 - 800) / 2;
        assert_eq!(fit(&talk, 80_000), Fit { shorten: vec![(8, share), (9, share)], ..Fit::default() });
        assert!(own_bytes(&talk[6..]) > 100_000);
        talk.extend(pieces("a", 100));
        assert!(own_bytes(&talk[6..]) < 2_000, "seen results are old ones");
    }

    #[test]
    fn a_message_larger_than_everything_is_shortened_itself() {
        let mut talk = pieces("uau", 100);
        talk[2].text = 1_000_000;
        assert_eq!(fit(&talk, 10_000), Fit { from: 2, shorten: vec![(2, SHORT_TEXT)], ..Fit::default() });
    }

    #[test]
    fn a_shortened_text_keeps_both_ends_and_its_bound() {
        let text = "ä".repeat(5_000);
        for max in [0, 1, 50, 100, 101, 800, 9_999] {
            let short = shortened(&text, max);
            assert!(short.len() <= max.max(80), "{max}: {}", short.len());
            assert!(max < 200 || (short.starts_with('ä') && short.ends_with('ä')));
        }
        assert_eq!(shortened("whole", 5), "whole");
    }
}
