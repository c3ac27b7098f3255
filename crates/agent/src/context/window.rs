//! What of a conversation fits, decided by sizes alone.
//!
//! A tool call and its results stand or fall together, so what is left out always ends where a turn begins.

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
    /// What comes on top of it, in bytes: tool calls, names, punctuation.
    pub rest: usize,
}

impl Piece {
    /// All of it.
    pub fn bytes(&self) -> usize {
        self.text + self.rest
    }
}

/// All of them, in bytes.
pub fn total(pieces: &[Piece]) -> usize {
    pieces.iter().map(Piece::bytes).sum()
}

/// Where the part begins that stays word for word when what is before becomes a summary: at least `keep` messages, fewer
/// only where they are larger than `max_bytes`, and never less than the last turn. 0: there is nothing before it.
pub fn cut(pieces: &[Piece], keep: usize, max_bytes: usize) -> usize {
    let starts: Vec<usize> = (0..pieces.len()).filter(|at| pieces[*at].begins_turn).collect();
    let wanted = pieces.len().saturating_sub(keep);
    let at = starts.partition_point(|start| *start <= wanted).saturating_sub(1);
    let small_enough = |start: &&usize| total(&pieces[**start..]) <= max_bytes;
    let fitting = starts.get(at..).and_then(|starts| starts.iter().find(small_enough));
    fitting.or(starts.last()).copied().unwrap_or(0)
}

/// How a conversation is made to fit.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Fit {
    /// The first message that is sent.
    pub from: usize,
    /// Messages whose text is shortened, with the bytes that remain.
    pub shorten: Vec<(usize, usize)>,
}

/// Makes a conversation fit into `max_bytes`, taking the least that is missed first: old turns' tool results, old turns, the
/// last turn's older tool results, its newest ones, and only then what somebody said.
pub fn fit(pieces: &[Piece], max_bytes: usize) -> Fit {
    let mut fit = Fit { from: pieces.iter().position(|piece| piece.begins_turn).unwrap_or(0), shorten: Vec::new() };
    let mut left = Left { bytes: total(&pieces[fit.from..]), max: max_bytes };
    let last_turn = pieces.iter().rposition(|piece| piece.begins_turn).unwrap_or(0);
    // Results that the model has not yet seen.
    let newest = pieces.iter().rposition(|piece| piece.speaker != Speaker::Tool).map_or(0, |at| at + 1);

    left.shorten(pieces, fit.from..last_turn, Speaker::Tool, SHORT_RESULT, &mut fit.shorten);
    while left.is_too_much() && fit.from < last_turn {
        let next = (fit.from + 1..=last_turn).find(|at| pieces[*at].begins_turn).unwrap_or(last_turn);
        // What was shortened counts as what is left of it.
        let here = fit.shorten.iter().filter(|(at, _)| (fit.from..next).contains(at));
        let saved: usize = here.map(|(at, bytes)| pieces[*at].text - bytes).sum();
        left.bytes -= total(&pieces[fit.from..next]) - saved;
        fit.from = next;
    }
    fit.shorten.retain(|(at, _)| *at >= fit.from);
    left.shorten(pieces, fit.from.max(last_turn)..newest, Speaker::Tool, SHORT_RESULT, &mut fit.shorten);
    if newest < pieces.len() && left.is_too_much() {
        let others = left.bytes - pieces[newest..].iter().map(|piece| piece.text).sum::<usize>();
        let share = max_bytes.saturating_sub(others) / (pieces.len() - newest);
        left.shorten(pieces, newest..pieces.len(), Speaker::Tool, share.max(SHORT_RESULT), &mut fit.shorten);
    }
    for speaker in [Speaker::Assistant, Speaker::User] {
        left.shorten(pieces, fit.from..pieces.len(), speaker, SHORT_TEXT, &mut fit.shorten);
    }
    fit.shorten.sort_unstable();
    fit
}

struct Left {
    bytes: usize,
    max: usize,
}

impl Left {
    fn is_too_much(&self) -> bool {
        self.bytes > self.max
    }

    fn shorten(
        &mut self,
        pieces: &[Piece],
        range: std::ops::Range<usize>,
        speaker: Speaker,
        to: usize,
        shortened: &mut Vec<(usize, usize)>,
    ) {
        for at in range {
            if !self.is_too_much() {
                return;
            }
            if pieces[at].speaker == speaker && pieces[at].text > to {
                self.bytes -= pieces[at].text - to;
                shortened.push((at, to));
            }
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
        Piece { speaker, begins_turn: letter == 'u', text, rest: 0 }
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
    fn what_is_kept_is_bounded_but_never_less_than_a_turn() {
        let talk = pieces("uauattaua", 10);
        assert_eq!(cut(&talk, 9, 80), 2);
        assert_eq!(cut(&talk, 9, 30), 7);
        assert_eq!(cut(&talk, 9, 5), 7);
        assert_eq!(cut(&pieces("aatt", 10), 1, 5), 0);
        assert_eq!(cut(&[], 20, 5), 0);
    }

    #[test]
    fn what_fits_stays_as_it_is_but_begins_with_a_turn() {
        assert_eq!(fit(&pieces("uattaua", 10), 70), Fit::default());
        assert_eq!(fit(&pieces("ttaua", 10), 70), Fit { from: 3, shorten: vec![] });
        assert_eq!(fit(&[], 70), Fit::default());
    }

    #[test]
    fn old_results_go_first_then_old_turns() {
        let mut talk = pieces("uataua", 100);
        talk[2].text = 5_000;
        assert_eq!(fit(&talk, 2_000), Fit { from: 0, shorten: vec![(2, SHORT_RESULT)] });
        assert_eq!(fit(&talk, 1_000), Fit { from: 4, shorten: vec![] });
    }

    #[test]
    fn a_turn_larger_than_everything_loses_its_older_results_first_and_keeps_every_message() {
        let mut talk = pieces("uaauattatt", 100);
        for at in [5, 6, 8, 9] {
            talk[at].text = 10_000;
        }
        let shorter = fit(&talk, 22_500);
        assert_eq!(shorter, Fit { from: 3, shorten: vec![(5, SHORT_RESULT), (6, SHORT_RESULT)] });
        let shortest = fit(&talk, 8_000);
        let share = (8_000 - 300 - 2 * SHORT_RESULT) / 2;
        assert_eq!(shortest.shorten, [(5, SHORT_RESULT), (6, SHORT_RESULT), (8, share), (9, share)]);
    }

    #[test]
    fn a_message_larger_than_everything_is_shortened_itself() {
        let mut talk = pieces("uau", 100);
        talk[2].text = 1_000_000;
        assert_eq!(fit(&talk, 10_000), Fit { from: 2, shorten: vec![(2, SHORT_TEXT)] });
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
