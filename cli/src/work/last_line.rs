//! The last line that a command writes to standard error, which is the reason of a nack.

/// Bytes of a line that are kept; the rest is cut off.
const LINE_MAX_BYTES: usize = 1_000;
/// Size of a reason; the server cuts reasons off after 1,024 bytes.
const REASON_MAX_BYTES: usize = 1_000;

/// Finds the last line that is not blank in output that arrives in chunks.
#[derive(Debug, Default)]
pub struct LastLine {
    /// The beginning of a line that is not complete yet.
    begun: Vec<u8>,
    /// The last complete line that is not blank.
    last: Vec<u8>,
}

impl LastLine {
    pub fn push(&mut self, chunk: &[u8]) {
        // A carriage return ends a line too: progress bars use it to overwrite a line.
        let mut pieces = chunk.split(|byte| matches!(byte, b'\n' | b'\r'));
        let unfinished = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.add(piece);
            if !self.begun.trim_ascii().is_empty() {
                std::mem::swap(&mut self.last, &mut self.begun);
            }
            self.begun.clear();
        }
        self.add(unfinished);
    }

    fn add(&mut self, piece: &[u8]) {
        let room = LINE_MAX_BYTES.saturating_sub(self.begun.len()).min(piece.len());
        self.begun.extend(piece.iter().take(room));
    }

    /// The line as short text without control characters; `None` if there was none.
    pub fn text(&self) -> Option<String> {
        let line = if self.begun.trim_ascii().is_empty() { &self.last } else { &self.begun };
        let text: String =
            String::from_utf8_lossy(line).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut text = text.trim();
        while text.len() > REASON_MAX_BYTES {
            text = text.get(..text.floor_char_boundary(REASON_MAX_BYTES)).unwrap_or_default();
        }
        (!text.is_empty()).then(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(chunks: &[&[u8]]) -> Option<String> {
        let mut line = LastLine::default();
        for chunk in chunks {
            line.push(chunk);
        }
        line.text()
    }

    #[test]
    fn the_last_line_with_something_in_it_counts() {
        assert_eq!(last(&[]), None);
        assert_eq!(last(&[b" \n\n\t"]), None);
        assert_eq!(last(&[b"one\ntwo\n"]).as_deref(), Some("two"));
        assert_eq!(last(&[b"one\ntw", b"o", b"\n  \r\n"]).as_deref(), Some("two"));
        assert_eq!(last(&[b"one\n", b" half"]).as_deref(), Some("half"));
        assert_eq!(last(&[b" 1%\r 99%\r"]).as_deref(), Some("99%"));
    }

    #[test]
    fn whatever_it_is_it_is_short_text() {
        assert_eq!(last(&[b"a\0b\x1b[31mc\xff\n"]).as_deref(), Some("a b [31mc\u{fffd}"));
        let long = last(&[&[0xff; 5_000], b"x"]).expect("a line");
        assert!(long.len() <= REASON_MAX_BYTES && long.chars().all(|c| c == '\u{fffd}'), "{}", long.len());
        assert_eq!(last(&[&[b'x'; 600], &[b'y'; 600], b"\n"]).expect("a line").len(), LINE_MAX_BYTES);
    }
}
