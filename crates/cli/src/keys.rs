//! KeyPresses on the terminal while a run goes.

use std::{
    fs::File,
    io::Read,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use tokio::sync::mpsc;

/// Reads keys from the terminal; restores its mode when dropped.
pub struct KeyPresses {
    terminal: File,
    before: Termios,
    over: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl KeyPresses {
    /// Starts reading single keys from the controlling terminal, if there is one and we are in its
    /// foreground.
    pub fn start(send: mpsc::UnboundedSender<char>) -> Option<Self> {
        let terminal = File::options().read(true).write(true).open("/dev/tty").ok()?;
        if tcgetpgrp(&terminal).ok()? != rustix::process::getpgrp() {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut raw = before.clone();
        // Signals stay signals: Ctrl-C is no key of ours.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        // A tenth of a second: the reader looks around now and then, so that it ends with the run.
        raw.special_codes[SpecialCodeIndex::VTIME] = 1;
        // What was typed before was meant for somebody else: the shell, or nobody.
        tcsetattr(&terminal, OptionalActions::Flush, &raw).ok()?;
        let mut reader = File::from(terminal.as_fd().try_clone_to_owned().ok()?);
        let over = Arc::new(AtomicBool::new(false));
        let mut keys = Self { terminal, before, over: over.clone(), reader: None };
        let started = std::thread::Builder::new()
            .name("keys".to_owned())
            .spawn(move || {
                let mut byte = [0u8];
                loop {
                    match reader.read(&mut byte) {
                        _ if over.load(Ordering::Relaxed) => return,
                        Ok(0) if send.is_closed() => return,
                        Ok(0) => {}
                        Ok(_) if send.send(char::from(byte[0])).is_err() => return,
                        Ok(_) => {}
                        Err(_) => return,
                    }
                }
            })
            .ok()?;
        keys.reader = Some(started);
        Some(keys)
    }

    /// Restores the terminal's mode when nothing of it is read any more, which is soon.
    pub fn close(mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.reader.take().map(JoinHandle::join);
    }
}

impl Drop for KeyPresses {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
