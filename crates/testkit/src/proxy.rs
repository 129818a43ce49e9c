//! A relay on the loopback that can lose what it carries: for tests of what a broken network does
//! to a client.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

/// What is to go wrong.
#[derive(Default)]
struct Faults {
    /// After so many more bytes of answers, on whatever connection, that connection is cut.
    cut_after: Option<usize>,
    /// The next answer, on whatever connection, is thrown away, and so is all that follows it
    /// there; the connection stays.
    swallow: bool,
    /// Number of connections that have been opened.
    opened: u64,
    /// Number of the first of them whose answers are thrown away.
    mute: u64,
    /// Nothing is carried in either direction, and nothing is cut.
    hold: bool,
    /// How many of these happened.
    happened: u32,
    /// How long each way takes.
    way: Duration,
}

struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
    ended: AtomicBool,
}

/// The relay. Ends when it is dropped; so do its connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Shared {
    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proxy {
    /// Relays to this port of the loopback.
    ///
    /// # Panics
    /// No port is free.
    pub fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared = Arc::new(Shared { faults: Mutex::default(), changed: Condvar::new(), ended: AtomicBool::new(false) });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if of_thread.ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(client), Ok(server)) = (client, TcpStream::connect((Ipv4Addr::LOCALHOST, to))) else { continue };
                let number = {
                    let mut faults = of_thread.faults();
                    faults.opened += 1;
                    faults.opened
                };
                relay(&of_thread, number, client, server);
            }
        });
        Self { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the connection that carries the last of so many more bytes of answers, behind that
    /// byte.
    pub fn cut_after(&self, bytes: usize) {
        self.shared.faults().cut_after = Some(bytes);
    }

    /// Throws the next answer away, and all that follows on that connection, which stays. (One
    /// answer alone is never missing from a connection.)
    pub fn swallow(&self) {
        self.shared.faults().swallow = true;
    }

    /// Throws away all further answers on each connection that is open now; they stay.
    pub fn swallow_all(&self) {
        let mut faults = self.shared.faults();
        faults.mute = faults.opened;
    }

    /// Carries nothing until it is told to go on; connections stay, as they do when a cable is
    /// pulled.
    pub fn hold(&self, hold: bool) {
        self.shared.faults().hold = hold;
        self.shared.changed.notify_all();
    }

    /// As if the server were far away: whatever is read at once takes so long, there and back again
    /// each.
    pub fn far(&self, way: Duration) {
        self.shared.faults().way = way;
    }

    /// How many connections were cut and answers thrown away.
    pub fn happened(&self) -> u32 {
        self.shared.faults().happened
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.hold(false);
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
    }
}

fn relay(shared: &Arc<Shared>, number: u64, client: TcpStream, server: TcpStream) {
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    let of_thread = Arc::clone(shared);
    thread::spawn(move || carry(&of_thread, client_too, server_too, None));
    let of_thread = Arc::clone(shared);
    thread::spawn(move || carry(&of_thread, server, client, Some(number)));
}

/// Carries one direction; of a server's answers it is told the number of their connection.
fn carry(shared: &Shared, mut from: TcpStream, mut to: TcpStream, answers_of: Option<u64>) {
    let mut buffer = vec![0; 64 << 10];
    let mut mute = false;
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut faults = shared.changed.wait_while(shared.faults(), |faults| faults.hold).unwrap_or_else(PoisonError::into_inner);
        if shared.ended.load(Ordering::Relaxed) {
            break;
        }
        let mut carried = count;
        let mut cut = false;
        if let Some(number) = answers_of {
            if !mute && std::mem::take(&mut faults.swallow) {
                faults.happened += 1;
                mute = true;
            }
            if mute || number <= faults.mute {
                continue;
            }
            match &mut faults.cut_after {
                Some(left) if *left <= count => {
                    (carried, cut) = (*left, true);
                    faults.cut_after = None;
                    faults.happened += 1;
                }
                Some(left) => *left -= count,
                None => {}
            }
        }
        let way = faults.way;
        drop(faults);
        thread::sleep(way);
        if to.write_all(&buffer[..carried]).is_err() || cut {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
