//! A journal read piece by piece: what it tells of its job, in bounded memory, however long it is.
//!
//! A look reads on from where the last one stopped. No index of tasks is kept: a final result
//! counts, unless it is a failure that stands before the last line that says that failures are
//! tried again.

use std::{
    collections::HashSet,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use longshore_brokers::mask_text;
use longshore_core::watch::Counts;

use super::JobError;
use crate::{
    journal::{
        PastClock,
        file::Lines,
        format::{Header, Line, ReadUpTo, is_final, parse},
        past_end,
    },
    report::StoryView,
    story::Story,
};

/// Lines between two looks at the clock.
const LINES: u64 = 64;

/// Reads a journal that may grow, and remembers what it said.
#[derive(Debug)]
pub struct JobDigest {
    path: PathBuf,
    /// The file's device and inode: a job that is begun anew has another file.
    file: (u64, u64),
    /// Length of what was read, in whole lines.
    at: u64,
    /// Length of the file at the last look.
    len: u64,
    said: DigestState,
}

/// Words of a journal so far.
#[derive(Debug, Default)]
struct DigestState {
    lines: u64,
    header: Option<Header>,
    counts: Counts,
    /// Tasks that started and have not ended, by key and occurrence.
    started: HashSet<(u128, u32)>,
    /// Absent where nobody wants it: it takes most of the time and of the room.
    story: Option<Story>,
    clock: PastClock,
    sittings: u32,
    outputs: Vec<String>,
    read: ReadUpTo,
    /// Offset at which the last line stands that says that failures are tried again.
    retried_at: u64,
    broken: Option<JobError>,
}

impl JobDigest {
    /// Begins with nothing read.
    #[must_use]
    pub fn new(journal: &Path) -> Self {
        let said = DigestState { story: Some(Story::default()), ..DigestState::default() };
        Self { said, ..Self::without_story(journal) }
    }

    /// Begins with nothing read, and will have counts alone: [`story`](Self::story) stays empty.
    #[must_use]
    pub fn without_story(journal: &Path) -> Self {
        Self { path: journal.to_owned(), file: (0, 0), at: 0, len: 0, said: DigestState::default() }
    }

    /// Reads on, for about this long. Returns whether it has come to the end.
    ///
    /// # Errors
    /// The journal cannot be read, or a line in it is no line of a journal.
    pub fn read_on(&mut self, budget: Duration) -> Result<bool, JobError> {
        let since = Instant::now();
        let fail = |what, error: &std::io::Error| JobError::io(&self.path, what, error);
        let meta = self.path.metadata().map_err(|error| fail("cannot read", &error))?;
        let file = (meta.dev(), meta.ino());
        if file != self.file || meta.len() < self.at {
            let anew = if self.said.story.is_some() { Self::new } else { Self::without_story };
            *self = Self { file, ..anew(&self.path) };
        }
        self.len = meta.len();
        if let Some(broken) = &self.said.broken {
            return Err(broken.clone());
        }
        if self.at >= self.len {
            return Ok(true);
        }
        let mut lines = Lines::open(&self.path, self.at).map_err(|error| JobError::io(&self.path, "cannot open", &error))?;
        loop {
            let next = lines.next().map_err(|error| JobError::io(&self.path, "cannot read", &error))?;
            let Some((at, line)) = next else { return Ok(true) };
            self.at = at + line.len() as u64;
            if let Err(why) = self.said.take(at, line) {
                let broken = JobError::Broken { path: self.path.clone(), line: self.said.lines, why };
                self.said.broken = Some(broken.clone());
                return Err(broken);
            }
            if self.said.lines.is_multiple_of(LINES) && since.elapsed() >= budget {
                return Ok(false);
            }
        }
    }

    /// Returns the share of the journal that has been read, from 0 to 1.
    #[must_use]
    pub fn share(&self) -> f64 {
        if self.len == 0 { 1.0 } else { (self.at as f64 / self.len as f64).min(1.0) }
    }

    /// Returns the bytes that have been read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.at
    }

    /// Returns the offset before which no failure counts: they are tried again, or were.
    pub(super) fn retried_at(&self) -> u64 {
        self.said.retried_at
    }

    /// Returns finished tasks by outcome.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.said.counts
    }

    /// Returns the number of tasks that run, or ran when their run died.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.said.started.len() as u64
    }

    /// Returns the number of records of the input, once it was read to its end.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        Some(self.said.read).filter(|read| read.ended).map(|read| read.read)
    }

    /// Returns how many times it was begun or resumed.
    #[must_use]
    pub fn sittings(&self) -> u32 {
        self.said.sittings
    }

    /// Returns the files that it wrote its results to.
    #[must_use]
    pub fn outputs(&self) -> &[String] {
        &self.said.outputs
    }

    /// Returns how the job went over time, over all sittings.
    #[must_use]
    pub fn story(&self) -> StoryView {
        self.said.story.as_ref().map(Story::view).unwrap_or_default()
    }
}

impl DigestState {
    fn take(&mut self, at: u64, line: &[u8]) -> Result<(), String> {
        self.lines += 1;
        let parsed = parse(line)?;
        let Some(header) = &self.header else {
            let Line::Header(header) = parsed else { return Err("it is no header of a journal".to_owned()) };
            self.clock.begin(&header.started);
            if let Some(story) = &mut self.story {
                *story = Story::of(mask_text(&header.what));
            }
            (self.header, self.sittings) = (Some(*header), 1);
            return Ok(());
        };
        match parsed {
            Line::Header(_) => return Err("it is a second header".to_owned()),
            Line::Result(head) if *head.job != *header.job => return Err(format!("it belongs to job {}", head.job)),
            Line::Start(start) => drop(self.started.insert((start.key, start.nth))),
            Line::Result(head) => {
                self.started.remove(&(head.key, head.nth));
                if is_final(head.outcome) {
                    self.counts.add(head.outcome, 1);
                    if let Some(story) = &mut self.story {
                        story.add_past(&past_end(line, &head, &self.clock)?);
                    }
                }
            }
            Line::Sitting(sitting) => {
                self.clock.sit(&sitting);
                self.sittings = sitting.sitting;
                if sitting.retry {
                    let failures = self.counts.by_word().filter(|(word, _)| word.is_failure());
                    failures.for_each(|(word, count)| self.counts.take(word, count));
                    self.story.iter_mut().for_each(Story::forget_failures);
                    self.retried_at = at;
                }
            }
            Line::Output(output) if !self.outputs.contains(&output.output) => self.outputs.push(output.output),
            Line::Read(read) => drop(self.read.advance(read)),
            Line::Output(_) | Line::Taken(_) | Line::End(_) => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use longshore_core::Word;

    use super::*;
    use crate::{
        jobs::{StateDir, show},
        journal::{
            Begin, Durability, Journal, Start,
            tests::{result, spec, state},
        },
    };

    fn sitting(state: &StateDir, begin: &Begin, starts: &[u64], results: &[(u64, Word)]) {
        let job = state.begin(&spec("prices"), begin).unwrap();
        let journal = Journal::start(&job.header.job, Some(job.journal), Durability::default(), None, |_| {}).unwrap();
        let starts = starts.iter().map(|seq| Start { seq: *seq, key: u128::from(*seq), nth: 0, attempt: 1 });
        journal.starts(starts.collect(), Box::new(|done| done.unwrap()));
        let lines = results.iter().map(|(seq, word)| result(*seq, u128::from(*seq), 0, *word)).collect();
        journal.results(lines, Box::new(|done| done.unwrap()));
        journal.close(None).unwrap();
        drop(job.lock);
    }

    #[test]
    fn a_journal_that_is_read_in_pieces_says_the_same_as_one_that_is_read_as_a_whole() {
        let (_dir, state) = state();
        let mut digest = None;
        let (ok, failed) = (Word::Ok, Word::Failed);
        for (begin, starts, results) in [
            (Begin::Auto, &[1, 2, 3, 4][..], &[(1, ok), (2, failed), (3, failed)][..]),
            (Begin::Auto, &[4, 5], &[(4, Word::Cancelled)]),
            (Begin::RetryFailed(None), &[2, 3, 4, 5], &[(2, ok), (3, Word::Timeout), (4, failed)]),
            (Begin::RetryFailed(None), &[], &[]),
        ] {
            sitting(&state, &begin, starts, results);
            let details = show(&state, "prices").unwrap();
            let whole = |digest: &JobDigest| {
                assert_eq!(digest.counts().by_word().collect::<Vec<_>>(), details.row.counts.by_word().collect::<Vec<_>>());
                assert_eq!((digest.in_flight(), digest.sittings()), (details.row.in_flight, details.sittings));
                let failures: Vec<_> = digest.story().failures.into_iter().map(|kind| (kind.error, kind.count)).collect();
                assert_eq!(failures, details.failures);
            };
            // From its beginning, and on from where it stood.
            let mut fresh = JobDigest::new(Path::new(&details.journal));
            assert!(fresh.read_on(Duration::MAX).unwrap());
            whole(&fresh);
            let grown = digest.get_or_insert(fresh);
            assert!(grown.read_on(Duration::MAX).unwrap());
            whole(grown);
            assert!(grown.share() >= 1.0 && grown.bytes() > 0);
        }
    }

    #[test]
    fn a_torn_end_waits_for_its_rest_and_another_file_is_read_anew() {
        let (_dir, state) = state();
        sitting(&state, &Begin::Auto, &[1], &[(1, Word::Ok)]);
        let path = state.find("prices").unwrap().path;
        let whole = std::fs::read(&path).unwrap();
        let (most, rest) = whole.split_at(whole.len() - 9);
        std::fs::write(&path, most).unwrap();
        let mut digest = JobDigest::new(&path);
        assert!(digest.read_on(Duration::MAX).unwrap() && digest.share() < 1.0);
        assert_eq!((digest.counts().ok, digest.in_flight()), (0, 1));
        std::fs::write(&path, [most, rest].concat()).unwrap();
        assert!(digest.read_on(Duration::MAX).unwrap());
        assert_eq!((digest.counts().ok, digest.in_flight()), (1, 0));
        sitting(&state, &Begin::Fresh, &[], &[(1, Word::Failed), (2, Word::Failed)]);
        assert!(digest.read_on(Duration::MAX).unwrap());
        assert_eq!((digest.counts().ok, digest.counts().failures()), (0, 2));
        std::fs::write(&path, [&whole[..], b"nonsense\n"].concat()).unwrap();
        for _ in 0..2 {
            let error = digest.read_on(Duration::MAX).unwrap_err().to_string();
            assert!(error.contains("it is no line of a journal"), "{error}");
        }
    }
}
