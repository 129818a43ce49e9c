//! Which stage is named, and in which words.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// A stage with these shares of ten seconds, in percent.
fn stage(name: &str, kind: Kind, [busy, waiting, blocked, paused]: [u32; 4]) -> StageReport {
    let of = |percent: u32| 10 * SECOND * percent / 100;
    StageReport {
        name: name.to_owned(),
        kind,
        workers: 1,
        queue: 3,
        paced: paused > 0,
        items_in: 8,
        items_out: 8,
        counts: Counts::from([8, 0, 0, 0, 0, 0, 0, 0]),
        left: 0,
        busy: of(busy),
        waiting: of(waiting),
        blocked: of(blocked),
        paused: of(paused),
        run: Quantiles::default(),
        most: 1,
        first_failure: None,
    }
}

#[test]
fn the_stage_that_the_others_wait_for_is_named_with_the_reason() {
    let blocking = Kind::Lane(LaneKind::Blocking);
    let source = |busy, blocked| stage("source", Kind::Source, [busy, 0, blocked, 0]);
    let load = |busy, waiting, blocked| stage("load", blocking, [busy, waiting, blocked, 0]);
    let cores = {
        let mut stage = stage("sum", Kind::Lane(LaneKind::Cpu), [90, 10, 0, 0]);
        (stage.workers, stage.busy) = (LaneKind::Cpu.default_workers(), stage.busy * LaneKind::Cpu.default_workers() as u32);
        stage
    };
    for (name, stages, want) in [
        (
            "a stage that is always busy",
            vec![source(1, 90), load(39, 0, 61), stage("transform", blocking, [98, 1, 0, 0])],
            Some(
                "stage 2 `transform`: busy 98 %, its workers waited 100.0 ms for input; `load` was blocked by it 61 % of the time → give it more workers",
            ),
        ),
        (
            "a source",
            vec![source(95, 0), load(30, 70, 0)],
            Some("the `source`: busy 95 % → the stages wait for it: a faster source, or several"),
        ),
        (
            "a rate",
            vec![source(1, 90), stage("call", blocking, [10, 0, 0, 89])],
            Some(
                "stage 1 `call`: held by its rate or its retries 99 %, its workers waited 0 s for input; `source` was blocked by it 90 % of the time → a higher rate",
            ),
        ),
        (
            "a reader",
            vec![source(1, 90), load(20, 0, 80)],
            Some(
                "the reader of the outputs: `load` was blocked by it 80 % of the time → read faster, or add a stage that does the reader's work",
            ),
        ),
        (
            "every core",
            vec![source(1, 0), cores],
            Some(
                "stage 1 `sum`: busy 90 %, its workers waited 1.00 s for input → its workers have all cores: only a cheaper function helps",
            ),
        ),
        ("nobody", vec![source(10, 0), load(20, 80, 0)], None),
        ("no stage at all", vec![], None),
    ] {
        let named = bottleneck(&stages, 10 * SECOND);
        assert_eq!(named.as_ref().map(|named| named.reason.as_str()), want, "{name}");
        if let Some(named) = named {
            assert_eq!(stages.get(named.place).map_or("reader", |stage| stage.name.as_str()), named.name);
        }
    }
}

#[test]
fn a_report_is_a_line_for_each_stage_and_one_for_the_bottleneck() {
    let mut failing = stage("load", Kind::Lane(LaneKind::Blocking), [30, 70, 0, 0]);
    failing.counts.failed = 2;
    failing.first_failure =
        Some(Failure { stage: "load".to_owned(), number: 3, attempts: 2, error: crate::TaskError::new("io", "no such file") });
    let stages = vec![stage("source", Kind::Source, [1, 0, 0, 0]), failing];
    let report = Report {
        bottleneck: bottleneck(&stages, 10 * SECOND),
        stages,
        wall: 10 * SECOND,
        outputs: 8,
        unread: 0,
        failure: None,
        cancelled: false,
    };
    let want = " 0 source       source        8 in, 8 out; busy 1 %, waiting 0 %, blocked 0 %\n \
                1 load         blocking × 1  8 in, 8 out, 2 failed; busy 30 %, waiting 70 %, blocked 0 %; run p50 0 s p95 0 s p99 0 s, at most 1 at once\n   \
                first failure: stage `load`, item 3, after 2 attempts: io: no such file\n\
                bottleneck: none, every stage had time to spare";
    assert_eq!(report.to_string(), want);
    assert!(!report.is_clean());
}
