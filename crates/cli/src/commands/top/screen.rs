//! The terminal: a second page that is drawn anew, and given back however this ends; and what its
//! keys mean.

use std::{
    io,
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
};

/// A second page, without cursor, whose lines are not wrapped.
const OPEN: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// The first page again.
const CLOSE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// True while our page is there.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// Page of the terminal that is ours; given back when it is dropped, and before a panic is told.
pub(super) struct TopScreen(());

impl TopScreen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// Those of stdout.
    pub(super) fn open() -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                close();
                before(panic);
            }));
        });
        IS_OPEN.store(true, Ordering::Relaxed);
        let screen = Self(());
        write(OPEN)?;
        Ok(screen)
    }

    /// Draws these lines, from the top.
    ///
    /// # Errors
    /// Those of stdout.
    pub(super) fn draw(&self, lines: &[String]) -> io::Result<()> {
        // Somebody has panicked, and the page is given back.
        if !IS_OPEN.load(Ordering::Relaxed) {
            return Ok(());
        }
        // In one piece, so that no half of it is seen; what stood there is overwritten and then
        // cleared, so that nothing flickers.
        let mut page = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            page.push_str(if at > 0 { "\r\n" } else { "" });
            page.push_str(line);
            page.push_str("\x1b[K");
        }
        page.push_str("\x1b[J");
        write(&page)
    }
}

impl Drop for TopScreen {
    fn drop(&mut self) {
        close();
    }
}

fn close() {
    if IS_OPEN.swap(false, Ordering::Relaxed) {
        let _ = write(CLOSE);
    }
}

#[cfg(not(test))]
fn write(text: &str) -> io::Result<()> {
    use std::io::Write as _;
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Output that a terminal would have got.
#[cfg(test)]
static WRITTEN: std::sync::Mutex<String> = std::sync::Mutex::new(String::new());

#[cfg(test)]
fn write(text: &str) -> io::Result<()> {
    WRITTEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push_str(text);
    Ok(())
}

/// Returns the columns and lines that there are now.
pub(super) fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => (80, 24),
    }
}

/// A key that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Up,
    Down,
    Sort,
    Pause,
}

/// Reads keys from what a terminal sends for them: an arrow is three bytes.
#[derive(Debug, Default)]
pub(super) struct KeyWords {
    /// Bytes of a key that has begun.
    begun: usize,
}

impl KeyWords {
    /// Reads one byte; `None` where it means nothing, or not yet.
    pub(super) fn read(&mut self, byte: char) -> Option<Key> {
        let begun = std::mem::take(&mut self.begun);
        match (begun, byte) {
            (_, '\u{1b}') => self.begun = 1,
            (1, '[' | 'O') => self.begun = 2,
            // Digits of a longer one.
            (2, '0'..='9' | ';') => self.begun = 2,
            (2, 'A') | (0 | 1, 'k') => return Some(Key::Up),
            (2, 'B') | (0 | 1, 'j') => return Some(Key::Down),
            (0 | 1, 'q') => return Some(Key::Quit),
            (0 | 1, 's') => return Some(Key::Sort),
            (0 | 1, 'p') => return Some(Key::Pause),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_terminal_is_given_back_before_a_panic_is_told_and_nothing_is_drawn_after_it() {
        let written = || std::mem::take(&mut *WRITTEN.lock().unwrap());
        let screen = TopScreen::open().unwrap();
        screen.draw(&["a".to_owned(), "b".to_owned()]).unwrap();
        assert_eq!(written(), format!("{OPEN}\x1b[Ha\x1b[K\r\nb\x1b[K\x1b[J"));
        // As of a task that looks, in its own thread.
        assert!(std::thread::spawn(|| panic!("on purpose")).join().is_err());
        assert_eq!(written(), CLOSE);
        screen.draw(&["c".to_owned()]).unwrap();
        drop(screen);
        assert_eq!(written(), "", "it is given back once");
        drop(TopScreen::open().unwrap());
        assert_eq!(written(), format!("{OPEN}{CLOSE}"));
    }

    #[test]
    fn arrows_are_one_key_and_no_others() {
        for (bytes, want) in [
            ("q", vec![Key::Quit]),
            ("\x1b[A\x1b[Bjk", vec![Key::Up, Key::Down, Key::Down, Key::Up]),
            ("\x1bOA", vec![Key::Up]),
            // Page down, delete, an arrow with a modifier, an unknown letter.
            ("\x1b[6~\x1b[3~x", vec![]),
            ("\x1b[1;5As", vec![Key::Up, Key::Sort]),
            ("\x1b\x1b[Ap", vec![Key::Up, Key::Pause]),
            ("\x1bq", vec![Key::Quit]),
        ] {
            let mut words = KeyWords::default();
            let keys: Vec<Key> = bytes.chars().filter_map(|byte| words.read(byte)).collect();
            assert_eq!(keys, want, "{bytes:?}");
        }
    }
}
