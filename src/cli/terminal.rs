//! A terminal that is drawn on and left as it was.

use std::io::{self, Write};

use libc::{STDOUT_FILENO, TIOCGWINSZ, winsize};

/// The terminal behind standard output, in its second screen, without a cursor.
pub(super) struct Screen {
    entered: bool,
}

impl Screen {
    pub(super) fn enter(out: &mut impl Write) -> io::Result<Self> {
        // Alternate screen, cursor off: xterm's, which every terminal of today knows.
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(Self { entered: true })
    }

    /// Replaces what is seen by a text, as much of it as there is room for.
    pub(super) fn draw(&mut self, out: &mut impl Write, text: &str) -> io::Result<()> {
        debug_assert!(self.entered, "drawn on after it was left");
        out.write_all(b"\x1b[H")?;
        out.write_all(fitted(text, size()).as_bytes())?;
        // What was below.
        out.write_all(b"\x1b[J")?;
        out.flush()
    }

    pub(super) fn leave(&mut self, out: &mut impl Write) -> io::Result<()> {
        if std::mem::take(&mut self.entered) {
            out.write_all(LEAVE)?;
            out.flush()?;
        }
        Ok(())
    }
}

/// Cursor on, first screen.
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

impl Drop for Screen {
    /// Where an error led past [`Screen::leave`].
    fn drop(&mut self) {
        // Whoever holds the lock on it is us.
        let _ = self.leave(&mut io::stdout());
    }
}

/// Lines that fit: the last one says how many do not.
fn fitted(text: &str, (columns, rows): (usize, usize)) -> String {
    let all = text.lines().count();
    let keep = if all <= rows { all } else { rows.saturating_sub(1) };
    let more = (all > keep).then(|| format!("… {} more lines", all - keep));
    let lines = text.lines().take(keep).chain(more.as_deref());
    // Erased to its end, each; the last row without a line feed, which would scroll.
    let lines: Vec<String> = lines.map(|line| line.chars().take(columns).chain("\x1b[K".chars()).collect()).collect();
    lines.join("\r\n")
}

/// Columns and rows; those of old where the terminal doesn't tell.
#[expect(unsafe_code, reason = "no crate that is here wraps TIOCGWINSZ")]
fn size() -> (usize, usize) {
    let mut size = winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one `winsize` to the place pointed at, which is ours, and keeps no pointer to it.
    let done = unsafe { libc::ioctl(STDOUT_FILENO, TIOCGWINSZ, std::ptr::from_mut(&mut size)) };
    match (done, usize::from(size.ws_col), usize::from(size.ws_row)) {
        (0, columns @ 1.., rows @ 1..) => (columns, rows),
        _ => (80, 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits() {
        let cases = [
            ("all of it", "ab\ncd", (9, 9), "ab\x1b[K\r\ncd\x1b[K"),
            ("too long", "abcd\nä", (3, 2), "abc\x1b[K\r\nä\x1b[K"),
            ("too many", "a\nb\nc\nd", (20, 3), "a\x1b[K\r\nb\x1b[K\r\n… 2 more lines\x1b[K"),
            ("no room at all", "a\nb", (1, 1), "…\x1b[K"),
        ];
        for (why, text, size, wanted) in cases {
            assert_eq!(fitted(text, size), wanted, "{why}");
        }
    }
}
