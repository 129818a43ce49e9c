//! Connections: an address, limits, and an end that lets answers be finished.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{extract::Request, http::StatusCode};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use longshore_core::CancelToken;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinHandle,
};
use tokio_io_timeout::TimeoutStream;
use tower_service::Service;

use crate::{
    error::WebError,
    guard::{Guard, Peer, guard},
    options::{Access, SHORTEST_TOKEN, WebOptions},
    site::Site,
};

/// Most connections at once; fewer where the limit on open files is lower.
const MOST_CONNECTIONS: u64 = 10_240;
/// Files that are left for everything else.
const OTHER_FILES: u64 = 256;
/// Time for the head of a request, and between two requests of a connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// Time in which a client has to take something of its answer.
const TAKES_WITHIN: Duration = Duration::from_secs(30);
/// Longest head of a request, in bytes.
const LONGEST_HEAD: usize = 32 << 10;
/// Time for answers to end when the server stops.
const END_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a connection could not be taken.
const REST: Duration = Duration::from_millis(100);

/// A server that listens, and serves nothing yet.
#[derive(Debug)]
pub struct WebServer {
    listener: TcpListener,
    address: SocketAddr,
}

/// A site that is served.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    stop: CancelToken,
    done: JoinHandle<()>,
}

impl WebServer {
    /// Listens on an address: `127.0.0.1:7070`, `[::1]:0`, `localhost:7070`.
    ///
    /// # Errors
    /// The address cannot be read, is taken, or is open to others without an [`Access`]; or a token
    /// is too short.
    pub async fn bind(address: &str, options: &WebOptions) -> Result<Self, WebError> {
        let refused = |message: String| WebError::new(StatusCode::INTERNAL_SERVER_ERROR, message);
        let found: Vec<SocketAddr> = tokio::net::lookup_host(address)
            .await
            .map_err(|error| refused(format!("{address}: no address to listen on ({error}); write HOST:PORT, such as 127.0.0.1:7070")))?
            .collect();
        match &options.access {
            Access::Token(token) if !token.is_long() => {
                return Err(refused(format!("a token of less than {SHORTEST_TOKEN} characters can be guessed: take a longer one")));
            }
            Access::Basic { password, .. } if password.is_empty() => return Err(refused("the password is empty".to_owned())),
            Access::Proxy { from, .. } if from.is_empty() => {
                return Err(refused("no proxy is named whose word about users is taken: name its address".to_owned()));
            }
            _ => {}
        }
        let is_open = matches!(options.access, Access::Open);
        if let Some(other) = found.iter().find(|found| is_open && !found.ip().is_loopback()) {
            return Err(refused(format!(
                "{other} can be reached from other machines: it needs a token (--web-token), a user and password, or a proxy that asks for them; \
                 or listen on 127.0.0.1"
            )));
        }
        let listener = TcpListener::bind(&found[..]).await.map_err(|error| refused(format!("{address}: cannot listen there: {error}")))?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Returns the address with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a site until told to stop.
    #[must_use]
    pub fn serve(self, site: Site) -> Serving {
        let stop = site.stop.clone();
        // A site that is served twice tells of the first address.
        let _ = site.guard.address.set(self.address);
        let done = tokio::spawn(accept(self.listener, site));
        Serving { address: self.address, stop, done }
    }
}

impl Serving {
    /// Returns the address with its real port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more requests, lets answers end for five seconds, and returns.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the server stopping.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.done.await;
    }
}

/// Returns how many connections may be open at once.
fn most_connections() -> usize {
    let files = longshore_sys::files::raise_open_files(MOST_CONNECTIONS + OTHER_FILES);
    usize::try_from(MOST_CONNECTIONS.min(files.saturating_sub(OTHER_FILES)).max(16)).unwrap_or(usize::MAX)
}

async fn accept(listener: TcpListener, site: Site) {
    let connections = Arc::new(Semaphore::new(most_connections()));
    let open = GracefulShutdown::new();
    let stop = site.stop.clone();
    loop {
        let next = async {
            let place = connections.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            next = next => next,
            () = stop.cancelled() => break,
        };
        let Ok((stream, peer)) = accepted else {
            // The limit on open files, mostly: others have to end first.
            tokio::time::sleep(REST).await;
            continue;
        };
        let connection = serve(stream, peer, &site);
        let connection = open.watch(connection);
        tokio::spawn(async move {
            // Whoever goes away in the middle is no news.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let all_ended = async {
        open.shutdown().await;
        // An action whose client has gone is still to be noted.
        site.actions.ended().await;
    };
    let _ = tokio::time::timeout(END_WITHIN, all_ended).await;
    if let Some(ends) = site.ends {
        let _ = tokio::time::timeout(END_WITHIN, ends).await;
    }
}

type Served = hyper::server::conn::http1::Connection<
    TokioIo<Pin<Box<TimeoutStream<TcpStream>>>>,
    hyper_util::service::TowerToHyperService<PeerService>,
>;

fn serve(stream: TcpStream, peer: SocketAddr, site: &Site) -> Served {
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(TAKES_WITHIN));
    let service = PeerService { site: site.router.clone(), guard: site.guard.clone(), peer };
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LONGEST_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), hyper_util::service::TowerToHyperService::new(service))
}

/// A site, for the requests of one connection.
#[derive(Clone)]
struct PeerService {
    site: axum::Router,
    guard: Arc<Guard>,
    peer: SocketAddr,
}

impl Service<hyper::Request<hyper::body::Incoming>> for PeerService {
    type Response = axum::response::Response;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        Service::<Request>::poll_ready(&mut self.site, context)
    }

    fn call(&mut self, request: hyper::Request<hyper::body::Incoming>) -> Self::Future {
        let mut request: Request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(Peer(self.peer));
        let answer = guard(self.guard.clone(), self.site.clone(), request);
        Box::pin(async { Ok(answer.await) })
    }
}
