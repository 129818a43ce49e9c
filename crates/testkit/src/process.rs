//! The process of a real server, and its directory: ended when it is dropped and when this process
//! does, however that ends.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

/// A server's process, and a directory of its own that goes with it. It may end and be started
/// again there.
pub struct Process {
    child: Option<Child>,
    directory: PathBuf,
}

impl Process {
    /// Makes a directory; nothing runs yet.
    pub(crate) fn new(stem: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("longshore-{stem}-{}-{number}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory for the server");
        Self { child: None, directory }
    }

    /// Starts it; what it says goes to this file of its directory.
    pub(crate) fn start(&mut self, mut command: Command, log: &str) {
        let log = fs::File::options().create(true).append(true).open(self.directory.join(log)).expect("a log");
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("a log")).stdout(log);
        let child = command.spawn().expect("it starts");
        self.end_with_us(child.id());
        self.child = Some(child);
    }

    /// A shell holds the end of a pipe whose other end is ours.
    fn end_with_us(&self, id: u32) {
        let script = r#"read _; kill -9 "$1" 2>/dev/null; sleep 0.2; rm -rf "$2""#;
        let mut watch = Command::new("sh");
        watch.args(["-c", script, "sh", &id.to_string()]).arg(&self.directory);
        let watch = watch.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        if let Ok(mut watch) = watch {
            // The end of the pipe stays open as long as this thread waits, which is until the
            // server has ended or we have.
            thread::spawn(move || {
                while Path::new(&format!("/proc/{id}")).exists() {
                    thread::sleep(Duration::from_millis(200));
                }
                let _ = watch.kill();
                let _ = watch.wait();
            });
        }
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Tells whether it was started and has not ended.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.is_some() && self.ended().is_none()
    }

    /// Its process id.
    ///
    /// # Panics
    /// It does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Its directory: settings, data, logs.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it as an administrator would, and waits until it has.
    pub fn stop(&mut self) {
        if self.child.is_some() {
            self.signal("TERM");
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// It stays, and does nothing any more, until [`thaw`](Self::thaw).
    ///
    /// # Panics
    /// It does not run.
    pub fn freeze(&self) {
        self.signal("STOP");
        // On a busy machine a thread may go on until the signal reaches it, and answer a request.
        let begun = Instant::now();
        while !self.is_stopped() && begun.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Tells whether each of its threads is stopped.
    fn is_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else { return false };
        threads.flatten().all(|thread| {
            // The name stands in parentheses, and may hold any; the state is the letter behind it.
            let told = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            told.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('T'))
        })
    }

    /// It goes on.
    ///
    /// # Panics
    /// It does not run.
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([&format!("-{signal}"), &self.pid().to_string()]).status().expect("there is a kill command");
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
