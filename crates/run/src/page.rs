//! A report as one page of HTML, with its charts. Needs nothing from outside, and runs no script.

use std::{fmt::Write as _, time::Duration};

use longshore_charts::{Bin, Limit, Mark, OverTime, Ranking, Row, STYLE, Series, Spread, Tone, escape};
use longshore_core::{Word, engine::Quantiles};

use crate::{
    report::Report,
    story::{FailureGroup, Story},
    text,
};

/// Most kinds of failures in the chart; samples are there of all that are known.
const BARS: usize = 8;

const HEAD: &str = "<!doctype html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">
<meta name=\"color-scheme\" content=\"light dark\">
<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">
";

const PAGE: &str = "\
:root{color-scheme:light dark}
body{margin:0 auto;max-width:1160px;padding:20px 16px 40px;font:15px/1.45 system-ui,sans-serif;background:#fff;color:#24292f}
h1{font-size:24px;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:17px;margin:28px 0 8px}
code,pre{font:13px/1.45 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap;margin:0}
.about{color:#5f6873;margin:0 0 16px}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:28px 36px;margin:24px 0}
table{border-collapse:collapse}
td,th{text-align:left;vertical-align:top;padding:4px 16px 4px 0;border-bottom:1px solid #d5dae0}
th{font-weight:600;white-space:nowrap}
td.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.samples{width:100%;table-layout:fixed}
.samples .seq{width:72px}
.samples .record{width:32%}
.bad{color:#c4314b}
@media (prefers-color-scheme:dark){body{background:#16191d;color:#e6e9ed}.about{color:#a3acb7}td,th{border-color:#3a424c}.bad{color:#f0708a}}
@media (max-width:520px){.samples,.samples tbody,.samples tr,.samples td{display:block;width:auto}.samples tr:first-child{display:none}\
.samples td{border:0;padding:2px 0}.samples tr{border-bottom:1px solid #8886;padding:6px 0}.samples td.seq,.samples td.record{width:auto}}
";

/// Makes a page of a report. Without a [`Story`] it has no charts.
pub fn page(report: &Report) -> String {
    let name = escape(&report.name);
    // Writing to a String cannot fail; so it is in the rest of this file.
    let mut out = format!("{HEAD}<title>{name} – longshore</title>\n<style>\n{STYLE}{PAGE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n");
    let what = report.story.as_ref().map_or("", |story| story.what.as_str());
    let _ = writeln!(out, "<p class=\"about\"><code>{}</code></p>", escape(what));
    for word in &report.words {
        let _ = writeln!(out, "<p class=\"bad\">{}</p>", escape(word));
    }
    out += &facts(report);
    if let Some(story) = &report.story {
        out += &charts(report, story);
        out += &samples(story);
    }
    out += "</body>\n</html>\n";
    out
}

/// A table of names and what belongs to them.
fn facts(report: &Report) -> String {
    let mut rows = vec![("job", report.job.clone())];
    let outcomes: Vec<String> = report
        .counts
        .by_word()
        .filter(|(word, count)| *count > 0 || *word == Word::Ok)
        .map(|(word, count)| format!("{} {word}", text::count(count)))
        .collect();
    rows.push(("tasks", format!("{}: {}", text::count(report.finished()), outcomes.join(", "))));
    if report.remaining > 0 {
        let least = if report.at_least { "at least " } else { "" };
        rows.push(("not run", format!("{least}{}", text::count(report.remaining))));
    }
    let sittings = if report.sittings > 1 { format!(" in {} sittings", report.sittings) } else { String::new() };
    rows.push(("time", format!("{}{sittings}", text::long(report.wall))));
    rows.push(("speed", text::rate(report.rate_per_s)));
    let pace = report.pace.as_ref().map_or_else(String::new, |pace| format!(", paced at {pace}"));
    rows.push(("at once", format!("{}{pace}", text::count(report.width.into()))));
    let waited: Vec<String> = (report.waited.iter().filter(|(_, share)| *share >= 0.05))
        .map(|(reason, share)| format!("for {} {:.0}% of the time", reason.as_str(), share * 100.0))
        .collect();
    if !waited.is_empty() {
        rows.push(("waited", waited.join(", ")));
    }
    if report.counts.retried > 0 {
        let (retried, ok) = (text::count(report.counts.retried), text::count(report.ok_retried));
        rows.push(("retried", format!("{retried} tasks needed more than one attempt; {ok} of them ended well")));
    }
    if let Some(results) = &report.results {
        rows.push(("results", results.path.display().to_string()));
    }
    let rows = rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{}</td></tr>\n", escape(value)));
    format!("<table>\n{}</table>\n", rows.collect::<String>())
}

fn charts(report: &Report, story: &Story) -> String {
    let stretches = story.stretches();
    let span = story.span().as_secs_f64();
    let run = if report.run.max > Duration::ZERO && story.has_retried && report.sittings <= 1 { report.run } else { quantiles(story) };
    let marked = [("p50", run.p50), ("p90", run.p90), ("p99", run.p99)];
    let spread = Spread {
        title: "Latency".to_owned(),
        axis: "attempts".to_owned(),
        bins: story.times().into_iter().map(|(from, to, count)| Bin { from, to, count }).collect(),
        marks: marked.into_iter().map(|(name, at)| Mark { name: format!("{name} {}", text::precise(at)), at: at.as_secs_f64() }).collect(),
    };
    let series = |name: &str, tone, values: &[f64]| Series { name: name.to_owned(), tone, values: values.to_vec() };
    let throughput = OverTime {
        title: "Throughput over time".to_owned(),
        axis: "tasks per second".to_owned(),
        series: vec![series("ok", Tone::Good, &stretches.ok_per_s), series("failed", Tone::Bad, &stretches.failed_per_s)],
        bucket: stretches.seconds,
        span,
        ends_now: false,
        limit: None,
    };
    let limit =
        (report.width > 0).then(|| Limit { name: format!("{} at most", text::count(report.width.into())), value: f64::from(report.width) });
    let slots = OverTime {
        title: "Slots in use over time".to_owned(),
        axis: "attempts running, on average".to_owned(),
        series: vec![series("running", Tone::Plain, &stretches.running)],
        bucket: stretches.seconds,
        span,
        ends_now: false,
        limit,
    };
    let mut charts = vec![spread.svg(), throughput.svg(), slots.svg()];
    let kinds = story.kinds();
    if !kinds.is_empty() {
        let row = |(name, kind): &(&str, &FailureGroup)| Row { name: (*name).to_owned(), count: kind.count, tone: Tone::Bad };
        let rows = kinds.iter().take(BARS).map(row).collect();
        charts.push(Ranking { title: "Failures by kind (tasks)".to_owned(), rows }.svg());
    }
    let charts: String = charts.iter().map(|chart| format!("<div>{chart}</div>\n")).collect();
    format!("<div class=\"charts\">\n{charts}</div>\n{}{}", percentiles(&run), notes(report, story))
}

fn quantiles(story: &Story) -> Quantiles {
    let [p50, p90, p95, p99] = [0.5, 0.9, 0.95, 0.99].map(|share| story.quantile(share));
    Quantiles { p50, p90, p95, p99, max: story.longest() }
}

fn percentiles(run: &Quantiles) -> String {
    let columns = [("p50", run.p50), ("p90", run.p90), ("p95", run.p95), ("p99", run.p99), ("longest", run.max)];
    let names: String = columns.iter().map(|(name, _)| format!("<th>{name}</th>")).collect();
    let values: String = columns.iter().map(|(_, time)| format!("<td class=\"number\">{}</td>", text::precise(*time))).collect();
    format!("<table>\n<tr><th>run time</th>{names}</tr>\n<tr><td>last attempts</td>{values}</tr>\n</table>\n")
}

/// Says what the charts lack.
fn notes(report: &Report, story: &Story) -> String {
    let mut notes = Vec::new();
    if !story.has_retried && report.counts.retried > 0 {
        notes.push("Of tasks that were tried again only the last attempts are drawn: the journal has no other times.".to_owned());
    }
    if story.missed > 0 {
        notes.push(format!("{} attempts that were followed by another one are not drawn.", text::count(story.missed)));
    }
    if report.sittings > 1 {
        notes.push("The time between sittings is left out; of earlier sittings only last attempts are drawn.".to_owned());
    }
    notes.iter().map(|note| format!("<p class=\"about\">{note}</p>\n")).collect()
}

fn samples(story: &Story) -> String {
    let mut out = String::new();
    for (name, kind) in story.kinds() {
        let (shown, all) = (kind.samples.len() as u64, text::count(kind.count));
        let of = if shown < kind.count { format!("{shown} of {all}") } else { all };
        let _ = writeln!(out, "<h2>{} ({of})</h2>", escape(name));
        out += "<table class=\"samples\">\n<tr><th class=\"seq\">task</th><th class=\"record\">record</th><th>what it said</th></tr>\n";
        for sample in &kind.samples {
            let (record, message) = (escape(&sample.record), escape(&sample.message));
            let seq = sample.seq;
            let _ = writeln!(
                out,
                "<tr><td class=\"seq\">#{seq}</td><td class=\"record\"><code>{record}</code></td><td><pre>{message}</pre></td></tr>"
            );
        }
        out += "</table>\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Failing, TaskEnding};

    const NASTY: &str = "<script>alert('x')</script>\"&\u{1b}[2J";

    fn report() -> Report {
        let mut story = Story::of(format!("echo {NASTY}"));
        for task in 0..100_u64 {
            let ms = Duration::from_millis;
            let word = if task % 10 == 0 { Word::Failed } else { Word::Ok };
            let failing = || Failing { class: NASTY.to_owned(), seq: task, record: NASTY, message: NASTY.to_owned() };
            let failure = word.is_failure().then(failing);
            story.add(&TaskEnding { word, records: 1, started: ms(task * 100), ended: ms(task * 100 + 150), failure });
        }
        let mut report = crate::report::tests::sample();
        report.name = NASTY.to_owned();
        report.words = vec![NASTY.to_owned()];
        report.story = Some(Box::new(story));
        report
    }

    #[test]
    fn nothing_of_a_record_or_a_command_becomes_markup_and_nothing_comes_from_outside() {
        let page = page(&report());
        assert_eq!(page.matches("&lt;script&gt;alert(&#39;x&#39;)").count(), 14, "{page}");
        for bad in ["<script", "\u{1b}", " style=", "<link", "<img", "url(", "@import", " href=", " src=", "NaN", "inf"] {
            assert!(!page.contains(bad), "{bad}: {page}");
        }
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("://"), "{outside}");
    }

    #[test]
    fn a_page_has_four_charts_with_their_units_and_the_tables() {
        let page = page(&report());
        assert_eq!(page.matches("<svg ").count(), 4);
        for text in [
            ">tasks per second<",
            ">attempts running, on average<",
            ">run time of an attempt, logarithmic<",
            ">time since the start<",
            ": 9,962 ok, 38 failed<",
            "<th>p99</th>",
            "(3 of 10)</h2>",
            "#0</td>",
            "default-src 'none'",
        ] {
            assert!(page.contains(text), "{text}: {page}");
        }
        // Every tag that is opened is closed.
        for tag in ["div", "table", "tr", "td", "th", "text", "svg", "pre", "code", "h2"] {
            let opened = page.matches(&format!("<{tag} ")).count() + page.matches(&format!("<{tag}>")).count();
            let closed = page.matches(&format!("</{tag}>")).count();
            assert_eq!(opened, closed, "{tag}");
        }
    }

    #[test]
    fn a_run_of_nothing_has_a_page() {
        let report = Report { story: Some(Box::default()), ..Report::default() };
        let page = page(&report);
        assert!(page.ends_with("</html>\n") && !page.contains("NaN"), "{page}");
    }
}
