//! Two lines at the bottom of a terminal, redrawn in place. The lines are made here; indicatif puts
//! them on the screen.

use std::io;

use clap::builder::styling::{AnsiColor, Style};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    text::{self, columns},
    view::{Snapshot, State, paint},
};

const GREEN: Style = AnsiColor::Green.on_default();
const RED: Style = AnsiColor::Red.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// The widest and the narrowest bar worth drawing.
const BAR_MOST: usize = 32;
const BAR_LEAST: usize = 8;
const NAME_MOST: usize = 24;

/// Two lines on stderr.
#[derive(Clone, Debug)]
pub struct Bar {
    inner: ProgressBar,
    color: bool,
}

impl Bar {
    /// A bar that shows at the first [`draw`](Bar::draw).
    pub fn new(color: bool) -> Self {
        let inner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(20));
        // The template is a constant of ours; if it should ever not parse, indicatif's own style
        // shows the message too.
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            inner.set_style(style);
        }
        Self { inner, color }
    }

    /// Draws this moment, as wide as the terminal is now.
    pub fn draw(&self, snapshot: &Snapshot) {
        let [first, second] = lines(snapshot, terminal_width(), self.color);
        self.inner.set_message(format!("{first}\n{second}"));
    }

    /// Draws these lines, which fit the terminal.
    pub fn show(&self, lines: &[String]) {
        self.inner.set_message(lines.join("\n"));
    }

    /// Writes a line above the bar.
    pub fn message(&self, line: &str) {
        self.suspend(|| eprintln!("{line}"));
    }

    /// Runs something that writes to the terminal, with the bar out of the way.
    pub fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        self.inner.suspend(write)
    }

    /// Takes the bar off the screen.
    pub fn clear(self) {
        self.inner.finish_and_clear();
    }
}

/// The columns that there are now.
pub fn terminal_width() -> usize {
    match rustix::termios::tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 => usize::from(size.ws_col),
        _ => 80,
    }
}

/// The two lines of this moment, neither wider than `width` columns. What does not fit goes piece
/// by piece, the least needed first.
pub fn lines(snapshot: &Snapshot, width: usize, color: bool) -> [String; 2] {
    let (name, name_columns) = shown_name(&snapshot.name);
    // The last column stays free: some terminals wrap as soon as it is written.
    let width = width.saturating_sub(1);
    let indent = 1 + name_columns + 2;
    let head = format!(" {}", paint(color, BOLD, &name));
    let first = first_line(snapshot, width.saturating_sub(indent), color);
    let second = join(second_line(snapshot, color), width.saturating_sub(indent));
    [format!("{head}  {first}"), format!("{:indent$}{second}", "")]
}

/// The job's name without control characters and not too long, and the most columns that it takes
/// (characters beyond ASCII may be wide).
fn shown_name(name: &str) -> (String, usize) {
    let mut shown = String::new();
    let mut columns = 0;
    for c in name.chars().filter(|c| !c.is_control()) {
        columns += if c.is_ascii() { 1 } else { 2 };
        if columns > NAME_MOST {
            shown.push('…');
            return (shown, NAME_MOST + 1);
        }
        shown.push(c);
    }
    (shown, columns)
}

fn first_line(snapshot: &Snapshot, room: usize, color: bool) -> String {
    let mut pieces = vec![match snapshot.total {
        Some(total) => format!("{}/{}", text::count(snapshot.counts.finished()), text::count(total)),
        None => format!("{} done", text::count(snapshot.counts.finished())),
    }];
    // In the order of need: what comes later is dropped first. The times are written before the
    // estimate but needed less.
    let eta = snapshot.eta.map(|eta| format!("ETA {}", text::clock(eta)));
    let times = snapshot.p50.zip(snapshot.p99).map(|(p50, p99)| format!("p50 {} p99 {}", text::short(p50), text::short(p99)));
    let optional = [
        Some((3, text::rate(snapshot.rate_per_s))),
        eta.map(|eta| (5, eta)),
        Some((2, format!("{} active", text::count(snapshot.active)))),
        times.map(|times| (4, times)),
    ];
    let bar_room = if snapshot.total.is_some() { BAR_LEAST + 2 } else { 0 };
    let mut chosen = Vec::new();
    let mut used = columns(&pieces[0]) + bar_room;
    for (place, piece) in optional.into_iter().flatten() {
        if used + 2 + columns(&piece) > room {
            break;
        }
        used += 2 + columns(&piece);
        chosen.push((place, piece));
    }
    chosen.sort_by_key(|(place, _)| *place);
    pieces.extend(chosen.into_iter().map(|(_, piece)| piece));
    let rest = join(pieces, room);
    match snapshot.total {
        Some(total) if columns(&rest) + 2 + BAR_LEAST <= room => {
            let cells = (room - columns(&rest) - 2).min(BAR_MOST);
            format!("{}  {rest}", bar(snapshot.counts.finished(), total, cells, color))
        }
        _ => rest,
    }
}

/// `━━━━━━╸━━━━━`: what is done, a head, what is left.
fn bar(done: u64, total: u64, cells: usize, color: bool) -> String {
    let filled = match total {
        0 => cells,
        total => ((u128::from(done.min(total)) * cells as u128) / u128::from(total)) as usize,
    };
    let head = usize::from(filled < cells);
    let (done, left) = ("━".repeat(filled) + &"╸".repeat(head), "━".repeat(cells - filled - head));
    paint(color, GREEN, &done) + &if left.is_empty() { left } else { paint(color, DIM, &left) }
}

fn second_line(snapshot: &Snapshot, color: bool) -> Vec<String> {
    let mut pieces = vec![paint(color, GREEN, &format!("ok {}", text::count(snapshot.counts.ok)))];
    let failed = format!("failed {}", text::count(snapshot.counts.failures()));
    pieces.push(if snapshot.counts.failures() > 0 { paint(color, RED, &failed) } else { failed });
    if snapshot.retrying > 0 {
        pieces.push(paint(color, YELLOW, &format!("retrying {}", text::count(snapshot.retrying))));
    }
    // A space in front sets a group apart.
    match snapshot.state {
        State::Running => {}
        State::Paused => pieces.push(paint(color, YELLOW, " paused (p goes on)")),
        State::Stopping => pieces.push(paint(color, YELLOW, " stopping")),
    }
    for (reason, waiting) in snapshot.gate.iter().filter(|(_, waiting)| *waiting > 0) {
        pieces.push(format!(" {reason} ({} waiting)", text::count(*waiting)));
    }
    if let Some(slow) = snapshot.slow {
        let slow = format!(" slow: #{} {} attempt {}", slow.seq, text::short(slow.age), slow.attempt);
        pieces.push(paint(color, YELLOW, &slow));
    }
    pieces
}

/// The pieces with two spaces between them, as many from the front as fit.
fn join(pieces: Vec<String>, room: usize) -> String {
    let (mut out, mut used) = (String::new(), 0);
    for piece in pieces {
        let gap = if out.is_empty() { 0 } else { 2 };
        if used + gap + columns(&piece) > room {
            break;
        }
        used += gap + columns(&piece);
        out.extend(std::iter::repeat_n(' ', gap));
        out.push_str(&piece);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{super::view::tests::sample, *};

    #[test]
    fn the_two_lines_look_as_documented() {
        let [first, second] = lines(&sample(), 120, false);
        assert_eq!(first, " prices  ━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━  6,214/10,000  48 active  98.7/s  p50 412ms p99 1.9s  ETA 0:38");
        assert_eq!(second, "         ok 6,180  failed 22  retrying 12   pace 100/s (36 waiting)   slow: #5990 61s attempt 2");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_the_count_stays_longest() {
        for color in [false, true] {
            for width in 0..140 {
                for (index, line) in lines(&sample(), width, color).iter().enumerate() {
                    assert!(columns(line) < width.max(11), "line {index} at {width}: {line}");
                }
            }
        }
        for (width, want) in [
            (100, " prices  ━━━━━━━━━━━━━━━━╸━━━━━━━━━━  6,214/10,000  48 active  98.7/s  p50 412ms p99 1.9s  ETA 0:38"),
            (70, " prices  ━━━━━━━━━━╸━━━━━━  6,214/10,000  48 active  98.7/s  ETA 0:38"),
            (45, " prices  ━━━━━━━━╸━━━━  6,214/10,000  98.7/s"),
            (24, " prices  6,214/10,000"),
        ] {
            assert_eq!(lines(&sample(), width, false)[0], want, "width {width}");
        }
    }

    #[test]
    fn without_a_total_there_is_no_bar() {
        let [first, second] = lines(&Snapshot { total: None, eta: None, slow: None, gate: Vec::new(), ..sample() }, 100, false);
        assert_eq!(first, " prices  6,214 done  48 active  98.7/s  p50 412ms p99 1.9s");
        assert_eq!(second, "         ok 6,180  failed 22  retrying 12");
    }

    #[test]
    fn the_state_is_shown_when_nothing_new_starts() {
        for (state, want) in [(State::Paused, "paused"), (State::Stopping, "stopping")] {
            let [_, second] = lines(&Snapshot { state, ..sample() }, 160, false);
            assert!(second.contains(want), "{second}");
        }
    }

    #[test]
    fn a_bar_fills_from_empty_to_full() {
        for (done, total, want) in [(0, 10, "╸━━━"), (5, 10, "━━╸━"), (10, 10, "━━━━"), (99, 10, "━━━━"), (0, 0, "━━━━"), (9, 10, "━━━╸")]
        {
            assert_eq!(bar(done, total, 4, false), want, "{done}/{total}");
        }
    }

    #[test]
    fn names_cannot_break_the_layout() {
        for name in ["a\nb\u{1b}[31m", "ein ziemlich langer Name für einen Auftrag", "日本語の仕事日本語の仕事日本語"] {
            let [first, _] = lines(&Snapshot { name: name.to_owned(), ..sample() }, 80, false);
            assert!(!first.contains(char::is_control) && columns(&first) < 80, "{first:?}");
        }
    }

    #[test]
    fn colours_are_off_without_a_trace() {
        let [first, second] = lines(&sample(), 120, true);
        assert!(first.contains('\u{1b}') && second.contains('\u{1b}'));
        assert!(!lines(&sample(), 120, false).concat().contains('\u{1b}'));
    }
}
