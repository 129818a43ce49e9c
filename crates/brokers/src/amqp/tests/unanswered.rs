//! A server that lives, and leaves something unanswered.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use longshore_core::ErrorKind;
use tokio::time::timeout;

use super::{
    outgoing,
    refusals::{Said, connect, said},
};

/// Methods that may go unanswered.
const CHANNEL_OPEN: [u8; 4] = [0, 20, 0, 10];
const QUEUE_DECLARE: [u8; 4] = [0, 50, 0, 10];

/// Shakes hands as a server does, and answers whoever sends all but one method, of the first
/// connections.
struct Forgetful {
    port: u16,
    connections: Arc<AtomicU32>,
}

impl Forgetful {
    fn start(forgets: [u8; 4], times: u32) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU32::new(0));
        let counted = connections.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let number = counted.fetch_add(1, Ordering::SeqCst);
                let forgets = (number < times).then_some(forgets);
                thread::spawn(move || serve(stream, forgets));
            }
        });
        Self { port, connections }
    }

    fn url(&self) -> String {
        format!("amqp://127.0.0.1:{}/?patience=0.2&heartbeat=60", self.port)
    }
}

fn write(stream: &mut TcpStream, channel: u16, method: &[u8]) -> io::Result<()> {
    let mut frame = vec![1];
    frame.extend_from_slice(&channel.to_be_bytes());
    frame.extend_from_slice(&u32::try_from(method.len()).unwrap().to_be_bytes());
    frame.extend_from_slice(method);
    frame.push(0xce);
    stream.write_all(&frame)
}

fn serve(mut stream: TcpStream, forgets: Option<[u8; 4]>) -> io::Result<()> {
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting)?;
    let start = [&[0, 10, 0, 10, 0, 9, 0, 0, 0, 0][..], b"\0\0\0\x05PLAIN", b"\0\0\0\x05en_US"].concat();
    write(&mut stream, 0, &start)?;
    let mut confirmed = 0_u64;
    loop {
        let mut head = [0; 7];
        stream.read_exact(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
        stream.read_exact(&mut payload)?;
        let channel = u16::from_be_bytes([head[1], head[2]]);
        if head[0] == 3 {
            // A message is whole.
            confirmed += 1;
            write(&mut stream, channel, &[&[0, 60, 0, 80][..], &confirmed.to_be_bytes(), &[0]].concat())?;
            continue;
        }
        let Some(method) = payload.first_chunk::<4>().filter(|_| head[0] == 1) else { continue };
        if forgets.as_ref() == Some(method) {
            continue;
        }
        let answer: &[u8] = match *method {
            // Tune: 10 channels, frames of 128 KiB, heartbeats as the client likes.
            [0, 10, 0, 11] => &[0, 10, 0, 30, 0, 10, 0, 2, 0, 0, 0, 0],
            [0, 10, 0, 40] => &[0, 10, 0, 41, 0],
            CHANNEL_OPEN => &[0, 20, 0, 11, 0, 0, 0, 0],
            [0, 20, 0, 40] => &[0, 20, 0, 41],
            [0, 40, 0, 10] => &[0, 40, 0, 11],
            QUEUE_DECLARE => &[0, 50, 0, 11, 1, b'q', 0, 0, 0, 0, 0, 0, 0, 0],
            [0, 50, 0, 20] => &[0, 50, 0, 21],
            [0, 85, 0, 10] => {
                confirmed = 0;
                &[0, 85, 0, 11]
            }
            _ => continue,
        };
        write(&mut stream, channel, answer)?;
    }
}

async fn publish(url: &str) -> (Vec<String>, Said) {
    let (connected, heard) = connect(url);
    let mut errors = Vec::new();
    loop {
        let message = [outgoing("q", "one", SystemTime::now(), false)];
        match timeout(Duration::from_secs(20), connected.broker.publish(&message)).await.expect("it ends") {
            Ok(()) => return (errors, heard),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Transient, "{}", error.message);
                errors.push(error.message);
                assert!(errors.len() < 9, "{errors:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_does_not_answer_what_it_is_asked_is_given_up_and_the_next_one_is_used() {
    let server = Forgetful::start(CHANNEL_OPEN, 1);
    let (errors, heard) = publish(&server.url()).await;
    assert_eq!(server.connections.load(Ordering::SeqCst), 2, "{errors:?}");
    said(&heard, &["it does not answer what it is asked, for 1 s; another connection is made"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_takes_connections_and_says_nothing_is_left_with_none_of_them() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let (ends, ended) = std::sync::mpsc::channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let ends = ends.clone();
            thread::spawn(move || {
                let _ = io::copy(&mut stream, &mut io::sink());
                let _ = ends.send(());
            });
        }
    });
    // Of two servers each has a third of the patience.
    let (connected, _) = connect(&format!("amqp://127.0.0.1:{port}/?patience=0.3&heartbeat=60;amqp://localhost:{port}/"));
    let error = connected.broker.publish(&[outgoing("q", "one", SystemTime::now(), false)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{}", error.message);
    for number in 0..2 {
        assert!(ended.recv_timeout(Duration::from_secs(20)).is_ok(), "{number} of them were ended: {}", error.message);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_does_not_answer_ends_as_transient_and_its_connection_is_kept() {
    let server = Forgetful::start(QUEUE_DECLARE, 1);
    let (connected, _) = connect(&server.url());
    let message = [outgoing("q", "one", SystemTime::now(), false)];
    let error = timeout(Duration::from_secs(20), connected.broker.publish(&message)).await.expect("it ends").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{}", error.message);
    assert!(error.message.contains("it does not answer what it is asked"), "{}", error.message);
    let _ = connected.broker.ping().await.unwrap();
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}
