//! The server of car prices: its latency is drawn for each car, and it counts its open requests.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{Path, State},
    routing::get,
};

/// What a car costs.
pub(crate) fn price_of(car: u64) -> u64 {
    9_000 + car * 7_919 % 30_000
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// The first request and the last reply.
    span: Mutex<Option<(Instant, Instant)>>,
}

/// A request that is open; it is closed also when its client goes away.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        let open = counts.open.fetch_add(1, Ordering::SeqCst) + 1;
        counts.most_open.fetch_max(open, Ordering::SeqCst);
        let now = Instant::now();
        counts.span.lock().expect("nothing panics while it holds this").get_or_insert((now, now));
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        if let Some((_, last)) = self.0.span.lock().expect("nothing panics while it holds this").as_mut() {
            *last = Instant::now();
        }
    }
}

/// A server on a port and a thread of its own.
pub(crate) struct Server {
    address: SocketAddr,
    counts: Arc<Counts>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    /// Starts it; it answers after 100 to 400 ms, times `scale`.
    pub(crate) fn start(seed: u64, scale: f64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        listener.set_nonblocking(true).expect("a socket of our own");
        let counts = Arc::new(Counts::default());
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let state = counts.clone();
        let thread = thread::spawn(move || {
            let price = move |State(counts): State<Arc<Counts>>, Path(car): Path<u64>| async move {
                let _open = Open::new(counts);
                let latency = fastrand::Rng::with_seed(seed ^ (car << 20)).f64() * 0.3 + 0.1;
                tokio::time::sleep(Duration::from_secs_f64(latency * scale)).await;
                price_of(car).to_string()
            };
            let app = Router::new().route("/price/{car}", get(price)).with_state(state);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime for the server");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listening socket");
                tokio::select! {
                    served = axum::serve(listener, app) => served.expect("the server serves"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, counts, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The most requests that were open at one time.
    pub(crate) fn most_open(&self) -> usize {
        self.counts.most_open.load(Ordering::SeqCst)
    }

    /// From the first request to the last reply.
    pub(crate) fn calls_took(&self) -> Duration {
        let span = *self.counts.span.lock().expect("nothing panics while it holds this");
        span.map(|(first, last)| last - first).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
