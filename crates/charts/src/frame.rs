//! What all charts share: size, colours, axes.

use std::fmt::Write as _;

use crate::escape::escape;

/// Width of a chart in its own units. A chart is scaled to the width of its place; a text of 12
/// units can be read from 300 pixels on.
pub(crate) const WIDTH: f64 = 440.0;
/// Height of a chart with axes.
pub(crate) const HEIGHT: f64 = 236.0;
/// Edges of the plot.
pub(crate) const LEFT: f64 = 50.0;
pub(crate) const RIGHT: f64 = WIDTH - 14.0;
pub(crate) const TOP: f64 = 46.0;
pub(crate) const BOTTOM: f64 = HEIGHT - 40.0;

/// Meaning of a colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Tone of what ended well.
    Good,
    /// Tone of what failed.
    Bad,
    /// Neither.
    #[default]
    Plain,
}

impl Tone {
    pub(crate) fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Bad => "bad",
            Tone::Plain => "plain",
        }
    }
}

/// The style sheet of all charts, light and dark; it stands once in the page.
pub const STYLE: &str = "\
.chart{--good:#1a7f4b;--bad:#c4314b;--plain:#2f6fb5;--ink:#24292f;--faint:#5f6873;--line:#d5dae0;\
display:block;width:100%;height:auto;font-family:system-ui,sans-serif;font-size:12px}
@media (prefers-color-scheme:dark){.chart{--good:#46b97d;--bad:#f0708a;--plain:#6cabf0;--ink:#e6e9ed;--faint:#a3acb7;--line:#3a424c}}
.spark{height:24px;margin-top:4px}
.chart text{fill:var(--ink)}
.chart .faint{fill:var(--faint)}
.chart .title{font-weight:600;font-size:14px}
.chart .grid{stroke:var(--line);stroke-width:1}
.chart .good{fill:var(--good)}
.chart .bad{fill:var(--bad)}
.chart .plain{fill:var(--plain)}
.chart .mark{stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3}
";

/// A chart that is being drawn.
pub(crate) struct Frame(String);

impl Frame {
    /// Begins a chart; `says` is what somebody hears who does not see it.
    pub(crate) fn new(height: f64, title: &str, says: &str) -> Self {
        let (title, says) = (escape(title), escape(says));
        Self(format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{title}: {says}\" xmlns=\"http://www.w3.org/2000/svg\">\
             <text class=\"title\" x=\"0\" y=\"14\">{title}</text>",
            short(height)
        ))
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let (x, y, text) = (short(x), short(y), escape(text));
        // Writing to a String cannot fail; so it is in the rest of this file.
        let _ = write!(self.0, "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>");
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(short);
        let _ = write!(self.0, "<line class=\"{class}\" x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>");
    }

    /// Draws a rectangle, with words for who points at it.
    pub(crate) fn bar(&mut self, tone: Tone, (x, y): (f64, f64), (width, height): (f64, f64), says: &str) {
        let ([x, y, width, height], class, says) = ([x, y, width, height].map(short), tone.class(), escape(says));
        let _ = write!(
            self.0,
            "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"><title>{says}</title></rect>"
        );
    }

    /// Draws an area between points that go round it.
    pub(crate) fn area(&mut self, tone: Tone, points: &[(f64, f64)]) {
        let _ = write!(self.0, "<path class=\"{}\" d=\"", tone.class());
        for (place, (x, y)) in points.iter().enumerate() {
            let _ = write!(self.0, "{}{} {}", if place == 0 { "M" } else { "L" }, short(*x), short(*y));
        }
        self.0.push_str("Z\"/>");
    }

    /// Draws what a path goes round, as dark as this share of the colour.
    pub(crate) fn shade(&mut self, share: f64, path: &str) {
        let (class, share) = (Tone::Plain.class(), short(share));
        let _ = write!(self.0, "<path class=\"{class}\" fill-opacity=\"{share}\" d=\"{path}\"/>");
    }

    /// Draws the lines and numbers of the upright axis, and its name.
    pub(crate) fn values(&mut self, ticks: &[f64], name: &str) {
        let top = ticks.last().copied().unwrap_or(1.0);
        for tick in ticks {
            let y = height_of(*tick, top);
            self.line("grid", (LEFT, y), (RIGHT, y));
            self.text(LEFT - 6.0, y + 4.0, "faint", "end", &crate::scale::show_tick(*tick));
        }
        self.text(0.0, 32.0, "faint", "start", name);
    }

    /// Draws the labels of the level axis, where they stand, and its name.
    pub(crate) fn level(&mut self, labels: &[(f64, String)], name: &str) {
        for (x, label) in labels {
            self.line("grid", (*x, BOTTOM), (*x, BOTTOM + 4.0));
            let anchor = if *x > RIGHT - 12.0 { "end" } else { "middle" };
            self.text(if anchor == "end" { RIGHT + 8.0 } else { *x }, BOTTOM + 17.0, "faint", anchor, label);
        }
        self.text(RIGHT, BOTTOM + 34.0, "faint", "end", name);
    }

    /// Names the colours, from the right above the plot.
    pub(crate) fn legend(&mut self, names: &[(&str, Tone)]) {
        let mut x = RIGHT;
        for (name, tone) in names.iter().rev() {
            self.text(x, 32.0, "faint", "end", name);
            x -= name.chars().count() as f64 * 6.6 + 14.0;
            let (left, class) = (short(x), tone.class());
            let _ = write!(self.0, "<rect class=\"{class}\" x=\"{left}\" y=\"23\" width=\"10\" height=\"10\"/>");
            x -= 12.0;
        }
    }

    pub(crate) fn end(mut self) -> String {
        self.0.push_str("</svg>");
        self.0
    }
}

/// Returns how high in the plot a value stands.
pub(crate) fn height_of(value: f64, top: f64) -> f64 {
    BOTTOM - (BOTTOM - TOP) * (value / top).clamp(0.0, 1.0)
}

/// A coordinate with one decimal at most.
pub(crate) fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}
