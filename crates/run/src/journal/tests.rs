//! Journals as runs use them: begun, written, torn, resumed.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc::channel,
    },
    time::{Duration, UNIX_EPOCH},
};

use longshore_core::Word;

use super::{
    format::{Encoder, is_final},
    info::JobState,
    writer::Then,
    *,
};
use crate::{RunErrorKind, journal::file::JournalFile};

pub(crate) fn spec(name: &str) -> JobSpec {
    JobSpec {
        name: (!name.is_empty()).then(|| name.to_owned()),
        what: "echo {}".to_owned(),
        template: "7e3a".to_owned(),
        key_rule: "content".to_owned(),
        ..JobSpec::default()
    }
}

pub(crate) fn state() -> (tempfile::TempDir, StateDir) {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(Some(&dir.path().join("state"))).unwrap();
    (dir, state)
}

pub(crate) fn start(seq: u64, key: u128, nth: u32, attempt: u32) -> Start {
    Start { seq, key, nth, attempt }
}

pub(crate) fn result(seq: u64, key: u128, nth: u32, outcome: Word) -> ResultLine {
    ResultLine {
        seq,
        key,
        nth,
        task: format!("\"task {key}\"").into(),
        outcome,
        attempts: 1,
        wait_ms: 0,
        run_ms: 1,
        started: Some(UNIX_EPOCH),
        slot: Some(0),
        shared: None,
        value: (outcome == Word::Ok).then(|| format!("{{\"double\":{}}}", key * 2).into()),
        error: (outcome != Word::Ok).then(|| Box::new(ErrorLine { kind: "exit".into(), code: Some(1), message: "no".into(), tail: None })),
        raw: None,
        rest: None,
    }
}

fn nothing() -> Then {
    Box::new(|done| done.unwrap())
}

fn end(complete: bool) -> End {
    End { end: format::now(), complete, exit: 0, counts: Default::default(), unfinished: 0 }
}

/// Runs what `feed` sends through a journal, and closes it.
fn write(job: OpenJob, feed: impl FnOnce(&Journal), last: Option<End>) {
    let id = job.header.job.clone();
    let journal = Journal::start(&id, Some(job.journal), Durability::default(), None, |error| panic!("{error}")).unwrap();
    feed(&journal);
    journal.close(last).unwrap();
    drop(job.lock);
}

#[test]
fn a_named_job_goes_on_where_it_stopped() {
    let (_dir, state) = state();
    let job = state.begin(&spec("prices"), &Begin::Auto).unwrap();
    assert!(!job.resumed);
    let id = job.header.job.clone();
    write(
        job,
        |journal| {
            journal.starts(vec![start(0, 1, 0, 1), start(1, 2, 0, 1), start(2, 1, 1, 4)], nothing());
            journal.results(vec![result(0, 1, 0, Word::Ok), result(1, 2, 0, Word::Failed)], nothing());
        },
        None,
    );
    let job = state.begin(&spec("prices"), &Begin::Auto).unwrap();
    assert_eq!((job.header.job.as_str(), job.resumed, job.sitting), (id.as_str(), true, 2));
    assert!(matches!(job.index.state_of(1, 0), TaskState::Finished { word: Word::Ok, .. }));
    assert!(matches!(job.index.state_of(2, 0), TaskState::Finished { word: Word::Failed, .. }));
    assert_eq!(job.index.state_of(1, 1), TaskState::InFlight { attempts: 4 });
    assert_eq!(job.index.state_of(3, 0), TaskState::New);
    drop(job);
    // A retry begun and then killed before it wrote anything has changed nothing; one that wrote
    // has.
    let retry = Begin::RetryFailed(Some("prices".to_owned()));
    assert_eq!(state.begin(&spec(""), &retry).unwrap().index.state_of(2, 0), TaskState::InFlight { attempts: 1 });
    assert_eq!(state.begin(&spec("prices"), &Begin::Auto).unwrap().index.failed(), 1);
    write(state.begin(&spec("prices"), &retry).unwrap(), |journal| journal.starts(vec![start(2, 1, 1, 5)], nothing()), None);
    let job = state.begin(&spec("prices"), &Begin::Auto).unwrap();
    assert_eq!((job.index.failed(), job.index.in_flight(), job.index.finished()), (0, 2, 1));
    assert!(job.retried);
    assert_eq!(job.sitting, 3, "sittings that wrote nothing do not count");
}

#[test]
fn a_finished_job_run_again_leaves_its_journal_as_it_was() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let path = job.journal.path().to_owned();
    write(job, |journal| journal.results(vec![result(0, 1, 0, Word::Ok)], nothing()), Some(end(true)));
    let before = std::fs::read(&path).unwrap();
    assert_eq!(state.find("a").unwrap().state, JobState::Finished);
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    assert_eq!(job.end.as_ref().map(|end| (end.complete, end.exit)), Some((true, 0)));
    write(job, |_| {}, Some(end(true)));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    // New records open it again.
    write(state.begin(&spec("a"), &Begin::Auto).unwrap(), |journal| journal.starts(vec![start(1, 2, 0, 1)], nothing()), None);
    assert_eq!(state.find("a").unwrap().state, JobState::Unfinished);
    assert!(state.begin(&spec("a"), &Begin::Auto).unwrap().end.is_none());
}

#[test]
fn an_unnamed_job_is_resumed_by_what_it_does_or_by_its_id() {
    let (_dir, state) = state();
    assert_eq!(state.begin(&spec(""), &Begin::Resume(None)).unwrap_err().kind(), RunErrorKind::Usage);
    let id = |spec: &JobSpec| state.begin(spec, &Begin::Auto).unwrap().header.job.clone();
    let (first, second) = (id(&spec("")), id(&JobSpec { template: "other".to_owned(), ..spec("") }));
    assert_ne!(first, second, "an unnamed command line run twice runs twice");
    assert_eq!(state.begin(&spec(""), &Begin::Resume(None)).unwrap().header.job, first);
    let changed = state.begin(&spec(""), &Begin::Resume(Some(second))).unwrap_err();
    assert_eq!(changed.kind(), RunErrorKind::Refused);
    assert!(changed.to_string().contains("--fresh"), "{changed}");
    let unknown = state.begin(&spec(""), &Begin::Resume(Some("nope".to_owned()))).unwrap_err();
    assert!(matches!(unknown, JobError::Unknown { .. }));
    let key = state.begin(&JobSpec { key_rule: "id".to_owned(), ..spec("") }, &Begin::Resume(Some(first))).unwrap_err();
    assert!(key.to_string().contains("--key"), "{key}");
}

#[test]
fn fresh_starts_a_named_job_over_under_the_same_id() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let id = job.header.job.clone();
    write(job, |journal| journal.results(vec![result(0, 1, 0, Word::Ok)], nothing()), Some(end(true)));
    let job = state.begin(&JobSpec { template: "other".to_owned(), ..spec("a") }, &Begin::Fresh).unwrap();
    assert_eq!((job.header.job.as_str(), job.resumed, job.index.finished()), (id.as_str(), false, 0));
    drop(job);
    assert_eq!(state.list().unwrap().len(), 1);
}

#[test]
fn two_runs_of_one_job_at_once_are_refused() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    for begin in [Begin::Auto, Begin::Fresh, Begin::Resume(None), Begin::RetryFailed(Some(job.header.job.clone()))] {
        let refused = state.begin(&spec("a"), &begin).unwrap_err();
        assert_eq!(refused.kind(), RunErrorKind::Busy);
        assert!(refused.to_string().contains(&format!("pid {}", std::process::id())), "{refused}");
    }
    assert_eq!(state.find("a").unwrap().state, JobState::Running(std::process::id()));
}

#[test]
fn names_and_the_modes_of_files_are_safe() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, state) = state();
    for bad in ["", "../a", "a/b", "-x", "a b", &"x".repeat(129)] {
        let spec = JobSpec { name: Some(bad.to_owned()), ..spec("") };
        assert!(matches!(state.begin(&spec, &Begin::Auto), Err(JobError::Name { .. })), "{bad}");
    }
    let job = state.begin(&spec("..A-z_9."), &Begin::Auto).unwrap();
    assert_eq!(state.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(state.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    drop(job);
    // A link in place of a journal is not followed.
    let elsewhere = state.path().join("elsewhere");
    std::fs::write(&elsewhere, "x").unwrap();
    std::os::unix::fs::symlink(&elsewhere, state.path().join("00ff.jsonl")).unwrap();
    assert!(state.begin(&spec(""), &Begin::Resume(Some("00ff".to_owned()))).is_err());
}

#[test]
fn only_old_finished_jobs_are_pruned() {
    let (_dir, state) = state();
    write(state.begin(&spec("done"), &Begin::Auto).unwrap(), |_| {}, Some(end(true)));
    write(state.begin(&spec("stopped"), &Begin::Auto).unwrap(), |_| {}, Some(end(false)));
    let hour = PruneRules { older_than: Some(Duration::from_secs(3_600)), ..PruneRules::default() };
    assert_eq!(state.prune(&hour).unwrap().jobs, Vec::<String>::new());
    let running = state.begin(&spec("running"), &Begin::Auto).unwrap();
    let pruned = state.prune(&PruneRules { keep: Some(0), max_size: Some(0), ..PruneRules::default() }).unwrap();
    assert_eq!(pruned.jobs.len(), 1);
    assert!(pruned.freed > 0 && pruned.left > 0, "{pruned:?}");
    running.discard();
    let left = state.list().unwrap();
    assert_eq!(left.iter().map(|job| job.header.name.as_deref()).collect::<Vec<_>>(), [Some("stopped")]);
}

#[test]
fn a_bad_line_in_the_middle_is_refused_by_file_and_line() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let path = job.journal.path().to_owned();
    write(job, |journal| journal.results((0..5).map(|key| result(0, key, 0, Word::Ok)).collect(), nothing()), None);
    let text = std::fs::read_to_string(&path).unwrap();
    for (line, bad) in [(3, "{\"job\":\"tor"), (2, "\0\0\0"), (4, ""), (6, "{\"longshore\":1}")] {
        let mut lines: Vec<&str> = text.lines().collect();
        lines[line - 1] = bad;
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
        let refused = state.begin(&spec("a"), &Begin::Auto).unwrap_err();
        assert_eq!(refused.kind(), RunErrorKind::Refused);
        assert!(refused.to_string().contains(&format!("{}:{line}: ", path.display())), "{refused}");
    }
}

/// The states after the whole lines of a prefix of a journal, worked out the slow way.
fn model(journal: &[u8]) -> BTreeMap<(u128, u32), (Option<Word>, u32)> {
    let mut tasks = BTreeMap::new();
    let whole = journal.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for line in std::str::from_utf8(&journal[..whole]).unwrap().lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = |name: &str| line[name].as_u64().unwrap_or(0) as u32;
        let key = line["key"].as_str().map(|key| u128::from_str_radix(key, 16).unwrap());
        if line.get("start").is_some() {
            tasks.insert((key.unwrap(), number("n")), (None, number("attempt")));
        } else if line.get("outcome").is_some() {
            let word = Word::parse(line["outcome"].as_str().unwrap()).filter(|word| is_final(*word));
            tasks.insert((key.unwrap(), number("n")), (word, number("attempts")));
        } else if line["retry"] == true {
            tasks.values_mut().for_each(|(word, _)| *word = word.filter(|word| !word.is_failure()));
        }
    }
    tasks
}

fn agrees(index: &Index, model: &BTreeMap<(u128, u32), (Option<Word>, u32)>) {
    for (&(key, nth), &(word, attempts)) in model {
        match (index.state_of(key, nth), word) {
            (TaskState::Finished { word: found, .. }, Some(word)) => assert_eq!(found, word),
            (TaskState::InFlight { attempts: found }, None) => assert_eq!(found, attempts),
            other => panic!("{key} {nth}: {other:?}"),
        }
    }
    assert_eq!(index.finished() + index.in_flight(), model.len() as u64);
}

/// Cuts a journal at this byte; the job must go on with the right state, or say clearly that there
/// is no job.
fn cut_and_resume(state: &StateDir, path: &Path, whole: &[u8], cut: usize) {
    std::fs::write(path, &whole[..cut]).unwrap();
    let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
    let header = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    match state.begin(&spec(""), &Begin::Resume(Some(id))) {
        Ok(job) => {
            assert!(cut >= header);
            agrees(&job.index, &model(&whole[..cut]));
            // What is written next stands on a line of its own.
            write(job, |journal| journal.results(vec![result(9, 99, 0, Word::Ok)], nothing()), None);
            let contents = file::read(path).unwrap();
            assert!(matches!(contents.index.state_of(99, 0), TaskState::Finished { .. }));
        }
        Err(refused) => {
            assert!(cut < header, "{refused}");
            assert!(refused.to_string().contains("no whole first line"), "{refused}");
        }
    }
}

#[test]
fn a_journal_torn_at_any_byte_is_resumed_with_the_state_of_its_whole_lines() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let path = job.journal.path().to_owned();
    write(
        job,
        |journal| {
            journal.starts((1..4).map(|key| start(key as u64, key, 0, 1)).collect(), nothing());
            journal.results(vec![result(1, 1, 0, Word::Ok), result(2, 2, 0, Word::Timeout)], nothing());
        },
        None,
    );
    let retry = state.begin(&spec("a"), &Begin::RetryFailed(None)).unwrap();
    write(retry, |journal| journal.starts(vec![start(2, 2, 0, 2)], nothing()), Some(end(false)));
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        cut_and_resume(&state, &path, &whole, cut);
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(48))]
    #[test]
    fn any_journal_cut_anywhere_has_the_states_of_a_naive_reader(
        steps in proptest::collection::vec((0_u128..5, 0_u32..2, 0_usize..10, 1_u32..4), 1..40),
        place in 0.0..1.0_f64,
    ) {
        let (_dir, state) = state();
        let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
        let path = job.journal.path().to_owned();
        let mut bytes = std::fs::read(&path).unwrap();
        let mut encoder = Encoder::new(&job.header.job);
        for (seq, (key, nth, what, attempt)) in steps.into_iter().enumerate() {
            match what {
                0 => encoder.start(&mut bytes, &start(seq as u64, key, nth, attempt)),
                1 => bytes.extend_from_slice(b"{\"sitting\":2,\"started\":\"x\",\"retry\":true}\n"),
                _ => {
                    let mut line = ResultLine { attempts: attempt, ..result(seq as u64, key, nth, Word::ALL[what - 2]) };
                    encoder.result(&mut bytes, &mut line);
                }
            }
        }
        drop(job);
        cut_and_resume(&state, &path, &bytes, (bytes.len() as f64 * place) as usize);
    }

    #[test]
    fn inserted_and_reordered_input_runs_only_what_is_not_finished(
        before in proptest::collection::vec(0_u128..6, 0..20),
        after in proptest::collection::vec(0_u128..6, 0..20),
    ) {
        let (_dir, state) = state();
        let mut seen = Occurrences::default();
        let lines = before.iter().map(|&key| result(0, key, seen.next(key), Word::Ok)).collect();
        write(state.begin(&spec("a"), &Begin::Auto).unwrap(), |journal| journal.results(lines, nothing()), None);
        let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
        let mut seen = Occurrences::default();
        let mut runs = [0_usize; 6];
        for &key in &after {
            if job.index.state_of(key, seen.next(key)) == TaskState::New {
                runs[key as usize] += 1;
            }
        }
        for key in 0..6 {
            let count = |list: &[u128]| list.iter().filter(|each| **each == key).count();
            proptest::prop_assert_eq!(runs[key as usize], count(&after).saturating_sub(count(&before)));
        }
    }
}

#[test]
fn every_durability_writes_before_it_lets_go_on() {
    for durability in [Durability::Each, Durability::Batch(Duration::from_millis(5))] {
        let (_dir, state) = state();
        let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
        let path = job.journal.path().to_owned();
        let journal = Journal::start(&job.header.job, Some(job.journal), durability, None, |error| panic!("{error}")).unwrap();
        let early = Arc::new(AtomicU32::new(0));
        for key in 0..200_u128 {
            let check = |needle: String| {
                let (path, early) = (path.clone(), early.clone());
                let then: Then = Box::new(move |done| {
                    done.unwrap();
                    if !std::fs::read_to_string(&path).unwrap().contains(&needle) {
                        early.fetch_add(1, Ordering::Relaxed);
                    }
                });
                then
            };
            journal.starts(vec![start(key as u64, key, 0, 1)], check(format!("{{\"start\":{key},")));
            journal.results(vec![result(key as u64, key, 0, Word::Ok)], check(format!("\"seq\":{key},")));
        }
        journal.flush().unwrap();
        assert_eq!(early.load(Ordering::Relaxed), 0);
        journal.close(None).unwrap();
        assert_eq!(file::read(&path).unwrap().index.counts().ok, 200);
    }
}

#[test]
fn without_a_journal_everything_goes_on_at_once() {
    let journal = Journal::start("a", None, Durability::Off, None, |_| {}).unwrap();
    let (done, told) = channel();
    journal.results(vec![result(0, 1, 0, Word::Ok)], Box::new(move |result| done.send(result.is_ok()).unwrap()));
    assert!(told.recv().unwrap());
    journal.close(None).unwrap();
}

/// A journal whose file is this one, for the sake of what that file does.
fn odd_journal(file: std::fs::File, path: &str) -> JournalFile {
    JournalFile { file, path: path.into(), len: 0, staged: Vec::new(), complete: false, read: format::ReadUpTo::default() }
}

#[test]
fn a_full_disk_is_final_and_names_file_and_free_bytes() {
    for durability in [Durability::Each, Durability::default()] {
        let full = OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let journal = {
            let told = told.clone();
            let on_failure = move |error: &JournalError| told.lock().unwrap().push(error.to_string());
            Journal::start("a", Some(odd_journal(full, "/dev/full")), durability, None, on_failure).unwrap()
        };
        let (done, answers) = channel();
        for key in 0..3 {
            let (starts, results) = (done.clone(), done.clone());
            journal.starts(vec![start(0, key, 0, 1)], Box::new(move |result| starts.send(result.is_err()).unwrap()));
            journal.results(vec![result(0, key, 0, Word::Ok)], Box::new(move |result| results.send(result.is_err()).unwrap()));
        }
        let error = journal.close(None).unwrap_err();
        drop(done);
        assert!(error.to_string().starts_with("journal /dev/full: No space left on device ("), "{error}");
        assert!(error.to_string().contains("bytes free)"), "{error}");
        assert_eq!(answers.iter().collect::<Vec<_>>(), [true; 6]);
        assert_eq!(told.lock().unwrap().len(), 1, "told once");
    }
}

#[test]
fn a_failed_sync_is_final_and_tells_even_when_nothing_waits() {
    // A pipe can be written but not synced.
    let (reader, pipe) = std::io::pipe().unwrap();
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(pipe));
    let (tell, told) = channel();
    let on_failure = move |error: &JournalError| tell.send(error.clone()).unwrap();
    let journal = Journal::start("a", Some(odd_journal(file, "pipe")), Durability::default(), None, on_failure).unwrap();
    let (done, answer) = channel();
    journal.results(vec![result(0, 1, 0, Word::Ok), result(0, 2, 0, Word::Ok)], Box::new(move |result| done.send(result).unwrap()));
    assert!(answer.recv().unwrap().is_ok(), "in batch mode a written result counts");
    let error = told.recv().unwrap();
    assert_eq!(error.unsynced, 2);
    assert!(error.to_string().contains("2 finished tasks since the last sync will run again"), "{error}");
    let (done, answer) = channel();
    journal.starts(vec![start(0, 3, 0, 1)], Box::new(move |result| done.send(result).unwrap()));
    assert!(answer.recv().unwrap().is_err());
    assert!(journal.close(None).is_err());
    drop(reader);
}

#[test]
fn what_a_failed_write_tore_is_cut_off() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let path = job.journal.path().to_owned();
    let header = std::fs::read(&path).unwrap();
    let mut journal = job.journal;
    // Opened for reading only, so that writing fails; the cut goes the same way and is reported.
    journal.file = std::fs::File::open(&path).unwrap();
    let journal = Journal::start("a", Some(journal), Durability::Each, None, |_| {}).unwrap();
    let (done, answer) = channel();
    journal.results(vec![result(0, 1, 0, Word::Ok)], Box::new(move |result| done.send(result).unwrap()));
    let error = answer.recv().unwrap().unwrap_err();
    assert!(error.uncut.is_some() && error.to_string().contains("could not be cut back"), "{error}");
    assert!(journal.close(None).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), header);
}

#[test]
fn a_failed_write_keeps_the_whole_turns_before_it() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    for durability in [Durability::Each, Durability::Batch(Duration::from_secs(60))] {
        let file = std::fs::File::from(memfd_create("journal", MemfdFlags::ALLOW_SEALING).unwrap());
        let seen = file.try_clone().unwrap();
        let journal = Journal::start("a", Some(odd_journal(file, "/memory")), durability, None, |_| {}).unwrap();
        let send = |key: u128| {
            let (done, answer) = channel();
            journal.results(vec![result(0, key, 0, Word::Ok)], Box::new(move |result| done.send(result).unwrap()));
            answer.recv().unwrap()
        };
        send(1).unwrap();
        send(2).unwrap();
        let whole = seen.metadata().unwrap().len();
        // From here on it cannot grow, as on a full disk.
        fcntl_add_seals(&seen, SealFlags::GROW).unwrap();
        let error = send(3).unwrap_err();
        assert_eq!((error.unsynced, error.uncut.as_deref()), (0, None), "{error}");
        assert_eq!(seen.metadata().unwrap().len(), whole);
        assert!(send(4).is_err() && journal.close(None).is_err());
        assert_eq!(seen.metadata().unwrap().len(), whole);
    }
}

#[test]
fn a_panicking_continuation_is_an_error_and_no_success() {
    for durability in [Durability::Off, Durability::default(), Durability::Each] {
        let (_dir, state) = state();
        let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
        let journal = Journal::start("a", Some(job.journal), durability, None, |_| {}).unwrap();
        journal.results(vec![result(0, 1, 0, Word::Ok)], Box::new(|_| panic!("a planted bug")));
        assert!(journal.flush().is_err());
        assert!(journal.close(None).unwrap_err().to_string().contains("bug"));
    }
}

#[test]
fn a_run_waits_for_the_guardian_of_a_dead_one() {
    let (_dir, state) = state();
    let job = state.begin(&spec("a"), &Begin::Auto).unwrap();
    let guardian = std::os::fd::AsFd::as_fd(&job.lock).try_clone_to_owned().unwrap();
    drop(job);
    let refused = state.begin_within(&spec("a"), &Begin::Auto, Duration::from_millis(30)).unwrap_err();
    assert!(matches!(refused, JobError::Guarded { .. }) && refused.kind() == RunErrorKind::Busy, "{refused}");
    assert_eq!(state.find("a").unwrap().state, JobState::Running(0));
    let soon = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        drop(guardian);
    });
    assert!(state.begin(&spec("a"), &Begin::Auto).unwrap().resumed);
    soon.join().unwrap();
}
