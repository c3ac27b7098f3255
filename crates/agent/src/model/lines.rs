//! What of a stream of server-sent events is for the parser: lines of `data`, and the empty lines between events.
//!
//! Other fields mean nothing here, unknown ones are to be ignored (WHATWG HTML, 9.2.6), and the parser takes them for
//! errors.

use super::ModelError;

/// Longest line, and longest data of one event, in bytes.
pub(super) const MAX_EVENT: usize = 512 * 1024;
const FIELD: &[u8] = b"data:";
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Passes on some lines of a stream, which comes in pieces cut anywhere; their ends become `\n`.
#[derive(Default)]
pub(super) struct Lines {
    /// The beginning of the line, as long as it may become one of data.
    begun: Vec<u8>,
    /// Whether the line is past its beginning, and if so, whether it is one of data.
    known: Option<bool>,
    /// Bytes of the line.
    line: usize,
    /// Bytes of the event that were passed on, which the parser keeps in memory.
    event: usize,
    /// Not in the first line any more.
    marked: bool,
    /// The last byte was `\r`: a `\n` belongs to the same end of line.
    after_return: bool,
}

impl Lines {
    /// What of the next piece is for the parser.
    ///
    /// # Errors
    /// [`ModelError::TooLong`] for a line or an event without end.
    pub(super) fn keep(&mut self, piece: &[u8]) -> Result<Vec<u8>, ModelError> {
        let mut kept = Vec::with_capacity(piece.len() + FIELD.len());
        for &byte in piece {
            let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => self.end_line(&mut kept),
                _ => self.add(byte, &mut kept),
            }
            if self.line > MAX_EVENT || self.event > MAX_EVENT {
                return Err(ModelError::TooLong);
            }
        }
        Ok(kept)
    }

    fn add(&mut self, byte: u8, kept: &mut Vec<u8>) {
        self.line += 1;
        match self.known {
            Some(false) => {}
            Some(true) => {
                self.event += 1;
                kept.push(byte);
            }
            None => {
                self.begun.push(byte);
                if !self.marked && self.begun == BYTE_ORDER_MARK {
                    self.marked = true;
                    self.begun.clear();
                } else if self.begun == FIELD {
                    self.known = Some(true);
                    self.event += FIELD.len();
                    kept.append(&mut self.begun);
                } else if !FIELD.starts_with(&self.begun) && (self.marked || !BYTE_ORDER_MARK.starts_with(&self.begun))
                {
                    self.known = Some(false);
                }
            }
        }
    }

    fn end_line(&mut self, kept: &mut Vec<u8>) {
        match self.known {
            Some(true) => {
                self.event += 1;
                kept.push(b'\n');
            }
            None if self.begun.is_empty() => {
                self.event = 0;
                kept.push(b'\n');
            }
            _ => {}
        }
        self.begun.clear();
        self.known = None;
        self.line = 0;
        self.marked = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_data_and_empty_lines_are_passed_on_however_the_stream_is_cut() {
        let stream = "\u{feff}data: one\r\nretry: soon\r\nevent: a\nevent: b\n: comment\nno colon\ndata: two\rdat\rdata\r\n\r\n\
                      new: field\n\ndatabase: x\ndata:é\n\n";
        let wanted = "data: one\ndata: two\n\n\ndata:é\n\n";
        for size in 1..=stream.len() {
            let mut lines = Lines::default();
            let kept: Vec<u8> =
                stream.as_bytes().chunks(size).flat_map(|piece| lines.keep(piece).expect("short")).collect();
            assert_eq!(String::from_utf8_lossy(&kept), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn lines_and_events_have_an_end() {
        let mut lines = Lines::default();
        let mut comments =
            (0..10_000).map(|_| lines.keep(": a comment that is about as long as others are\n".as_bytes()));
        assert!(comments.all(|kept| kept == Ok(Vec::new())));
        for endless in ["no end", "data:", "data: one more line\n"] {
            let mut lines = Lines::default();
            assert!((0..MAX_EVENT).any(|_| lines.keep(endless.as_bytes()) == Err(ModelError::TooLong)), "{endless}");
        }
    }
}
