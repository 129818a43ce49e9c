//! The output as a projection: whatever happens, a file shows each finished task once.

use std::{fs::OpenOptions, io::Read, sync::mpsc::channel};

use longshore_core::{
    Word,
    lane::child::{Exit, Output as Said},
};

use super::*;
use crate::RunErrorKind;
use crate::journal::{
    Begin, Durability, Journal, ResultLine, StateDir, TaskState, file,
    tests::{result, spec, start, state},
};

struct Bench {
    dir: tempfile::TempDir,
    state: StateDir,
    spec: OutputSpec,
}

impl Bench {
    fn new(spec: OutputSpec) -> Self {
        let (dir, state) = state();
        let spec = OutputSpec { file: Some(dir.path().join("out")), ..spec };
        Self { dir, state, spec }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Runs a sitting that finishes these tasks, one turn each; with `-k`, tells what earlier
    /// sittings finished of `known` first.
    fn sit(&self, begin: &Begin, known: &[(u64, u128)], lines: Vec<ResultLine>) -> Result<u64, JobError> {
        let mut job = self.state.begin(&spec("a"), begin)?;
        let output = Output::open(&self.spec, Some(&mut job), *begin == Begin::Fresh, Hooks::default())?;
        let places = known.iter().map(|&(seq, key)| match job.index.state_of(key, 0) {
            TaskState::Finished { at, .. } => (seq, Some(at)),
            other => panic!("{key}: {other:?}"),
        });
        output.feed().put(Item::Skipped(places.collect()));
        let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), Some(output.feed()), |_| {}).unwrap();
        for line in lines {
            journal.starts(vec![start(line.seq, line.key, line.nth, 1)], Box::new(|done| done.unwrap()));
            journal.results(vec![line], Box::new(|done| done.unwrap()));
            journal.flush().unwrap();
        }
        let shown = output.finish(None).unwrap();
        journal.close(None).unwrap();
        Ok(shown)
    }

    /// The numbers of the result lines in the file.
    fn seqs(&self) -> Vec<u64> {
        let text = std::fs::read_to_string(self.out()).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()).collect()
    }
}

fn ok(seq: u64) -> ResultLine {
    result(seq, seq.into(), 0, Word::Ok)
}

fn raw(seq: u64, bytes: &[u8]) -> ResultLine {
    ResultLine { raw: Some(bytes.into()), value: None, ..ok(seq) }
}

#[test]
fn the_output_has_the_very_lines_of_the_journal() {
    let bench = Bench::new(OutputSpec::default());
    assert_eq!(bench.sit(&Begin::Auto, &[], vec![ok(1), result(2, 2, 0, Word::Failed)]).unwrap(), 2);
    let journal = std::fs::read_to_string(&bench.state.find("a").unwrap().path).unwrap();
    let results: String = journal.split_inclusive('\n').filter(|line| line.starts_with("{\"job\"")).collect();
    assert_eq!(std::fs::read_to_string(bench.out()).unwrap(), results);
    assert_eq!(results.lines().count(), 2);
}

#[test]
fn after_a_crash_at_any_byte_of_the_output_resuming_completes_it() {
    let bench = Bench::new(OutputSpec::default());
    bench.sit(&Begin::Auto, &[], vec![ok(1), ok(2), ok(3)]).unwrap();
    let whole = std::fs::read(bench.out()).unwrap();
    for cut in 0..=whole.len() {
        std::fs::write(bench.out(), &whole[..cut]).unwrap();
        bench.sit(&Begin::Auto, &[], vec![]).unwrap();
        assert_eq!(std::fs::read(bench.out()).unwrap(), whole, "cut at {cut}");
    }
    std::fs::remove_file(bench.out()).unwrap();
    bench.sit(&Begin::Auto, &[], vec![ok(4)]).unwrap();
    assert_eq!(bench.seqs(), [1, 2, 3, 4], "a file that was removed is made again");
}

#[test]
fn lines_that_the_journal_has_lost_are_taken_out() {
    let bench = Bench::new(OutputSpec::default());
    bench.sit(&Begin::Auto, &[], vec![ok(1), ok(2)]).unwrap();
    let path = bench.state.find("a").unwrap().path;
    let journal = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, &journal[..journal.find("\"seq\":2").unwrap()]).unwrap();
    bench.sit(&Begin::Auto, &[], vec![]).unwrap();
    assert_eq!(bench.seqs(), [1]);
    bench.sit(&Begin::Auto, &[], vec![ok(2)]).unwrap();
    assert_eq!(bench.seqs(), [1, 2]);
}

#[test]
fn after_a_retry_each_task_stands_there_once_with_its_last_result() {
    let bench = Bench::new(OutputSpec::default());
    let failed = |seq: u64| result(seq, seq.into(), 0, Word::Failed);
    bench.sit(&Begin::Auto, &[], vec![failed(1), ok(2), failed(3)]).unwrap();
    bench.sit(&Begin::RetryFailed(None), &[], vec![ok(1)]).unwrap();
    assert_eq!(bench.seqs(), [2, 1], "task 3 is unfinished now");
    bench.sit(&Begin::Auto, &[], vec![failed(3)]).unwrap();
    assert_eq!(bench.seqs(), [2, 1, 3]);
}

#[test]
fn a_file_that_missed_a_retry_gets_the_last_results() {
    let mut bench = Bench::new(OutputSpec::default());
    bench.sit(&Begin::Auto, &[], vec![result(1, 1, 0, Word::Failed), ok(2)]).unwrap();
    bench.spec.file = Some(bench.dir.path().join("other"));
    bench.sit(&Begin::RetryFailed(None), &[], vec![ok(1)]).unwrap();
    bench.spec.file = Some(bench.out());
    bench.sit(&Begin::Auto, &[], vec![]).unwrap();
    assert_eq!(bench.seqs(), [2, 1]);
    assert!(!std::fs::read_to_string(bench.out()).unwrap().contains("failed"));
}

#[test]
fn who_waits_for_a_full_queue_is_let_go_when_it_closes() {
    let feed = Feed::default();
    let full = || crate::journal::Batch { bytes: vec![0; crate::journal::feed::QUEUE_BYTES], pieces: Vec::new() };
    feed.send(full());
    let (tell, told) = channel();
    let sender = feed.clone();
    let sending = std::thread::spawn(move || {
        sender.send(full());
        tell.send(()).unwrap();
    });
    assert!(told.recv_timeout(Duration::from_millis(30)).is_err(), "the queue is full");
    feed.close();
    told.recv().unwrap();
    sending.join().unwrap();
    feed.send(full());
    assert!(feed.take().is_empty());
}

#[test]
fn raw_bytes_and_chosen_fields_are_made_again_from_the_journal() {
    let bench = Bench::new(OutputSpec { emit: Emit::Raw, ..OutputSpec::default() });
    bench.sit(&Begin::Auto, &[], vec![raw(1, b"one\n"), raw(2, b"\xff\x00two")]).unwrap();
    assert_eq!(std::fs::read(bench.out()).unwrap(), b"one\n\xff\x00two");
    std::fs::write(bench.out(), "").unwrap();
    bench.sit(&Begin::Auto, &[], vec![raw(3, b"three\n")]).unwrap();
    assert_eq!(std::fs::read(bench.out()).unwrap(), b"one\n\xff\x00twothree\n");

    let only = OutputSpec { only: Some(Only::Failed), fields: vec!["seq".to_owned()], ..OutputSpec::default() };
    let bench = Bench::new(only);
    bench.sit(&Begin::Auto, &[], vec![ok(1), result(2, 2, 0, Word::Lost), result(3, 3, 0, Word::Cancelled)]).unwrap();
    assert_eq!(std::fs::read_to_string(bench.out()).unwrap(), "{\"seq\":2}\n");
    bench.sit(&Begin::Auto, &[], vec![result(3, 3, 0, Word::Timeout)]).unwrap();
    assert_eq!(bench.seqs(), [2, 3], "after a resume it is known by its inode, which the journal has");
    let left = std::fs::read_dir(bench.dir.path()).unwrap().count();
    assert_eq!(left, 2, "nothing is left beside the file and the state directory");
}

#[test]
fn a_file_that_is_not_this_jobs_is_refused_unless_fresh() {
    for content in ["something\n", "{\"job\":\"ffff\",\"seq\":1}\n", "{\"job\":\"ff"] {
        let bench = Bench::new(OutputSpec::default());
        std::fs::write(bench.out(), content).unwrap();
        let refused = bench.sit(&Begin::Auto, &[], vec![]).unwrap_err();
        assert_eq!(refused.kind(), RunErrorKind::Refused);
        let text = refused.to_string();
        assert!(text.contains("--resume") && text.contains("--fresh") && text.contains("out"), "{text}");
        assert_eq!(std::fs::read_to_string(bench.out()).unwrap(), content);
        bench.sit(&Begin::Fresh, &[], vec![ok(1)]).unwrap();
        assert_eq!(bench.seqs(), [1]);
        bench.sit(&Begin::Fresh, &[], vec![ok(2)]).unwrap();
        assert_eq!(bench.seqs(), [2]);
    }
}

#[test]
fn without_a_journal_an_existing_file_is_refused_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    std::fs::write(&path, "x").unwrap();
    let spec = OutputSpec { file: Some(path.clone()), ..OutputSpec::default() };
    assert!(matches!(Output::open(&spec, None, false, Hooks::default()), Err(JobError::ForeignOutput { .. })));
    let output = Output::open(&spec, None, true, Hooks::default()).unwrap();
    let journal = Journal::start("ab12", None, Durability::Off, Some(output.feed()), |_| {}).unwrap();
    journal.results(vec![ok(1)], Box::new(|done| done.unwrap()));
    journal.close(None).unwrap();
    assert_eq!(output.finish(None).unwrap(), 1);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("{\"job\":\"ab12\",\"seq\":1,"));
}

fn ordered() -> OutputSpec {
    OutputSpec { ordered_from: Some(1), ..OutputSpec::default() }
}

#[test]
fn ordered_output_comes_in_the_order_of_the_input() {
    let bench = Bench::new(ordered());
    bench.sit(&Begin::Auto, &[], vec![ok(3), ok(1), ok(5), ok(2), ok(4)]).unwrap();
    assert_eq!(bench.seqs(), [1, 2, 3, 4, 5]);
}

#[test]
fn a_resumed_ordered_job_fills_its_gaps_in_place() {
    let bench = Bench::new(ordered());
    bench.sit(&Begin::Auto, &[], vec![ok(4), ok(2)]).unwrap();
    assert_eq!(bench.seqs(), [2, 4], "a stopped run shows what it has");
    bench.sit(&Begin::Auto, &[(2, 2), (4, 4)], vec![ok(5), ok(3), ok(1)]).unwrap();
    assert_eq!(bench.seqs(), [1, 2, 3, 4, 5]);
    // This time the input lacks some records and the run stops early: nothing that is finished is
    // missing.
    bench.sit(&Begin::Auto, &[(1, 1), (2, 3)], vec![]).unwrap();
    let mut seqs = bench.seqs();
    assert_eq!(seqs[..2], [1, 3]);
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3, 4, 5]);
}

#[test]
fn the_lowest_unwritten_place_moves_over_skipped_and_cancelled_ones() {
    let bench = Bench::new(ordered());
    let mut job = bench.state.begin(&spec("a"), &Begin::Auto).unwrap();
    let (tell, told) = channel();
    let hooks = Hooks { advanced: Box::new(move |lowest| tell.send(lowest).unwrap()), ..Hooks::default() };
    let output = Output::open(&bench.spec, Some(&mut job), false, hooks).unwrap();
    let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), Some(output.feed()), |_| {}).unwrap();
    journal.results(vec![ok(2), result(3, 3, 0, Word::Cancelled)], Box::new(|done| done.unwrap()));
    journal.flush().unwrap();
    output.feed().put(Item::Skipped(vec![(1, None)]));
    assert_eq!(told.recv().unwrap(), 4);
    output.finish(None).unwrap();
    journal.close(None).unwrap();
    assert_eq!(bench.seqs(), [2]);
}

#[test]
fn failed_tasks_go_to_their_own_file_too() {
    let mut bench = Bench::new(OutputSpec::default());
    let failed = bench.dir.path().join("failed.jsonl");
    bench.spec.failed_out = Some(failed.clone());
    bench.sit(&Begin::Auto, &[], vec![ok(1), result(2, 2, 0, Word::Failed)]).unwrap();
    bench.sit(&Begin::Auto, &[], vec![result(3, 3, 0, Word::Killed)]).unwrap();
    let text = std::fs::read_to_string(failed).unwrap();
    assert_eq!(text.lines().count(), 2);
    assert!(text.contains("\"outcome\":\"failed\"") && text.contains("\"outcome\":\"killed\""));
    assert_eq!(bench.seqs(), [1, 2, 3]);
}

/// A named pipe, and its reading end.
fn fifo(dir: &Path) -> (PathBuf, File) {
    let path = dir.join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    // Opened for both, it does not wait for a writer.
    let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (path, reader)
}

fn big(seq: u64) -> ResultLine {
    ResultLine { value: Some(format!("\"{}\"", "x".repeat(100_000)).into()), ..ok(seq) }
}

#[test]
fn a_reader_that_stopped_reading_does_not_stop_the_journal() {
    let (dir, state) = state();
    let (path, mut reader) = fifo(dir.path());
    let spec_out = OutputSpec { file: Some(path), ..OutputSpec::default() };
    let mut job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let output = Output::open(&spec_out, Some(&mut job), false, Hooks::default()).unwrap();
    assert!(!output.is_file());
    let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), Some(output.feed()), |_| {}).unwrap();
    for seq in 1..=50 {
        journal.results(vec![big(seq)], Box::new(|done| done.unwrap()));
    }
    journal.flush().unwrap();
    assert_eq!(file::read(&state.find("a").unwrap().path).unwrap().index.finished(), 50);
    // The reader comes back, and gets everything.
    let reading = std::thread::spawn(move || {
        let mut got = 0;
        let mut buffer = vec![0; 1 << 16];
        while got < 50 {
            let read = reader.read(&mut buffer).unwrap();
            got += buffer[..read].iter().filter(|byte| **byte == b'\n').count();
        }
    });
    assert_eq!(output.finish(None).unwrap(), 50);
    reading.join().unwrap();
    journal.close(None).unwrap();
}

#[test]
fn finishing_does_not_wait_for_ever_for_a_reader() {
    let dir = tempfile::tempdir().unwrap();
    let (path, reader) = fifo(dir.path());
    let output = Output::open(&OutputSpec { file: Some(path), ..OutputSpec::default() }, None, false, Hooks::default()).unwrap();
    let journal = Journal::start("a", None, Durability::Off, Some(output.feed()), |_| {}).unwrap();
    journal.results(vec![big(1), big(2)], Box::new(|done| done.unwrap()));
    journal.flush().unwrap();
    assert_eq!(output.finish(Some(Duration::from_millis(30))), Err(OutputError::Stalled));
    journal.close(None).unwrap();
    drop(reader);
}

#[test]
fn a_reader_that_has_gone_is_told_apart_from_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (path, reader) = fifo(dir.path());
    let mut reader = Some(reader);
    for (path, full) in [(path, false), (PathBuf::from("/dev/full"), true)] {
        let (tell, told) = channel();
        let hooks = Hooks { failed: Box::new(move |error| tell.send(error.clone()).unwrap()), ..Hooks::default() };
        let spec = OutputSpec { file: Some(path), ..OutputSpec::default() };
        let output = Output::open(&spec, None, false, hooks).unwrap();
        drop(reader.take());
        let journal = Journal::start("a", None, Durability::Off, Some(output.feed()), |_| {}).unwrap();
        journal.results(vec![big(1), big(2)], Box::new(|done| done.unwrap()));
        let error = told.recv().unwrap();
        assert_eq!(error == OutputError::ReaderGone, !full, "{error}");
        if full {
            assert!(error.to_string().starts_with("output /dev/full: No space left on device ("), "{error}");
        }
        // What comes later is dropped and waits for nobody.
        journal.results((0..400).map(big).collect(), Box::new(|done| done.unwrap()));
        journal.close(None).unwrap();
        assert_eq!(output.finish(None), Err(error));
    }
}

#[test]
fn task_files_are_named_by_number() {
    let dir = tempfile::tempdir().unwrap();
    let save = save::SaveOutput::open(&dir.path().join("a/b")).unwrap();
    let said = |out: &[u8], err: &[u8]| Said {
        exit: Exit::Code(0),
        core_dumped: false,
        timed_out: false,
        stopped: false,
        stdout: out.into(),
        stderr: err.into(),
        stdout_cut: 0,
        stderr_cut: 0,
        stdout_rest: None,
        stderr_rest: None,
        unspilled: None,
        heard: None,
        usage: Default::default(),
        wall: Duration::ZERO,
    };
    save.save(7, &said(b"out", b"err")).unwrap();
    save.save(7, &said(b"again", b"")).unwrap();
    assert_eq!(std::fs::read(dir.path().join("a/b/7.out")).unwrap(), b"again");
    assert_eq!(std::fs::read(dir.path().join("a/b/7.err")).unwrap(), b"");
}
